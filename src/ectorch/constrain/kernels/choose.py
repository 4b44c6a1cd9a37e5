"""Which kernels serve a tensor, and whether its memory can be handed to them."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.constrain.kernels import cuda, native, plain

_PLAIN_TYPES = (Tensor, nn.Parameter)


def kernels_for(weight: Tensor, log_gaps: Tensor) -> ModuleType:
    """The fastest kernels that serve a parameter; `plain` serves all.

    The others read and write memory by its address, and take both tensors to be of one kind.
    """
    if log_gaps.dtype == weight.dtype and log_gaps.device == weight.device:
        for kernels in (native, cuda):
            if kernels.serves(weight):
                return kernels
    return plain


def is_eager(weight: Tensor, log_gaps: Tensor) -> bool:
    """Whether memory can be handed to a kernel as it stands; torch.func's is with the callers."""
    if type(weight) not in _PLAIN_TYPES or type(log_gaps) not in _PLAIN_TYPES:
        return False
    return not torch.compiler.is_compiling()


def check(
    weight: Tensor,
    log_gaps: Tensor,
    levels: int,
    beside: Sequence[Tensor | None] = (),
    noise: Tensor | None = None,
    lengths: Tensor | None = None,
) -> None:
    """Refuse arguments of an operator whose memory a kernel would leave.

    Args:
        beside: of the weight's shape.

    Raises:
        ValueError: which argument, and what was expected.
    """
    for name, tensor in (("noise", noise), *(("gradient", each) for each in beside)):
        if tensor is not None and tensor.shape != weight.shape:
            raise ValueError(f"{name}: {[*tensor.shape]}, the weight has {[*weight.shape]}")
    if noise is not None and noise.dtype != torch.int16:
        raise ValueError(f"noise: {noise.dtype}, expected torch.int16")
    if log_gaps.numel() != 1 or levels < 2:
        raise ValueError(
            f"{log_gaps.numel()} log gaps, {levels} levels: expected 1, and 2 at least"
        )
    if lengths is not None and lengths.shape != (levels,):
        raise ValueError(f"lengths: {[*lengths.shape]}, expected [{levels}]")


def grouped(name: str, *rows: Sequence[Any], first: tuple[Any, ...] = ()) -> list[Tensor]:
    """A kernel of many parameters, called once for all that the same kernels serve.

    Args:
        rows: weights, log gaps and so on, one of each for each parameter.
        first: what the kernel takes before them.
    """
    by_kernels: dict[ModuleType, list[int]] = {}
    for at, pair in enumerate(zip(rows[0], rows[1], strict=True)):
        by_kernels.setdefault(kernels_for(*pair), []).append(at)
    if len(by_kernels) == 1:
        (kernels,) = by_kernels
        found: list[Tensor] = getattr(kernels, name)(*first, *rows)
        return found
    filled: dict[int, Tensor] = {}
    for kernels, places in by_kernels.items():
        some = ([row[at] for at in places] for row in rows)
        filled |= dict(zip(places, getattr(kernels, name)(*first, *some), strict=True))
    return [filled[at] for at in range(len(rows[0]))]
