"""Sizes that are asked for: in bytes, as a ratio or in bits a weight, and which can be had."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from typing import Any

from torch import nn

from ectorch import finalizing
from ectorch.arguments import check_module, check_number, check_real
from ectorch.errors import ConfigError
from ectorch.finalizing import emptied
from ectorch.size.control import SizeControl
from ectorch.size.measure import FileSize, SizeMeter
from ectorch.storage.discrete import discrete_state_dict
from ectorch.storage.state import plain_names
from ectorch.workflow import constrained_parameters, stays

_MOST_NAMED = 3
_SETTINGS = [field.name for field in fields(SizeControl)[1:] if field.init]
_ZEROS_BYTES = 32  # a tensor of one value takes fewer


def size_control(
    model: nn.Module,
    target_bytes: float | None = None,
    target_ratio: float | None = None,
    target_bits_per_weight: float | None = None,
    **settings: float,
) -> SizeControl:
    """A `SizeControl` that brings the file of a prepared ``model`` to a size; give one target.

    Args:
        target_bytes: of the whole file.
        target_ratio: the same, as float bytes over bytes of the file.
        target_bits_per_weight: the same, as bits of the file over parameters.
        settings: of `SizeControl`: ``alpha`` to start with, ``over``, ``peak``, ``release``.

    Raises:
        ConfigError: when a setting is unknown, not one target is given, or it is not positive, or
            ``model`` is no module; or no file of it can have that size: what sizes can be had, and
            which tensors take the room. What stays float, or is frozen by
            ``requires_grad_(False)``, counts as it is now, and as `ectorch.finalize` leaves it.

    >>> from ectorch.workflow import prepare
    >>> size_control(prepare(nn.Linear(500, 300)), target_ratio=100).target_bytes
    6012
    """
    targets = {
        "target_bytes": target_bytes,
        "target_ratio": target_ratio,
        "target_bits_per_weight": target_bits_per_weight,
    }
    check_module("size_control", model)
    _check_settings(settings, targets)
    given = [name for name, value in targets.items() if value is not None]
    if len(given) != 1:
        raise ConfigError(f"{' and '.join(given) or 'no target'}: give one of {', '.join(targets)}")
    (name,) = given
    check_real(name, targets[name])
    check_number(name, targets[name], above=True)
    asked = asked_bytes(model, **targets)
    check_reachable(asked, *size_range(model), frozen=frozen_names(model))
    return SizeControl(asked, **settings)


def _check_settings(settings: Mapping[str, Any], targets: Mapping[str, Any]) -> None:
    unknown = [name for name in settings if name not in _SETTINGS]
    if unknown:
        known = [*targets, *_SETTINGS]
        near = get_close_matches(unknown[0], known, 1)
        hint = f"do you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"size_control: unknown {', '.join(unknown)}; {hint}known: {', '.join(known)}"
        )


def asked_bytes(
    model: nn.Module,
    target_bytes: float | None = None,
    target_ratio: float | None = None,
    target_bits_per_weight: float | None = None,
) -> int:
    """The size in bytes that a target of `size_control` means for ``model``; 0 for none."""
    numbers = sum(tensor.numel() for tensor in discrete_state_dict(model).values())
    if target_ratio is not None:
        return int(4 * numbers / target_ratio)
    if target_bits_per_weight is not None:
        return int(target_bits_per_weight * numbers / 8)
    return int(target_bytes or 0)


def size_range(
    model: nn.Module, finalize: Callable[..., nn.Module] = finalizing.finalize
) -> tuple[FileSize, int]:
    """The files that a prepared network can have: of zeros, and of every level as frequent.

    Args:
        finalize: what will be done to it before it is saved.

    Returns:
        the smallest file, floats and what is frozen as they are now, and bytes of the largest.
    """
    others = sum(tensor.nbytes for tensor in discrete_state_dict(model).values())
    symbols = 0.0
    for module, name, constraint in constrained_parameters(model):
        weight = module._parameters[name]
        assert weight is not None
        if constraint.relaxation is not None:
            others -= weight.nbytes
            if not stays(module, name):
                symbols += weight.numel() * math.log2(constraint.levels) / 8
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
        names[module] + name
        for module, name, constraint in constrained_parameters(model)
        if constraint.relaxation is not None and stays(module, name)
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
