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
    return weight.dtype in _KINDS and weight.device.type == "cpu" and compiled is not None


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
    kind = _KINDS[weight.dtype]
    gap, step, inside = _gap_and_step(log_gaps, levels)
    grid = kind, step, *multiples(levels)
    # in the order of the dimensions, as `plain` sums: a sum in another order is another one
    weight, noise = weight.contiguous(), None if noise is None else noise.contiguous()
    size, at = weight.numel(), weight.data_ptr()
    moved = weight.new_empty(min(size, plain.PIECE))
    dots = []
    for start, by in zip(range(0, max(size, 1), plain.PIECE), plain.pieces(grad), strict=True):
        some = 0 if noise is None else noise.data_ptr() + start * noise.itemsize
        part = at + start * weight.itemsize
        compiled.move(part, len(by), *grid, some, moved.data_ptr())
        dots.append(torch.dot(by, moved if len(by) == len(moved) else moved[: len(by)]))
    total = plain.summed(dots)
    found = torch.empty_like(log_gaps)
    compiled.to_log_gap(total.data_ptr(), kind, step, gap * inside, found.data_ptr())
    return found


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


def isotonic(counts: Tensor, zero: int) -> Tensor | None:
    """(rows, levels) counts that fall away from ``zero``; None where they are not served."""
    if not serves(counts) or counts.dtype != torch.float64:
        return None
    counts = counts.contiguous()
    out = torch.empty_like(counts)
    compiled.isotonic(counts.data_ptr(), *counts.shape, zero, out.data_ptr())
    return out


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
    _, step, _ = _gap_and_step(log_gaps, levels)
    return weight.data_ptr(), weight.numel(), _KINDS[weight.dtype], step, *multiples(levels)


def _gap_and_step(log_gaps: Tensor, levels: int) -> tuple[float, float, bool]:
    """`gap_of`, `step_of` and whether log gaps are in range, by as few operations as it takes."""
    low, high = known_log_gap_range(log_gaps.dtype, levels)
    inside = low <= log_gaps.item() <= high
    gap: float = (log_gaps if inside else log_gaps.clamp(low, high)).exp().item()
    return gap, compiled.to_bfloat16(gap), inside


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
