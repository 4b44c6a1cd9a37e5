"""The codebook: sorted values with an exact zero that cannot move, and where they start.

A codebook is trained through the logarithms of the gaps between neighbours, counted from zero
outward: values stay sorted, zero stays zero, and a learning rate acts in relative units. A uniform
grid has one gap, its step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

CodebookKind = Literal["grid", "kmeans", "quantile"]

_KMEANS_ROUNDS = 25
_MIN_GAP = 1e-8


def zero_index(levels: int) -> int:
    """Index of the value 0: the middle, the lower one of the two for an even number of levels."""
    return (levels - 1) // 2


@dataclass(frozen=True)
class Codebook:
    """Values that a weight may take: ``levels`` of them, ascending.

    Attributes:
        step: () the gap of a uniform grid, rounded to bfloat16 (straight through) so that a file
            spends two bytes on it and multiples are exact; None for a codebook of free values.
        free_values: (levels,) of a codebook without a step.
    """

    levels: int
    step: Tensor | None = None
    free_values: Tensor | None = None

    @classmethod
    def from_log_gaps(cls, log_gaps: Tensor, levels: int) -> Codebook:
        """Build from (1,) log step of a grid, or (levels - 1,) log gaps in ascending order.

        Differentiable: values carry the gradient to ``log_gaps``.
        """
        if log_gaps.numel() == 1:
            apply: Callable[[Tensor], Tensor] = _RoundedExp.apply
            return cls(levels, step=apply(log_gaps))
        zero, gaps = zero_index(levels), log_gaps.exp()
        # values stay distinct: a gap is never lost in the rounding of its sum
        gaps = torch.maximum(gaps, 2 * torch.finfo(gaps.dtype).eps * gaps.detach().sum())
        below = -gaps[:zero].flip(0).cumsum(0).flip(0)
        values = torch.cat([below, gaps.new_zeros(1), gaps[zero:].cumsum(0)])
        return cls(levels, free_values=values)

    @property
    def zero(self) -> int:
        """Index of the value that is exactly +0.0."""
        return zero_index(self.levels)

    @property
    def values(self) -> Tensor:
        """(levels,) ascending."""
        if self.step is None:
            assert self.free_values is not None
            return self.free_values
        low, high = self.multiples
        dtype, device = self.step.dtype, self.step.device
        return torch.arange(low, high + 1, dtype=dtype, device=device) * self.step

    @property
    def gaps(self) -> Tensor:
        """(levels - 1,) from each value to the next; () of a grid."""
        return self.values.diff() if self.step is None else self.step

    @property
    def multiples(self) -> tuple[int, int]:
        """The first and the last level of a grid, in steps."""
        return -self.zero, self.levels - 1 - self.zero

    def interval(self, weight: Tensor) -> Tensor:
        """How many levels are at most as large as each weight: int32 in ``[0, levels]``."""
        weight = weight.detach()
        if self.step is None:
            values = self.values.detach()
            return torch.bucketize(weight.contiguous(), values, right=True, out_int32=True)
        return (weight / self.step.detach()).add_(self.zero + 1).clamp_(0, self.levels).int()

    def locate(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The bracket of each weight, ``values[lower] <= weight <= values[lower + 1]``.

        Args:
            weight: any shape.

        Returns:
            lower: int32 in ``[0, levels - 2]``, and fraction in [0, 1], both of weight's shape.
            Weights out of range are at the near end of the first or last bracket. Detached.
        """
        weight = weight.detach()
        if self.step is not None:
            low, high = self.multiples
            position = (weight / self.step.detach()).clamp_(low, high)
            lower = position.floor().clamp_(max=high - 1)
            return lower.int().add_(self.zero), position.sub_(lower)
        lower = self.interval(weight).sub_(1).clamp_(0, self.levels - 2)
        values = self.values.detach()
        start, end = values[lower], values[lower + 1]
        return lower, ((weight - start) / (end - start)).clamp_(0, 1)

    def quantize(self, weight: Tensor) -> Tensor:
        """Nearest level of each weight, int64.

        Halfway goes to the even multiple of a step as in `torch.round`, else to the lower value.
        """
        if self.step is not None:
            position = weight.detach() / self.step.detach()
            return position.round_().clamp_(*self.multiples).long().add_(self.zero)
        lower, fraction = self.locate(weight)
        return lower.long() + (fraction > 0.5)

    def dequantize(self, symbols: Tensor) -> Tensor:
        """Values of integer ``symbols``; differentiable with respect to the codebook."""
        if self.step is not None:
            return (symbols - self.zero).to(self.step.dtype) * self.step
        return self.values[symbols]


