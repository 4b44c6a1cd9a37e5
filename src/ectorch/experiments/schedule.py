"""The optimizer of a stage, its learning rate at each step, and the order of its examples."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ectorch.experiments.recipe import ConstrainStage, Stage
from ectorch.workflow import param_groups


def make_optimizer(model: nn.Module, stage: Stage) -> torch.optim.Optimizer:
    special = stage.rates() if isinstance(stage, ConstrainStage) else {}
    groups = param_groups(model, stage.lr, stage.weight_decay, **special)
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
    return torch.optim.Adam(groups)


def make_schedule(optimizer: torch.optim.Optimizer, stage: Stage, steps: int) -> LambdaLR:
    """A linear rise over ``stage.warmup``, times a cosine from 1 to 0 over all ``steps``."""

    def share(step: int) -> float:
        progress = step / max(steps, 1)
        rise = min(progress / stage.warmup, 1.0) if stage.warmup else 1.0
        return rise * (1 + math.cos(math.pi * progress)) / 2

    return LambdaLR(optimizer, share)


class Order:
    """The shuffled examples of each epoch, the same whenever they are asked for.

    Args:
        seed: of the recipe.
        count: of examples.
    """

    def __init__(self, seed: int, count: int) -> None:
        self._seed, self._count = seed, count
        self._last: tuple[tuple[int, int], Tensor] | None = None

    def batch(self, stage: int, epoch: int, batch: int, size: int) -> Tensor:
        """(size,) indices of the examples of one step, int64."""
        if self._last is None or self._last[0] != (stage, epoch):
            key = (self._seed, stage, epoch)
            seed = int(np.random.SeedSequence(key).generate_state(1)[0])
            generator = torch.Generator().manual_seed(seed)
            self._last = (stage, epoch), torch.randperm(self._count, generator=generator)
        return self._last[1][batch * size : (batch + 1) * size]
