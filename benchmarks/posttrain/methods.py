"""What makes a network small without training it: `METHODS` by name.

Each takes a trained network, which it changes, the bytes that its file may have, and a seed, and
returns the network to be saved.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

from torch import nn

import ectorch as ec
from ectorch.errors import MismatchError
from ectorch.storage.files import save
from posttrain.trained import BATCH, Trained

Method: TypeAlias = Callable[[Trained, int, int], nn.Module]
_LEVELS = 255
_EXAMPLES = 512
_STARTS, _STEPS = (0.05, 64.0), 9  # of the reach, by halving its logarithm


def with_data(trained: Trained, target_bytes: int, seed: int, **how: Any) -> nn.Module:
    """`ectorch.quantize` with the calibration inputs."""
    examples = how.pop("examples", _EXAMPLES)
    batches = list(trained.calibration[: examples // BATCH])
    given = {"target_bytes": target_bytes, "divergence": trained.divergence}
    ec.quantize(trained.model, batches, **given, **how)
    return trained.model


def data_free(trained: Trained, target_bytes: int, seed: int) -> nn.Module:
    """`ectorch.quantize` without any data."""
    ec.quantize(trained.model, target_bytes=target_bytes)
    return trained.model


def nearest(trained: Trained, target_bytes: int, seed: int) -> nn.Module:
    """Each weight to the nearest of a grid a tensor: `ectorch.prepare` and `ectorch.finalize`.

    One setting for all tensors, ``Config.reach``, is searched for the size.

    Raises:
        MismatchError: where no file is that small.
    """
    (coarse, fine), found = _STARTS, None
    for _ in range(_STEPS):
        reach = (fine * coarse) ** 0.5
        config = ec.Config(levels=_LEVELS, reach=reach)
        network = ec.finalize(ec.prepare(copy.deepcopy(trained.model), config))
        if len(save(network)) <= target_bytes:
            coarse, found = reach, network
        else:
            fine = reach
    if found is None:
        raise MismatchError(f"{trained.name}: nearest gives no file of {target_bytes:,} bytes")
    return found


METHODS: dict[str, Method] = {
    "nearest": nearest,
    "data-free": data_free,
    "measured": partial(with_data, feedback=False),
    "measured, biases": partial(with_data, feedback=False, correct_biases=True),
    "feedback": with_data,
    "feedback, biases": partial(with_data, correct_biases=True),
    "feedback, 128": partial(with_data, examples=128),
    "feedback, 1024": partial(with_data, examples=1024),
}
"""A rung of the ladder each; with 512 examples where nothing else is said."""
