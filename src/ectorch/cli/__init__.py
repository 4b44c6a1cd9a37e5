"""The command line: ``ectorch train | sweep | report | compress | inspect | ...``."""

from ectorch.cli.app import app, main

__all__ = ["app", "main"]
