"""Code lengths: the bits charged for each level, from how often the levels occur.

A rule takes counts, (levels,) float64, and the index of the level of value 0, and gives (levels,)
float64 bits. Those here take (..., levels) counts of many parameters, too. A training step charges
every weight the length of its level; that is the gradient of the rate which the rule stands for,
since lengths are held fixed meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ectorch.constrain.kernels import cuda, native
from ectorch.constrain.transforms import transformed
from ectorch.errors import ConfigError

_TABLE_ITEMS = 1 << 22
LengthRule = Callable[[Tensor, int], Tensor]

_MIN_COUNT = 1.0  # an empty level costs what its first symbol would: log2(n) bits
_CARDINALITY_ORDER = 0.1  # of the Renyi entropy that stands in for order 0, which has no gradient


def free(counts: Tensor, zero: int) -> Tensor:
    """``-log2 P`` of the counts as they are: the rate is ``n H``, the entropy of the symbols.

    The level next to zero empties, its length explodes and weights beyond it can never come back
    to zero: sparsity freezes. The monotone rules make lengths grow away from zero.
    """
    return _bits(counts, counts.clamp(min=_MIN_COUNT))


def running_maximum(counts: Tensor, zero: int) -> Tensor:
    """`free` for the running maximum of the counts from both tails inward.

    A surrogate and no code: its probabilities sum to more than one.
    """
    left = counts[..., : zero + 1].cummax(-1).values
    right = counts[..., zero:].flip(-1).cummax(-1).values.flip(-1)
    top = torch.maximum(left[..., -1:], right[..., :1])
    rising = torch.cat([left[..., :-1], top, right[..., 1:]], -1)
    return _bits(counts, rising.clamp(min=_MIN_COUNT))


def isotonic(counts: Tensor, zero: int) -> Tensor:
    """`free` for the distribution of greatest likelihood that falls away from zero; sums to one."""
    return free(isotonic_counts(counts, zero), zero)


def pruning(counts: Tensor, zero: int, nonzero_bits: float | None = None) -> Tensor:
    """Zero or not, and a constant for each nonzero: ``n H(P_0) + nonzero_bits * nonzeros``.

    Args:
        nonzero_bits: ``log2(levels - 1)``, a code of fixed length, if not given.
    """
    levels = counts.shape[-1]
    bits = math.log2(max(levels - 1, 1)) if nonzero_bits is None else nonzero_bits
    total = counts.sum(-1, keepdim=True).clamp(min=_MIN_COUNT)
    zeros = counts[..., zero : zero + 1]
    nonzero = (total / (total - zeros).clamp(min=_MIN_COUNT)).log2() + bits
    own = (total / zeros.clamp(min=_MIN_COUNT)).log2()
    return torch.where(torch.arange(levels, device=counts.device) == zero, own, nonzero)


def cardinality(counts: Tensor, zero: int) -> Tensor:
    """The number of levels in use, ``n log2(levels in use)``, made smooth.

    The logarithm of a support's size is the Renyi entropy of order 0; its neighbour of order a,
    ``H_a = log2(sum_k P_k^a) / (1 - a)``, has the gradient that these lengths are, up to the
    constant that makes ``sum_k P_k L_k = H_a``. Rare levels are charged most: they empty.
    """
    order = _CARDINALITY_ORDER
    total = counts.sum(-1, keepdim=True).clamp(min=_MIN_COUNT)
    probabilities = counts.clamp(min=_MIN_COUNT) / total
    powers = probabilities.pow(order)
    sums = powers.sum(-1, keepdim=True)
    slope = order / ((1 - order) * math.log(2))
    return sums.log2() / (1 - order) + slope * (powers / probabilities / sums - 1)


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


def apply_rule(rule: LengthRule, counts: Tensor, zero: int) -> Tensor:
    """(parameters, levels) bits of (parameters, levels) counts: one call of a rule that is ours."""
    if rule in RULES.values():
        return rule(counts, zero)
    return torch.stack([rule(row, zero) for row in counts])


def isotonic_counts(counts: Tensor, zero: int) -> Tensor:
    """Closest counts (in likelihood and in least squares) that fall away from ``zero``, same sum.

    Pool adjacent violators on each side; then the top grows from ``zero`` over every side block
    that exceeds it (isotonic regression on a rooted tree, Pardalos and Xue, 1999).

    Args:
        counts: (..., levels) float64.
    """
    if torch.compiler.is_compiling() or transformed():
        return isotonic_by_bounds(counts, zero)
    rows = counts.reshape(-1, counts.shape[-1]).contiguous()
    fit = native.isotonic(rows, zero) if rows.device.type == "cpu" else cuda.isotonic(rows, zero)
    if fit is not None:
        return fit.view(counts.shape)
    if rows.device.type != "cpu":
        return isotonic_by_bounds(counts, zero)
    return counts.new_tensor([_pooled(row, zero) for row in rows.tolist()]).view(counts.shape)


def isotonic_by_bounds(counts: Tensor, zero: int) -> Tensor:
    """`isotonic_counts` without a look at the values, which would wait for a device.

    On a side, a chain, the fit is ``min over a <= i of max over b >= i of mean(y[a..b])``; at the
    top it is the greatest mean R of what surrounds ``zero``, and elsewhere the chain's, R at most:
    blocks are pooled with the top in falling order as long as they exceed it.

    Args:
        counts: (..., levels) float64.
    """
    left, right = counts[..., :zero].flip(-1), counts[..., zero + 1 :]
    sums_left, sums_right = (_sums(side) for side in (left, right))
    many_left, many_right = (_numbers(sums) for sums in (sums_left, sums_right))
    top = counts[..., zero : zero + 1]
    best = top
    for rows in chunks(sums_left.shape[-1], sums_right.shape[-1]):
        total = (top + sums_left[..., rows])[..., None] + sums_right[..., None, :]
        mean = total / (1 + many_left[rows, None] + many_right)
        best = torch.maximum(best, mean.flatten(-2).amax(-1, keepdim=True))
    sides = (torch.minimum(best, _falling(side)) for side in (left, right))
    return torch.cat([next(sides).flip(-1), best, next(sides)], -1)


def _falling(values: Tensor) -> Tensor:
    """The non-increasing fit of (..., n) ``values``."""
    n = values.shape[-1]
    sums, place = _sums(values), torch.arange(n, device=values.device)
    found = torch.full_like(values, torch.inf)
    for rows in chunks(n, n):
        first = place[rows, None]
        mean = (sums[..., None, 1:] - sums[..., :-1, None][..., rows, :]) / (place + 1 - first)
        mean = mean.where(place >= first, -torch.inf)
        most = mean.flip(-1).cummax(-1).values.flip(-1)
        found = torch.minimum(found, most.where(place >= first, torch.inf).amin(-2))
    return found


def _sums(values: Tensor) -> Tensor:
    """(..., n + 1) sums of the first 0 to n of (..., n)."""
    return F.pad(values.cumsum(-1), (1, 0))


def _numbers(tensor: Tensor) -> Tensor:
    return torch.arange(tensor.shape[-1], device=tensor.device)


def chunks(rows: int, columns: int) -> list[slice]:
    """Rows of a table so many at a time that it stays small."""
    some = max(1, _TABLE_ITEMS // max(1, columns))
    return [slice(start, min(start + some, rows)) for start in range(0, rows, some)]


def _bits(counts: Tensor, likely: Tensor) -> Tensor:
    return (counts.sum(-1, keepdim=True) / likely).log2().clamp(min=0.0)


def _pooled(values: list[float], zero: int) -> list[float]:
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
    return [*spread_left[::-1], *[total / size] * size, *spread_right]


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
