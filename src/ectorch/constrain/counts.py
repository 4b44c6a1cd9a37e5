"""The bit-size of discrete weights, hard and soft.

Counts are kept in float64 or int64: float32 stops counting at 2**24, and networks are larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ectorch.constrain.kernels.plain import exact_counts, histogram, pieces
from ectorch.constrain.transforms import transformed

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
    return histogram(symbols.reshape(-1), levels)


@torch.no_grad()
def soft_counts(
    weight: Tensor, levels: int, locate: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> Tensor:
    """Expected counts when weight i is level ``lower_i + 1`` with probability ``fraction_i``.

    Args:
        weight: any shape.
        locate: gives lower, integers in ``[0, levels - 1)``, and fraction in [0, 1], as
            `Codebook.locate`.

    Returns:
        (levels,) float64, sums to the number of weights. Not differentiable: see `soft_bit_size`.
        NaN where a weight is NaN or infinite.
    """
    lower, fraction = locate(weight.detach())
    finite = 0.0 * weight.sum(dtype=torch.float64)  # or NaN
    return exact_counts(lower, fraction.nan_to_num(), levels) + finite


def soft_bit_size(
    weight: Tensor, gaps: Tensor, lengths: Tensor, interval: Callable[[Tensor], Tensor]
) -> Tensor:
    """What has the gradient of the expected bits of weights that lie between two levels.

        bits = sum_i (1 - t_i) L[j] + t_i L[j + 1]       t = (w - v[j]) / (v[j + 1] - v[j])
        d bits / d w_i = (L[j + 1] - L[j]) / (v[j + 1] - v[j])

    for weight i between the levels j and j + 1, and 0 beyond the ends. With lengths ``-log2 P`` of
    the soft histogram itself this is the exact gradient of ``n H``: the terms through P cancel,
    because P sums to one.

    Args:
        weight: any shape; the only input that gets a gradient.
        gaps: (levels - 1,) from each level to the next, or () of them all.
        lengths: (levels,) bits.
        interval: gives how many levels are at most as large, integers, as `Codebook.interval`.

    Returns:
        () float64 zero: the bits are ``counts @ lengths`` of `soft_counts`, which cost more.
    """
    slopes = F.pad(lengths.diff() / gaps.detach(), (1, 1)).detach()  # flat beyond the ends
    index = torch.cat([interval(part) for part in pieces(weight.detach())])
    if transformed():
        slope = slopes.index_select(0, index).reshape(weight.shape)
        return (slope * (weight - weight.detach())).sum(dtype=torch.float64)
    apply: Callable[..., Tensor] = _SoftBitSize.apply
    return apply(weight, slopes, index)


class _SoftBitSize(torch.autograd.Function):
    @staticmethod
    def forward(weight: Tensor, slopes: Tensor, index: Tensor) -> Tensor:
        return slopes.new_zeros((), dtype=torch.float64)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        weight, slopes, index = inputs
        ctx.shape, ctx.dtype = weight.shape, weight.dtype
        ctx.save_for_backward(slopes, index)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        slopes, index = ctx.saved_tensors
        # the product, and only that, is within the range of half precision
        by_level = (slopes * grad).to(ctx.dtype)
        return by_level.index_select(0, index).view(ctx.shape), None, None
