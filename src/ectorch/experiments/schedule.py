"""The optimizer of a stage, its learning rate at each step, and the order of its examples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ectorch.experiments.device import CPU, Device
from ectorch.experiments.recipe import ConstrainStage, Stage
from ectorch.workflow import param_groups


def make_optimizer(model: nn.Module, stage: Stage, device: Device = CPU) -> torch.optim.Optimizer:
    """The optimizer of a stage; on CUDA one kernel updates all parameters."""
    fused = True if device.kind == "cuda" else None
    special = stage.rates() if isinstance(stage, ConstrainStage) else {}
    groups = param_groups(model, stage.lr, stage.weight_decay, **special)
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9, nesterov=True, fused=fused)
    return torch.optim.Adam(groups, fused=fused)


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load a state dict that may be of another device, where another kernel updates."""
    groups = [
        theirs | {"fused": own["fused"]}
        for own, theirs in zip(optimizer.param_groups, saved["param_groups"], strict=True)
    ]
    optimizer.load_state_dict(saved | {"param_groups": groups})


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
        place: where the indices go; they are drawn on the CPU, so that a run that changes devices
            amid an epoch still sees every example once.
    """

    def __init__(self, seed: int, count: int, place: torch.device = CPU.place) -> None:
        self._seed, self._count, self._place = seed, count, place
        self._last: tuple[tuple[int, int], Tensor] | None = None

    def batch(self, stage: int, epoch: int, batch: int, size: int) -> Tensor:
        """(size,) indices of the examples of one step, int64."""
        if self._last is None or self._last[0] != (stage, epoch):
            key = (self._seed, stage, epoch)
            seed = int(np.random.SeedSequence(key).generate_state(1)[0])
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(self._count, generator=generator)
            self._last = (stage, epoch), order.to(self._place)
        return self._last[1][batch * size : (batch + 1) * size]
