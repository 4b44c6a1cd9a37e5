"""Training toward a file of a given size: room at the start, control, a fit at the end."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ectorch.constrain.config import Config
from ectorch.errors import ConfigError, RecipeError
from ectorch.experiments.recipe import Recipe
from ectorch.size.control import SizeControl
from ectorch.size.fit import fit_size
from ectorch.size.measure import SizeMeter
from ectorch.size.targets import asked_bytes, check_reachable, size_range
from ectorch.workflow import prepare

_OBSERVATIONS = 200  # of the size, in a training
_LEAST_STEPS = 4  # from one to the next
_LAG_STEPS = 25  # that weights take to answer a new alpha
_LEAST_LAG, _MOST_LAG = 0.06, 0.16  # of a training
_FINER = 1.5
_GROWTH = 2.5  # of the file from a coarse start, by itself, while alpha is low


class SizeTarget:
    """What a recipe with a target adds to its training.

    Attributes:
        size_bytes: of the file, at most.
        control: finds alpha.

    Args:
        model: plain.
        steps: of the constrained stage.

    Raises:
        RecipeError: when no file of the network can have that size: which sizes there are.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, meter: SizeMeter, steps: int) -> None:
        self.size_bytes = target_bytes(recipe, model)
        self._recipe, self._float_bytes = recipe, asked_bytes(model, target_ratio=1.0)
        prepared = prepare(copy.deepcopy(model), recipe.constrain.make_config())
        self._least, most = size_range(prepared, meter.finalize)
        self._check(most)
        self._meter = meter
        stage = recipe.constrain
        self._steps = steps
        lag = min(max(_LEAST_LAG, _LAG_STEPS / max(steps, 1)), _MOST_LAG)
        self.control = SizeControl(
            self.size_bytes, stage.alpha, stage.rise, stage.peak, stage.fall, lag
        )

    def with_room(self, model: nn.Module, config: Config) -> Config:
        """``config`` with a grid so fine that the file of the plain ``model`` starts above target.

        Its own grid is kept where the file will grow above target from there: of weights that start
        far from zero too many stay. On grids that weights keep any file may grow.

        Raises:
            RecipeError: when that file is below the target on the finest grid.
        """

        def at(reach: float) -> nn.Module:
            return prepare(copy.deepcopy(model), replace(config, reach=reach))

        finest = (config.levels - 1) / 2
        start = SizeMeter(self._meter.finalize)(at(finest)).total
        if not config.keep_grid:
            self._check(start)
        reach = min(config.reach, finest)
        if SizeMeter(self._meter.finalize)(at(reach)).total < self.size_bytes / _GROWTH:
            while SizeMeter(self._meter.finalize)(at(reach)).total < min(self.size_bytes, start):
                reach = min(reach * _FINER, finest)
        return replace(config, reach=reach)

    def _check(self, most: int) -> None:
        try:
            check_reachable(self.size_bytes, self._least, most)
        except ConfigError as error:
            raise RecipeError(f"{self._asked(most)}: {error}") from error

    def _asked(self, most: int) -> str:
        """The target as the recipe has it, and what it may be for a file of ``most`` bytes."""
        (key,) = self._recipe.targets()
        smallest, largest = self._least.total / self._float_bytes, most / self._float_bytes
        ranges = {
            "target_ratio": (1 / largest, 1 / smallest),
            "target_bits_per_weight": (32 * smallest, 32 * largest),
        }
        asked = f"{key} = {getattr(self._recipe, key):,}"
        if key in ranges:
            lowest, highest = ranges[key]
            asked += f": expected {lowest:,.3f} to {highest:,.3f}"
        return asked

    def alpha(self, model: nn.Module, step: int) -> float:
        """Alpha of a step, after a look at the size where one is due."""
        progress = step / self._steps
        if step % max(_LEAST_STEPS, self._steps // _OBSERVATIONS) == 0:
            self.control.observe(progress, self._meter(model).total)
        return self.control.alpha_at(progress)

    def freeze(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        finalize: Callable[[nn.Module], nn.Module],
    ) -> None:
        """Freeze the symbols of the prepared ``model`` so that its finalized file has its size."""
        fit_size(model, self.size_bytes, optimizer, finalize, self._meter)


def target_bytes(recipe: Recipe, model: nn.Module) -> int:
    """The size that ``recipe`` asks for in one way or another; 0 if it asks for none."""
    targets = recipe.target_bytes, recipe.target_ratio, recipe.target_bits_per_weight
    try:
        return asked_bytes(model, *targets)
    except OverflowError:  # more than any file
        return sys.maxsize
