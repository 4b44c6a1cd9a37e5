"""How good a network is on a split, by name: what a file may be asked to keep."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.inputs import arranged, values
from ectorch.experiments.own import check_known, found, is_own, told
from ectorch.experiments.split import Split
from ectorch.posttrain.divergence import divergence

_BATCH = 100

Quality = Callable[[nn.Module], float]
QUALITIES = ("error", "perplexity", "kl", "cosine")
"""In percent; exp of the mean cross-entropy; nats from the float network; cosine to it."""


def find_quality(name: str, model: nn.Module, split: Split) -> Quality:
    """A quality of `QUALITIES`, of which more is better (so the first three are negative), or a
    user's own function of a network, ``package.module:function``.

    Args:
        model: the float network, which the last two compare with.

    Raises:
        RecipeError: when it is unknown, or no function.
    """
    check_known("quality", name, QUALITIES)
    if is_own(name):
        return partial(_own, name, found("quality", name))
    if name == "error":
        return lambda network: -evaluate(network, split).error_percent
    if name == "perplexity":
        nats = math.log(2) / len(split)
        return lambda network: -math.exp(evaluate(network, split).label_bits * nats)
    references = _outputs(copy.deepcopy(model), split)
    between = divergence(name).between

    def near(network: nn.Module) -> float:
        apart = -float(between(_outputs(network, split), references).double().mean())
        return apart + 1 if name == "cosine" else apart

    return near


def is_least(name: str) -> bool:
    """Whether a limit of that quality is the least that it may be, rather than the most."""
    return name == "cosine" or is_own(name)


def _own(name: str, function: Callable[[nn.Module], Any], network: nn.Module) -> float:
    with told(f"quality: {name}"):
        return float(function(network))


@torch.no_grad()
def _outputs(model: nn.Module, split: Split) -> Tensor:
    starts = range(0, len(split), _BATCH)
    batches = (split.inputs[start : start + _BATCH] for start in starts)
    return torch.cat([model(arranged(model, values(batch))) for batch in batches])
