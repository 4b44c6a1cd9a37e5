"""Memory as kernels read it: in its own order, without gaps, and on their device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

_LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def dense(weight: Tensor) -> Tensor:
    """``weight``, contiguous or channels last; else a copy that is."""
    if weight.is_contiguous():
        return weight
    layout = _LAYOUTS.get(weight.ndim)
    if layout is not None and weight.is_contiguous(memory_format=layout):
        return weight
    return weight.contiguous()


def beside(weight: Tensor, other: Tensor) -> Tensor:
    """``other``, of the shape of the dense ``weight``, in the order of its memory."""
    if other.stride() == weight.stride():
        return other
    return torch.empty_like(weight, dtype=other.dtype).copy_(other)


@lru_cache(maxsize=64)
def constants(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    """(n,) float64, brought to a device once, so that a CUDA graph finds them there."""
    return torch.tensor(numbers, dtype=torch.float64).to(device, non_blocking=True)
