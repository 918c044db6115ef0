"""`python -m cli` is `tagmill`."""

from cli.main import main

main()
