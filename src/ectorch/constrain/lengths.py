"""Code lengths: the bits charged for each level, from how often the levels occur.

A rule takes counts, (levels,) float64, and the index of the level of value 0, and gives (levels,)
float64 bits. A training step charges every weight the length of its level; that is the gradient
of the rate which the rule stands for, since lengths are held fixed meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ectorch.errors import ConfigError

LengthRule = Callable[[Tensor, int], Tensor]

_MIN_COUNT = 1.0  # an empty level costs what its first symbol would: log2(n) bits
_CARDINALITY_ORDER = 0.1  # of the Renyi entropy that stands in for order 0, which has no gradient


def free(counts: Tensor, zero: int) -> Tensor:
    """``-log2 P`` of the counts as they are: the rate is ``n H``, the entropy of the symbols.

    The level next to zero empties, its length explodes and weights beyond it can never come back
    to zero: sparsity freezes. The monotone rules make lengths grow away from zero.
    """
    return (counts.sum() / counts.clamp(min=_MIN_COUNT)).log2().clamp(min=0.0)


def running_maximum(counts: Tensor, zero: int) -> Tensor:
    """`free` for the running maximum of the counts from both tails inward.

    A surrogate and no code: its probabilities sum to more than one.
    """
    left = counts[: zero + 1].cummax(0).values
    right = counts[zero:].flip(0).cummax(0).values.flip(0)
    rising = torch.cat([left[:-1], torch.maximum(left[-1:], right[:1]), right[1:]])
    return (counts.sum() / rising.clamp(min=_MIN_COUNT)).log2().clamp(min=0.0)


def isotonic(counts: Tensor, zero: int) -> Tensor:
    """`free` for the distribution of greatest likelihood that falls away from zero; sums to one."""
    return free(isotonic_counts(counts, zero), zero)


def pruning(counts: Tensor, zero: int, nonzero_bits: float | None = None) -> Tensor:
    """Zero or not, and a constant for each nonzero: ``n H(P_0) + nonzero_bits * nonzeros``.

    Args:
        nonzero_bits: ``log2(levels - 1)``, a code of fixed length, if not given.
    """
    bits = math.log2(max(len(counts) - 1, 1)) if nonzero_bits is None else nonzero_bits
    total, zeros = counts.sum().clamp(min=_MIN_COUNT), counts[zero]
    nonzero = (total / (total - zeros).clamp(min=_MIN_COUNT)).log2() + bits
    lengths = nonzero.repeat(len(counts))
    lengths[zero] = (total / zeros.clamp(min=_MIN_COUNT)).log2()
    return lengths


def cardinality(counts: Tensor, zero: int) -> Tensor:
    """The number of levels in use, ``n log2(levels in use)``, made smooth.

    The logarithm of a support's size is the Renyi entropy of order 0; its neighbour of order a,
    ``H_a = log2(sum_k P_k^a) / (1 - a)``, has the gradient that these lengths are, up to the
    constant that makes ``sum_k P_k L_k = H_a``. Rare levels are charged most: they empty.
    """
    order = _CARDINALITY_ORDER
    probabilities = counts.clamp(min=_MIN_COUNT) / counts.sum().clamp(min=_MIN_COUNT)
    powers = probabilities.pow(order)
    entropy = powers.sum().log2() / (1 - order)
    slope = order / ((1 - order) * math.log(2))
    return entropy + slope * (powers / probabilities / powers.sum() - 1)


RULES: dict[str, LengthRule] = {
    rule.__name__: rule for rule in (isotonic, running_maximum, free, pruning, cardinality)
}


def find_rule(lengths: str | LengthRule) -> LengthRule:
    """The rule of this name, or the rule itself.

    Raises:
        ConfigError: when it is neither.
    """
    rule = RULES.get(lengths) if isinstance(lengths, str) else lengths
    if not callable(rule):
        raise ConfigError(
            f"lengths = {lengths!r}: expected one of {tuple(RULES)}, "
            "or a function of counts and the zero's index"
        )
    return rule


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
        if not max(next_left, next_right) > total / size:  # also where counts are NaN
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
