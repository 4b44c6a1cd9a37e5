"""Which kernels serve a tensor, and whether its memory can be handed to them."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.constrain.kernels import cuda, native, plain

_PLAIN_TYPES = (Tensor, nn.Parameter)


def kernels_for(weight: Tensor) -> ModuleType:
    """The fastest kernels that serve a tensor; `plain` serves all."""
    for kernels in (native, cuda):
        if kernels.serves(weight):
            return kernels
    return plain


def is_eager(weight: Tensor, log_gaps: Tensor) -> bool:
    """Whether memory can be handed to a kernel as it stands; torch.func's is with the callers."""
    if type(weight) not in _PLAIN_TYPES or type(log_gaps) not in _PLAIN_TYPES:
        return False
    return not torch.compiler.is_compiling()


def grouped(name: str, *rows: Sequence[Any], first: tuple[Any, ...] = ()) -> list[Tensor]:
    """A kernel of many parameters, called once for all that the same kernels serve."""
    by_kernels: dict[ModuleType, list[int]] = {}
    for at, weight in enumerate(rows[0]):
        by_kernels.setdefault(kernels_for(weight), []).append(at)
    if len(by_kernels) == 1:
        (kernels,) = by_kernels
        found: list[Tensor] = getattr(kernels, name)(*first, *rows)
        return found
    filled: dict[int, Tensor] = {}
    for kernels, places in by_kernels.items():
        some = ([row[at] for at in places] for row in rows)
        filled |= dict(zip(places, getattr(kernels, name)(*first, *some), strict=True))
    return [filled[at] for at in range(len(rows[0]))]
