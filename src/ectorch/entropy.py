"""The bit-size of discrete weights, hard and soft, and the code lengths that training descends.

Counts are kept in float64 or int64: float32 stops counting at 2**24, and networks are larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

LengthRule = Literal["running_maximum", "isotonic", "free"]

_MIN_COUNT = 1.0  # an empty level costs what its first symbol would: log2(n) bits
_TINY = torch.finfo(torch.float64).tiny  # keeps the gradient of an empty level finite


def entropy(counts: Tensor) -> Tensor:
    """Bits a symbol, ``H = -sum_k P_k log2 P_k`` with ``P = counts / sum(counts)``.

    Args:
        counts: (levels,) non-negative, not all zero; differentiable.

    Returns:
        () float64.

    >>> entropy(torch.tensor([2, 1, 1]))
    tensor(1.5000, dtype=torch.float64)
    """
    probabilities = counts.double() / counts.sum()
    nats = -(probabilities * probabilities.clamp(min=_TINY).log()).sum()
    return nats / math.log(2)


def bit_size(counts: Tensor) -> Tensor:
    """Bits of all symbols under their own entropy, ``n H`` (the first term of the MDL size).

    Args:
        counts: (levels,) as for `entropy`.
    """
    return counts.sum() * entropy(counts)


def hard_counts(symbols: Tensor, levels: int) -> Tensor:
    """How often each level occurs.

    Args:
        symbols: integers in ``[0, levels)``, any shape.

    Returns:
        (levels,) int64.
    """
    return torch.bincount(symbols.reshape(-1), minlength=levels)


def soft_counts(lower: Tensor, fraction: Tensor, levels: int) -> Tensor:
    """Expected counts when weight i is level ``lower_i + 1`` with probability ``fraction_i``.

    Args:
        lower: integers in ``[0, levels - 1)``, any shape.
        fraction: in [0, 1], same shape.

    Returns:
        (levels,) float64, sums to the number of weights. Not differentiable: see `soft_bit_size`.
    """
    lower = lower.reshape(-1)
    weight = fraction.detach().reshape(-1).double()
    up = torch.bincount(lower, weights=weight, minlength=levels).double()  # no weights: integers
    down = torch.bincount(lower, minlength=levels) - up
    return down + up.roll(1)  # the last entry of `up` is zero: lower < levels - 1


def code_lengths(counts: Tensor, zero: int, rule: LengthRule) -> Tensor:
    """Bits charged for each level.

    With raw counts the level next to zero empties, its length explodes and weights beyond it can
    never come back to zero: sparsity freezes. The monotone rules make lengths grow away from zero.

    Args:
        counts: (levels,) float64.
        zero: index of the level of value 0.
        rule: "running_maximum" of the counts from both tails inward: a surrogate, its
            probabilities sum to more than one; "isotonic": the maximum-likelihood distribution
            that falls away from zero, sums to one; "free": the counts as they are.

    Returns:
        (levels,) float64, ``-log2 P``; an empty level is charged as if it held one weight.
    """
    total = counts.sum()
    if rule == "running_maximum":
        left = counts[: zero + 1].cummax(0).values
        right = counts[zero:].flip(0).cummax(0).values.flip(0)
        counts = torch.cat([left[:-1], torch.maximum(left[-1:], right[:1]), right[1:]])
    elif rule == "isotonic":
        counts = isotonic_counts(counts, zero)
    return (total / counts.clamp(min=_MIN_COUNT)).log2().clamp(min=0.0)


def isotonic_counts(counts: Tensor, zero: int) -> Tensor:
    """Closest counts (in likelihood and in least squares) that fall away from ``zero``, same sum.

    Pool adjacent violators on each side; then the top grows from ``zero`` over every side block
    that exceeds it (isotonic regression on a rooted tree, Pardalos and Xue, 1999).

    Args:
        counts: (levels,) float64.
    """
    values = counts.tolist()
    left = _falling_blocks(values[:zero][::-1])
    right = _falling_blocks(values[zero + 1 :])
    total, size = values[zero], 1
    taken_left = taken_right = 0
    while True:
        next_left = left[0][0] / left[0][1] if left else 0.0
        next_right = right[0][0] / right[0][1] if right else 0.0
        if max(next_left, next_right) <= total / size:
            break
        block_total, block_size = (left if next_left >= next_right else right).pop(0)
        total, size = total + block_total, size + block_size
        if next_left >= next_right:
            taken_left += block_size
        else:
            taken_right += block_size
    spread_left = [mean for block, n in left for mean in [block / n] * n]
    spread_right = [mean for block, n in right for mean in [block / n] * n]
    return counts.new_tensor([*spread_left[::-1], *[total / size] * size, *spread_right])


def _falling_blocks(values: list[float]) -> list[tuple[float, int]]:
    """Pool adjacent violators for a non-increasing fit: (sum, length) of each block."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        total, size = value, 1
        while blocks and blocks[-1][0] / blocks[-1][1] < total / size:
            before, length = blocks.pop()
            total, size = total + before, size + length
        blocks.append((total, size))
    return blocks


def soft_bit_size(
    weight: Tensor, lower: Tensor, fraction: Tensor, values: Tensor, lengths: Tensor
) -> Tensor:
    """Expected bits of weights that lie between two levels, with a gradient to ``weight``.

        bits = sum_i (1 - t_i) L[j_i] + t_i L[j_i + 1]        t = fraction, j = lower
        d bits / d w_i = (L[j_i + 1] - L[j_i]) / (w[j_i + 1] - w[j_i])   within the codebook's range

    With lengths ``-log2 P`` of the soft histogram itself this is the exact gradient of ``n H``:
    the terms through P cancel, because P sums to one.

    Args:
        weight: any shape; the only input that gets a gradient.
        lower, fraction: where each weight lies, as from `Codebook.locate`; same shape.
        values: (levels,) ascending.
        lengths: (levels,) float64 bits.

    Returns:
        () float64 bits.
    """
    apply: Callable[..., tuple[Tensor, Tensor]] = _SoftBitSize.apply
    return apply(weight, lower, fraction, values.detach(), lengths)[0]


class _SoftBitSize(torch.autograd.Function):
    @staticmethod
    def forward(
        weight: Tensor, lower: Tensor, fraction: Tensor, values: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        slopes = (lengths.diff() / values.double().diff()).to(weight.dtype)
        inside = (weight > values[0]) & (weight < values[-1])
        return soft_counts(lower, fraction, len(values)) @ lengths, slopes[lower] * inside

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, grad, _):  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None, None, None, None
