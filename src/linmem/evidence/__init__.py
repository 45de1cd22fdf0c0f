"""Commands that measure and reproduce: `linmem bench X`, `linmem reproduce X`."""
