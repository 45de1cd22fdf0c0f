"""`python -m linmem` is the `linmem` command."""

from .cli import main

main()
