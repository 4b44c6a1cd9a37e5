"""Sizes that are asked for: in bytes, as a ratio or in bits a weight, and which can be had."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn

from ectorch import workflow
from ectorch.constrain.modules import constrained_parameters
from ectorch.errors import ConfigError
from ectorch.size.measure import FileSize, SizeMeter
from ectorch.storage.discrete import discrete_state_dict
from ectorch.storage.state import plain_names
from ectorch.workflow import emptied

_MOST_NAMED = 3
_ZEROS_BYTES = 32  # a tensor of one value takes fewer


def asked_bytes(
    model: nn.Module,
    target_bytes: float | None = None,
    target_ratio: float | None = None,
    target_bits_per_weight: float | None = None,
) -> int:
    """The size in bytes that a target means for ``model``; 0 for none."""
    numbers = sum(tensor.numel() for tensor in discrete_state_dict(model).values())
    if target_ratio is not None:
        return int(4 * numbers / target_ratio)
    if target_bits_per_weight is not None:
        return int(target_bits_per_weight * numbers / 8)
    return int(target_bytes or 0)


def size_range(
    model: nn.Module, finalize: Callable[..., nn.Module] = workflow.finalize
) -> tuple[FileSize, int]:
    """The files that a prepared network can have: of zeros, and of every level as frequent.

    Args:
        finalize: what will be done to it before it is saved.

    Returns:
        the smallest file, floats and what is frozen as they are now, and bytes of the largest.
    """
    others = sum(tensor.nbytes for tensor in discrete_state_dict(model).values())
    symbols = 0.0
    for handle in constrained_parameters(model):
        if handle.relaxation is not None:
            others -= handle.parameter.nbytes
            if not handle.is_held:
                symbols += handle.parameter.numel() * math.log2(handle.config.levels) / 8
    zeros = SizeMeter(finalize)(emptied(model))
    most = zeros.total + int(symbols) + max(others - sum(zeros.tensors.values()), 0)
    kept = {}
    if frozen := frozen_names(model):  # which would be dead, and gone, if all else were zeros
        now = SizeMeter(finalize)(model).tensors
        kept = {name: now[name] for name in frozen if name in now}
    more = sum(size - zeros.tensors.get(name, 0) for name, size in kept.items())
    return FileSize(zeros.total + more, zeros.tensors | kept), most + more


def frozen_names(model: nn.Module) -> list[str]:
    """Of parameters whose symbols their user has frozen, under the names of the plain network."""
    names = {module: f"{name}." if name else "" for name, module in model.named_modules()}
    frozen = [
        names[handle.module] + handle.name
        for handle in constrained_parameters(model)
        if handle.relaxation is not None and handle.is_held
    ]
    return [*plain_names(model, dict.fromkeys(frozen)).values()]


def check_reachable(
    target_bytes: int, least: FileSize, most: int, frozen: Sequence[str] = ()
) -> None:
    """Refuse a size that no file of a network can have.

    Raises:
        ConfigError: what sizes can be had, and which tensors, float or ``frozen``, take the room.
    """
    if least.total <= target_bytes <= most:
        return
    floats = {
        name: size
        for name, size in least.tensors.items()
        if size > _ZEROS_BYTES and name not in frozen
    }
    why = ""
    if target_bytes < least.total and floats:
        largest = sorted(floats, key=lambda name: -floats[name])[:_MOST_NAMED]
        why = (
            f"; {sum(floats.values()):,} of them are floats, "
            f"{', '.join(f'{name} ({floats[name]:,})' for name in largest)} above all: "
            'Config(include=...) constrains them, Config(bias="grid") biases'
        )
    raise ConfigError(
        f"a file of {target_bytes:,} bytes cannot be had: the network takes from {least.total:,} "
        f"(all zeros) to {most:,} (all levels){why}{said_of_frozen(frozen)}"
    )


def said_of_frozen(names: Sequence[str]) -> str:
    if not names:
        return ""
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    return f"; {names[0]}{more} is frozen and stays as it is: requires_grad_(True) lets it move"
