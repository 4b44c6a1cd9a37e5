"""The kernels of a grid in plain torch: what each computes, on any device, and nothing waits.

In all of them ``weight`` has any shape, floating point; ``log_gaps`` is (1,), the log of the
grid's step, and ``levels`` how many multiples of it there are, zero among them. Weights are counted
in steps in float32 at least. Nothing here has a gradient: `ectorch.constrain.kernels.ops` has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ectorch.constrain.kernels.grid import gap_of, log_gap_range, multiples, step_of, zero_index
from ectorch.constrain.transforms import clamp_, transformed

NOISE_BITS = 16
FRACTION_BITS = 40  # of a weight's share in the level above it
LIMB_BITS = 20
PIECE = 1 << 17


def round_to_grid(
    weight: Tensor,
    log_gaps: Tensor,
    levels: int,
    noise: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The value of the nearest level, halfway of the even one; never -0.0.

    Args:
        noise: int16 of the weight's shape, uniform: a weight goes up with the probability that its
            place between two levels is.
        dtype: of the values; the weight's own if None.
    """
    value = _rounded(weight, log_gaps, levels, noise)
    return value if dtype is None else value.to(dtype)


def by_step(
    grad: Tensor, weight: Tensor, log_gaps: Tensor, levels: int, noise: Tensor | None = None
) -> Tensor:
    """(1,) what `round_to_grid` hands back to ``log_gaps``: a value ``step r`` of ``step u``.

    The gradient goes straight to the weight; ``d value / d step = r - u`` (LSQ, Esser et al.,
    2020), through the rounding of the step to bfloat16 as if it were none.

    Args:
        grad: of the values, in the weight's dtype.
    """
    parts = pieces(weight)
    some = (None,) * len(parts) if noise is None else pieces(noise)
    dots = [
        torch.dot(by, _rounded(part, log_gaps, levels, own) - part)
        for by, part, own in zip(pieces(grad), parts, some, strict=True)
    ]
    return to_log_gaps(summed(dots) / step_of(log_gaps, levels), log_gaps, levels)


