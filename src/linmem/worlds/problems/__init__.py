"""Classic problems, written anew from their published definitions."""
