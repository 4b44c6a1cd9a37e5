"""Continuous relaxations: one file each, one small protocol."""

from ectorch.constrain.relaxation.base import Relaxation, Variables
from ectorch.constrain.relaxation.bracket import Bracket
from ectorch.constrain.relaxation.categorical import Categorical
from ectorch.constrain.relaxation.hard import Hard

__all__ = ["Bracket", "Categorical", "Hard", "Relaxation", "Variables"]