def moments(weight: Tensor, log_gaps: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Mean and variance, of the weight's shape, of a weight that is a or b with mean w.

    ``(w - a)(b - w)`` between the levels a and b; beyond the ends 0, and the mean is the end.
    """
    step = step_of(log_gaps, levels)
    low, high = multiples(levels)
    share, _, _ = _share(weight, step, levels)
    variance = (1 - share).mul_(share).mul_(step.square()).to(weight.dtype)
    return weight.clamp(low * step, high * step), variance


def moments_backward(
    by_mean: Tensor | None,
    by_variance: Tensor | None,
    weight: Tensor,
    log_gaps: Tensor,
    levels: int,
) -> tuple[Tensor, Tensor]:
    """What `moments` hands back to the weight and to ``log_gaps``.

    To the weight the mean's gradient goes straight; with ``a = step k``, ``w = step (k + t)``:
    ``d variance / dw = step (1 - 2 t)``, ``d variance / dstep = step (t (2 k + 1) - k)``.
    """
    step = step_of(log_gaps, levels)
    by_weight = torch.zeros_like(weight) if by_mean is None else by_mean
    total = step.new_zeros(())
    if by_mean is not None:
        low, high = multiples(levels)
        total = total + dot(by_mean, weight.clamp(low * step, high * step) - weight) / step
    if by_variance is not None:
        share, below, inside = _share(weight, step, levels)
        grad = by_variance * inside.mul_(step)
        to_step = (2 * below).add_(1).mul_(share).sub_(below)
        total = total + torch.dot(grad.reshape(-1), to_step.reshape(-1)).to(step.dtype)
        by_weight = by_weight + grad.mul_(share.mul_(-2).add_(1)).to(weight.dtype)
    return by_weight, to_log_gaps(total, log_gaps, levels)


def moments_formula(weight: Tensor, log_gaps: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """`moments`, differentiable any number of times."""
    gap = gap_of(log_gaps, levels).squeeze(0)
    step = step_of(log_gaps, levels) + (gap - gap.detach())
    low, high = multiples(levels)
    place = (weight / step).detach()
    below = place.clamp(low, high).floor().clamp(max=high - 1)
    moved = (place.clamp(low, high) - place) * step
    mean = weight.detach().clamp(low * step.detach(), high * step.detach())
    mean = mean + ((weight - weight.detach()) + (moved - moved.detach()))
    inside = (place >= low) & (place <= high)
    room = ((weight - below * step) * ((below + 1) * step - weight)).clamp(min=0)
    return mean, torch.where(inside, room, 0.0)


def counts(
    weights: Sequence[Tensor], log_gaps: Sequence[Tensor], levels: Sequence[int]
) -> list[Tensor]:
    """(levels,) float64 of each: how many weights to expect on each level, see `exact_counts`.

    NaN where a weight is NaN or infinite.
    """
    return [_counts(*one) for one in zip(weights, log_gaps, levels, strict=True)]


def charge_backward(
    grad: Tensor,
    weights: Sequence[Tensor],
    log_gaps: Sequence[Tensor],
    levels: Sequence[int],
    lengths: Sequence[Tensor],
    scales: Sequence[float],
) -> list[Tensor]:
    """``scale * grad * (L[j + 1] - L[j]) / step`` of each weight between the levels j and j + 1.

    Args:
        grad: () float64.
        lengths: (levels,) float32 bits of each parameter's levels.
    """
    rows = zip(weights, log_gaps, levels, lengths, strict=True)
    return [_charge(grad * scale, *one) for scale, one in zip(scales, rows, strict=True)]


def exact_counts(lower: Tensor, fraction: Tensor, levels: int) -> Tensor:
    """(levels,) float64, when weight i is level ``lower_i + 1`` with probability ``fraction_i``.

    Fractions are cut to multiples of 2**-40, and then summed as integers: the sum is the same in
    any order, on any device, and rounded once.

    Args:
        lower: integers in ``[0, levels - 1)``, any shape.
        fraction: in [0, 1], floating point of the same shape.
    """
    sums = lower.new_zeros((3, levels), dtype=torch.int64)
    for index, share in zip(pieces(lower), pieces(fraction), strict=True):
        fixed = (share.double() * 2.0**FRACTION_BITS).long()
        high, low = fixed >> LIMB_BITS, fixed & ((1 << LIMB_BITS) - 1)
        sums = sums + torch.stack([histogram(index, levels, each) for each in (None, high, low)])
    items, high, low = sums  # of the last level, which has no next, nothing is above
    high, low = (items << LIMB_BITS) - high + high.roll(1), low.roll(1) - low
    found: Tensor = high.double() * 2.0**-LIMB_BITS + low.double() * 2.0**-FRACTION_BITS
    return found


def histogram(index: Tensor, levels: int, values: Tensor | None = None) -> Tensor:
    """(levels,) int64 sums of ``values``, of ones if None, by (n,) ``index``; nothing waits.

    Args:
        values: (n,) whole numbers, whose sums stay below 2**53.
    """
    if index.device.type == "cpu" and not (transformed() or torch.compiler.is_compiling()):
        weights = None if values is None else values.double()
        return torch.bincount(index, weights, levels).long()  # elsewhere it waits for the device
    values = torch.ones_like(index, dtype=torch.int64) if values is None else values
    return values.new_zeros(levels).scatter_add(0, index.long(), values)


def dot(one: Tensor, other: Tensor) -> Tensor:
    """() the sum of products, by pieces that fit a cache; of tensors of one shape."""
    return summed([torch.dot(*pair) for pair in zip(pieces(one), pieces(other), strict=True)])


def summed(parts: Sequence[Tensor]) -> Tensor:
    """() the sum of at least one ()."""
    return parts[0] if len(parts) == 1 else torch.stack([*parts]).sum()


def pieces(tensor: Tensor) -> tuple[Tensor, ...]:
    """Flat, in pieces on the CPU: what is computed in between stays small, and in the cache."""
    flat = tensor.reshape(-1)
    if len(flat) <= PIECE or flat.device.type != "cpu":
        return (flat,)
    found: tuple[Tensor, ...] = torch.split(flat, PIECE)
    return found


def to_log_gaps(by_gap: Tensor, log_gaps: Tensor, levels: int) -> Tensor:
    """(1,) the gradient of `gap_of`."""
    low, high = log_gap_range(log_gaps.dtype, levels)
    inside = (log_gaps >= low) & (log_gaps <= high)
    return (by_gap.to(log_gaps.dtype) * gap_of(log_gaps, levels)).where(inside, 0.0)


def by_levels(
    grad: Tensor, log_gaps: Tensor, levels: int, lengths: Tensor, dtype: torch.dtype
) -> Tensor:
    """(levels + 1,) what a weight is charged by how many levels are at most as large; flat ends."""
    slopes = F.pad(lengths.float().diff() / step_of(log_gaps, levels), (1, 1))
    return (slopes * grad).to(dtype)  # the product, and only that, is in half precision's range


def _in_steps(weight: Tensor, step: Tensor) -> Tensor:
    return weight.to(torch.promote_types(weight.dtype, torch.float32)) / step


def _rounded(weight: Tensor, log_gaps: Tensor, levels: int, noise: Tensor | None) -> Tensor:
    step = step_of(log_gaps, levels)
    place = _in_steps(weight, step)
    if noise is None:
        place = place.round_()
    else:
        place = place.add_(noise.to(place.dtype).mul_(2.0**-NOISE_BITS).add_(0.5)).floor_()
    index = clamp_(place, *multiples(levels)).to(weight.dtype)
    return index.mul_(step).add_(0.0)  # + 0.0 turns -0.0 into +0.0


def _counts(weight: Tensor, log_gaps: Tensor, levels: int) -> Tensor:
    low, high = multiples(levels)
    place = clamp_(_in_steps(weight, step_of(log_gaps, levels)), low, high)
    lower = place.floor().clamp_max_(high - 1)
    fraction = place.sub_(lower).nan_to_num_()
    found = exact_counts(lower.nan_to_num_().long().sub_(low), fraction, levels)
    return found + 0.0 * weight.sum(dtype=torch.float64)  # NaN of what is no number


def _charge(grad: Tensor, weight: Tensor, log_gaps: Tensor, levels: int, lengths: Tensor) -> Tensor:
    table = by_levels(grad, log_gaps, levels, lengths, weight.dtype)
    place = _in_steps(weight, step_of(log_gaps, levels)).add_(zero_index(levels) + 1)
    index = clamp_(place, 0, levels).nan_to_num_().int()
    return table.index_select(0, index.reshape(-1)).view(weight.shape)


def _share(weight: Tensor, step: Tensor, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """t and k, and 1 or 0: whether the weight is within the grid."""
    low, high = multiples(levels)
    position = _in_steps(weight, step)
    clipped = position.clamp(low, high)
    inside = position.eq_(clipped)
    below = clipped.floor().clamp_(max=high - 1)
    return clipped.sub_(below), below, inside
