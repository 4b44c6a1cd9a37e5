"""``python -m ectorch``: the command line."""

from ectorch.cli import main

main()