class _RoundedExp(torch.autograd.Function):
    """``exp``, rounded to bfloat16, with the gradient of ``exp``: (1,) to ()."""

    @staticmethod
    def forward(log_step: Tensor) -> Tensor:
        return log_step.exp().squeeze(0).bfloat16().to(log_step.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (log_step,) = ctx.saved_tensors
        return grad * log_step.exp()


def initial_log_gaps(
    kind: CodebookKind,
    weight: Tensor,
    levels: int,
    reach: float = math.inf,
    keep_grid: bool = False,
) -> Tensor:
    """Log gaps of a codebook that suits ``weight``, for `Codebook.from_log_gaps`.

    Args:
        weight: any shape, floating point.
        levels: number of values, zero included; at least 2.
        reach: steps of a grid from zero to the weight farthest from it, at most to its last level.
        keep_grid: where the weights lie on a grid already that has room here, take its step.

    Returns:
        (1,) for "grid"; (levels - 1,) for "kmeans" (Lloyd's algorithm with the zero pinned) and
        "quantile" (equally many weights on every level of a sign).
    """
    flat = weight.detach().reshape(-1)
    flat = flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat
    zero = zero_index(levels)
    if not flat.any():  # nothing tells the scale, and too fine a grid would hold the weights at 0
        flat = torch.linspace(-1, 1, 2 * levels, dtype=flat.dtype, device=flat.device)
    if kind == "grid":
        step = _step_of(flat, levels) if keep_grid else None
        if step is not None:
            return flat.new_tensor([step]).log()
        farthest = flat.abs().max()
        return (farthest / min(reach, levels - 1 - zero)).clamp(min=_MIN_GAP).log().reshape(1)
    values = _quantile_values(flat, levels, zero)
    if kind == "kmeans":
        values = _kmeans_values(flat, values, zero)
    return values.diff().clamp(min=_MIN_GAP).log()


def _step_of(flat: Tensor, levels: int) -> float | None:
    """The greatest step, exact in bfloat16, of which all weights are multiples within a grid."""
    values = torch.unique(flat).tolist()
    if len(values) > levels:
        return None
    common = 0.0
    for value in values:
        rest = abs(value)
        while rest:  # Euclid's; remainders of floats are exact
            common, rest = rest, common % rest
    zero = zero_index(levels)
    for parts in range(1, levels):
        step = common / parts
        if not -zero * step <= values[0] <= values[-1] <= (levels - 1 - zero) * step:
            return None
        if torch.tensor(step, dtype=torch.bfloat16).item() == step:
            return step
    return None


def _quantile_values(flat: Tensor, levels: int, zero: int) -> Tensor:
    def quantiles(side: Tensor, count: int) -> Tensor:
        if not side.numel():  # no weight of this sign: levels at the scale of the others
            side = flat.abs().mean() * torch.arange(1, count + 1, device=flat.device)
        rank = (torch.arange(count, device=flat.device) + 0.5) / count * (len(side) - 1)
        return side.sort().values[rank.round().long()]

    below = -quantiles(-flat[flat < 0], zero).flip(0)
    above = quantiles(flat[flat > 0], levels - 1 - zero)
    return torch.cat([below, flat.new_zeros(1), above])


def _kmeans_values(flat: Tensor, values: Tensor, zero: int) -> Tensor:
    dtype = values.dtype
    flat, values = flat.double().sort().values, values.double()
    sums = torch.cat([flat.new_zeros(1), flat.cumsum(0)])
    for _ in range(_KMEANS_ROUNDS):
        edges = torch.searchsorted(flat, (values[1:] + values[:-1]) / 2)
        edges = torch.cat([edges.new_zeros(1), edges, edges.new_full((1,), len(flat))])
        counts = edges.diff()
        means = (sums[edges[1:]] - sums[edges[:-1]]) / counts.clamp(min=1)
        values = torch.where(counts > 0, means, values)
        values[zero] = 0.0
    return values.to(dtype)
