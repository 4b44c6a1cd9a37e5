"""Continuous relaxations: one file each, one small protocol."""

from ectorch.relaxation.base import Relaxation, Variables
from ectorch.relaxation.bracket import Bracket

__all__ = ["Bracket", "Relaxation", "Variables"]
