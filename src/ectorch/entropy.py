"""The bit-size of discrete weights, hard and soft.

Counts are kept in float64 or int64: float32 stops counting at 2**24, and networks are larger.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

_PIECE = 1 << 17
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
    """
    counts = torch.zeros(levels, dtype=torch.float64, device=weight.device)
    for part in pieces(weight):
        lower, fraction = locate(part)
        up = torch.bincount(lower, weights=fraction.double(), minlength=levels)
        down = torch.bincount(lower, minlength=levels) - up
        counts += down + up.roll(1)  # the last entry of `up` is zero: lower < levels - 1
    return counts


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
    apply: Callable[..., tuple[Tensor, Tensor]] = _SoftBitSize.apply
    slopes = F.pad(lengths.diff() / gaps.detach(), (1, 1))  # flat beyond the ends
    return apply(weight, slopes.to(weight.dtype), interval)[0]


class _SoftBitSize(torch.autograd.Function):
    @staticmethod
    def forward(
        weight: Tensor, slopes: Tensor, interval: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        parts = [slopes.index_select(0, interval(part)) for part in pieces(weight)]
        slope = parts[0] if len(parts) == 1 else torch.cat(parts)
        return slopes.new_zeros((), dtype=torch.float64), slope.view(weight.shape)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, grad, _):  # type: ignore[no-untyped-def]
        (slope,) = ctx.saved_tensors
        return slope * grad.to(slope.dtype), None, None


def pieces(weight: Tensor) -> tuple[Tensor, ...]:
    """The weights in flat pieces: what is computed in between stays small, and in the cache."""
    return torch.split(weight.reshape(-1), _PIECE)
