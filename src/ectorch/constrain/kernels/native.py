"""The kernels of a grid in C++, for the CPU: the numbers of `plain`, each in one pass.

A tensor's memory is read in its own order, so weights are dense: contiguous, or channels last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ectorch.constrain.kernels import plain
from ectorch.constrain.kernels.grid import known_log_gap_range, multiples
from ectorch.constrain.kernels.layout import beside, dense

try:
    from ectorch.constrain.kernels import _compiled  # type: ignore[attr-defined, unused-ignore]

    compiled: Any = _compiled
except ImportError:
    compiled = None

_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2}


def serves(weight: Tensor) -> bool:
    """Whether the kernels know this tensor."""
    return compiled is not None and weight.dtype in _KINDS and weight.device.type == "cpu"


def round_to_grid(
    weight: Tensor,
    log_gaps: Tensor,
    levels: int,
    noise: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """See `plain.round_to_grid`."""
    dtype = weight.dtype if dtype is None else dtype
    if dtype not in (weight.dtype, torch.bfloat16):
        return round_to_grid(weight, log_gaps, levels, noise).to(dtype)
    weight = dense(weight)
    out = torch.empty_like(weight, dtype=dtype)
    noise = None if noise is None else beside(weight, noise)
    compiled.round(
        *_grid(weight, log_gaps, levels),
        _address(noise),
        out.data_ptr(),
        _KINDS[dtype],
        torch.get_num_threads(),
    )
    return out


def by_step(
    grad: Tensor, weight: Tensor, log_gaps: Tensor, levels: int, noise: Tensor | None = None
) -> Tensor:
    """See `plain.by_step`."""
    # in the order of the dimensions, as `plain` sums: a sum in another order is another one
    parts = plain.pieces(weight.contiguous())
    noises = (None,) * len(parts) if noise is None else plain.pieces(noise.contiguous())
    gap, step = _gap_and_step(log_gaps, levels)
    grid = _KINDS[weight.dtype], step, *multiples(levels)
    moved = torch.empty_like(parts[0])
    dots = []
    for part, by, some in zip(parts, plain.pieces(grad), noises, strict=True):
        out = moved[: len(part)]
        compiled.move(part.data_ptr(), len(part), *grid, _address(some), out.data_ptr())
        dots.append(torch.dot(by, out))
    total = dots[0] if len(dots) == 1 else torch.stack(dots).sum()
    low, high = known_log_gap_range(log_gaps.dtype, levels)
    factor = gap if low <= log_gaps.item() <= high else 0.0
    return ((total / step).to(log_gaps.dtype) * factor).reshape(1)


moments, moments_backward = plain.moments, plain.moments_backward


def counts(
    weights: Sequence[Tensor], log_gaps: Sequence[Tensor], levels: Sequence[int]
) -> list[Tensor]:
    """See `plain.counts`."""
    found = []
    for weight, gaps, many in zip(weights, log_gaps, levels, strict=True):
        weight, out = dense(weight), torch.empty(many, dtype=torch.float64)
        compiled.count(*_grid(weight, gaps, many), out.data_ptr(), torch.get_num_threads())
        found.append(out)
    return found


def charge_backward(
    grad: Tensor,
    weights: Sequence[Tensor],
    log_gaps: Sequence[Tensor],
    levels: Sequence[int],
    lengths: Sequence[Tensor],
    scales: Sequence[float],
) -> list[Tensor]:
    """See `plain.charge_backward`."""
    found, by, threads = [], grad.item(), torch.get_num_threads()
    for weight, gaps, many, bits, scale in zip(
        weights, log_gaps, levels, lengths, scales, strict=True
    ):
        weight, bits = dense(weight), bits.float().contiguous()
        out = torch.empty_like(weight)
        compiled.charge(
            *_grid(weight, gaps, many), bits.data_ptr(), by * scale, out.data_ptr(), threads
        )
        found.append(out)
    return found


def _grid(weight: Tensor, log_gaps: Tensor, levels: int) -> tuple[Any, ...]:
    """What every kernel is called with first; ``weight`` is dense and alive meanwhile."""
    _, step = _gap_and_step(log_gaps, levels)
    return weight.data_ptr(), weight.numel(), _KINDS[weight.dtype], step, *multiples(levels)


def _gap_and_step(log_gaps: Tensor, levels: int) -> tuple[float, float]:
    """`gap_of` and `step_of`, by as few operations as it takes."""
    log_gaps = log_gaps.detach()
    low, high = known_log_gap_range(log_gaps.dtype, levels)
    if not low <= log_gaps.item() <= high:
        log_gaps = log_gaps.clamp(low, high)
    gap = log_gaps.exp().item()
    return gap, compiled.to_bfloat16(gap)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
