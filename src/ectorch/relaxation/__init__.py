"""Continuous relaxations: one file each, one small protocol."""

from ectorch.relaxation.base import Relaxation, Variables
from ectorch.relaxation.bracket import Bracket
from ectorch.relaxation.categorical import Categorical
from ectorch.relaxation.hard import Hard

__all__ = ["Bracket", "Categorical", "Hard", "Relaxation", "Variables"]
