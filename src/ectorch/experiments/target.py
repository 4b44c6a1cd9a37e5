"""Training toward a file of a given size: room at the start, control, a fit at the end."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from ectorch.config import Config
from ectorch.control import SizeControl
from ectorch.errors import RecipeError
from ectorch.experiments.recipe import Recipe
from ectorch.fit import fit_size
from ectorch.network import prepare
from ectorch.storage import SizeMeter, save

_OBSERVATIONS = 200  # of the size, in a training
_LEAST_STEPS = 4  # from one to the next
_LAG_STEPS = 25  # that weights take to answer a new alpha
_LEAST_LAG, _MOST_LAG = 0.06, 0.16  # of a training
_FINER = 1.5
_LEAST_SHARE = 0.99  # of the target that a file takes
_FITS = 6


class SizeTarget:
    """What a recipe with a target adds to its training.

    Attributes:
        bytes: of the file, at most.
        control: finds alpha.

    Args:
        steps: of the constrained stage.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, meter: SizeMeter, steps: int) -> None:
        self.bytes = target_bytes(recipe, model)
        self._meter = meter
        stage = recipe.constrain
        self._steps = steps
        lag = min(max(_LEAST_LAG, _LAG_STEPS / max(steps, 1)), _MOST_LAG)
        self.control = SizeControl(
            self.bytes, stage.alpha, stage.ramp, stage.peak, stage.release, lag
        )

    def with_room(self, model: nn.Module, config: Config) -> Config:
        """``config`` with a grid so fine that the file of the plain ``model`` starts above target.

        On grids that weights keep it may start below: more of them may come to take any level.

        Raises:
            RecipeError: when no file of the network has that size: which sizes there are.
        """

        def start_bytes(reach: float) -> int:
            trial = prepare(copy.deepcopy(model), replace(config, reach=reach))
            return SizeMeter()(trial).total

        zeros = {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}
        finest = (config.levels - 1) / 2
        least, start = len(save(zeros)), start_bytes(finest)
        numbers = sum(tensor.numel() for tensor in zeros.values())
        all_levels = int(numbers * math.log2(config.levels) / 8)
        most = max(start, all_levels) if config.keep_grid else start
        if not least <= self.bytes <= most:
            raise RecipeError(
                f"a file of {self.bytes:,} bytes cannot be had: the network takes from {least:,} "
                f"(all zeros) to {most:,} ({config.levels} levels)"
            )
        reach = min(config.reach, finest)
        while start_bytes(reach) < min(self.bytes, start):
            reach = min(reach * _FINER, finest)
        return replace(config, reach=reach)

    def alpha(self, model: nn.Module, step: int) -> float:
        """Alpha of a step, after a look at the size where one is due."""
        progress = step / self._steps
        if step % max(_LEAST_STEPS, self._steps // _OBSERVATIONS) == 0:
            self.control.observe(progress, self._meter(model).total)
        return self.control.alpha_at(progress)

    def fit(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        finalize: Callable[[nn.Module], nn.Module],
    ) -> None:
        """Freeze the symbols of the prepared ``model`` so that its finalized file has its size.

        Warns where too few weights may move for that, as in a network that has died.
        """

        def written() -> int:
            return SizeMeter(finalize)(model).total  # a new one searches, as `save` does

        if self._is_met(written()):
            return
        states = optimizer.state if optimizer is not None else {}
        importance = {p: s["exp_avg_sq"] for p, s in states.items() if "exp_avg_sq" in s}
        aim = self.bytes
        for _ in range(_FITS):
            fit_size(model, aim, importance, lambda network: self._meter(network).total)
            size = written()
            if self._is_met(size):
                return
            # what is measured is a little off what is written
            aim += int((1 + _LEAST_SHARE) / 2 * self.bytes) - size
        warnings.warn(
            f"the file takes {size:,} bytes, {self.bytes:,} were asked for: too few weights are "
            "left that may move; where the network died (see its error), lower constrain.alpha, "
            "or give constrain.warmup, ramp or epochs more",
            RuntimeWarning,
            stacklevel=2,
        )

    def _is_met(self, size_bytes: int) -> bool:
        return _LEAST_SHARE * self.bytes <= size_bytes <= self.bytes


def target_bytes(recipe: Recipe, model: nn.Module) -> int:
    """The size that ``recipe`` asks for in one way or another; 0 if it asks for none."""
    numbers = sum(tensor.numel() for tensor in model.state_dict().values())
    if recipe.target_ratio is not None:
        return int(4 * numbers / recipe.target_ratio)
    if recipe.target_bits_per_weight is not None:
        return int(recipe.target_bits_per_weight * numbers / 8)
    return int(recipe.target_size or 0)
