"""The codebook: sorted values with an exact zero that cannot move, and where they start.

A codebook is trained through the logarithms of the gaps between neighbours, counted from zero
outward: values stay sorted, zero stays zero, and a learning rate acts in relative units. A uniform
grid has one gap, its step.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from ectorch.constrain.kernels.grid import gap_of, multiples, zero_index
from ectorch.constrain.transforms import clamp_
from ectorch.errors import DivergedError

CodebookKind = Literal["grid", "kmeans", "quantile"]

_KMEANS_ROUNDS = 25
_MIN_GAP = 1e-8  # of the farthest weight


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse numbers that are none; reads ``tensor`` on the host.

    Raises:
        DivergedError: when a value is NaN or infinite.
    """
    wrong = tensor.numel() - int(tensor.isfinite().sum())
    if wrong:
        kind = "NaN" if tensor.isnan().any() else "infinity"
        raise DivergedError(f"{name} holds {kind} ({wrong:,} of {tensor.numel():,} values)")


class Codebook:
    """Values that a weight may take: ``levels`` of them, ascending.

    Attributes:
        levels: how many.
        log_gaps: (1,) log step of a grid, or (levels - 1,) log gaps in ascending order; values are
            differentiable and carry the gradient to them. Gaps stay within what the dtype and
            bfloat16 hold, so that no value is infinite and no quotient NaN.
        dtype: that a product wants values in; None is the weight's own.
        is_grid: whether one gap, the step, says all.
        free_values: (levels,) of a codebook without a step.
    """

    def __init__(self, levels: int, log_gaps: Tensor, dtype: torch.dtype | None = None) -> None:
        self.levels, self.log_gaps, self.dtype = levels, log_gaps, dtype
        self.is_grid = log_gaps.numel() == 1
        self.free_values = None if self.is_grid else _free_values(log_gaps, levels)

    @classmethod
    def from_log_gaps(cls, log_gaps: Tensor, levels: int) -> Codebook:
        return cls(levels, log_gaps)

    @property
    def step(self) -> Tensor | None:
        """() the gap of a grid, rounded to bfloat16 (straight through) so that a file spends two
        bytes on it and multiples are exact; None for a codebook of free values."""
        if not self.is_grid:
            return None
        gap = gap_of(self.log_gaps, self.levels).squeeze(0)  # anew: kernels do not need it
        return gap.detach().bfloat16().to(gap.dtype) + (gap - gap.detach())

    @property
    def zero(self) -> int:
        """Index of the value that is exactly +0.0."""
        return zero_index(self.levels)

    @property
    def values(self) -> Tensor:
        """(levels,) ascending."""
        step = self.step
        if step is None:
            assert self.free_values is not None
            return self.free_values
        low, high = self.multiples
        return torch.arange(low, high + 1, dtype=step.dtype, device=step.device) * step

    @property
    def gaps(self) -> Tensor:
        """(levels - 1,) from each value to the next; () of a grid."""
        step = self.step
        return self.values.diff() if step is None else step

    @property
    def multiples(self) -> tuple[int, int]:
        """The first and the last level of a grid, in steps."""
        return multiples(self.levels)

    def in_steps(self, weight: Tensor) -> Tensor:
        """Weights in steps of a grid, detached, in float32 at least: half counts to 256 or 2048."""
        wide = torch.promote_types(weight.dtype, torch.float32)
        step = self.step
        assert step is not None
        return weight.detach().to(wide) / step.detach()

    def interval(self, weight: Tensor) -> Tensor:
        """How many levels are at most as large as each weight: int32 in ``[0, levels]``."""
        if not self.is_grid:
            values = self.values.detach()
            weight = weight.detach().contiguous()
            return torch.bucketize(weight, values, right=True, out_int32=True)
        below = self.in_steps(weight).add_(self.zero + 1)
        return _to_index(clamp_(below, 0, self.levels))

    def locate(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The bracket of each weight, ``values[lower] <= weight <= values[lower + 1]``.

        Args:
            weight: any shape.

        Returns:
            lower: int32 in ``[0, levels - 2]``, also where the weight is NaN, and fraction in
            [0, 1], both of weight's shape. Weights out of range are at the near end of the first
            or last bracket. Detached.
        """
        if self.is_grid:
            low, high = self.multiples
            position = clamp_(self.in_steps(weight), low, high)
            lower = position.floor().clamp_max_(high - 1)
            return _to_index(lower).add_(self.zero), position.sub_(lower)
        weight = weight.detach()
        lower = self.interval(weight).sub_(1).clamp_min_(0).clamp_max_(self.levels - 2)
        values = self.values.detach()
        start, end = values[lower], values[lower + 1]
        return lower, clamp_((weight - start) / (end - start), 0, 1)

    def quantize(self, weight: Tensor) -> Tensor:
        """Nearest level of each weight, int64.

        Halfway goes to the even multiple of a step as in `torch.round`, else to the lower value.
        """
        if self.is_grid:
            nearest = clamp_(self.in_steps(weight).round_(), *self.multiples)
            return _to_index(nearest.add_(self.zero)).long()
        lower, fraction = self.locate(weight)
        return lower.long() + (fraction > 0.5)

    def dequantize(self, symbols: Tensor) -> Tensor:
        """Values of integer ``symbols``; differentiable with respect to the codebook."""
        step = self.step
        if step is not None:
            return (symbols - self.zero).to(step.dtype) * step
        return self.values[symbols]


def _to_index(place: Tensor) -> Tensor:
    """int32 of whole numbers, 0 of NaN, which as an integer is another one on each machine."""
    return place.nan_to_num_().int()


def _free_values(log_gaps: Tensor, levels: int) -> Tensor:
    gaps, zero = gap_of(log_gaps, levels), zero_index(levels)
    # values stay distinct: a gap is never lost in the rounding of its sum
    gaps = torch.maximum(gaps, 2 * torch.finfo(gaps.dtype).eps * gaps.detach().sum())
    below = -gaps[:zero].flip(0).cumsum(0).flip(0)
    return torch.cat([below, gaps.new_zeros(1), gaps[zero:].cumsum(0)])


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

    Raises:
        DivergedError: when a weight is NaN or infinite.
    """
    check_finite("weight", weight)
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
        gaps = (farthest / min(reach, levels - 1 - zero)).reshape(1)
        return gaps.clamp(min=torch.finfo(gaps.dtype).tiny).log()
    values = _quantile_values(flat, levels, zero)
    if kind == "kmeans":
        values = _kmeans_values(flat, values, zero)
    gaps, info = values.diff(), torch.finfo(values.dtype)
    return gaps.maximum(_MIN_GAP * flat.abs().max()).clamp(info.tiny, info.max).log()


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
