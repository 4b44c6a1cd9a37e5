"""Rounding to a uniform grid by rate and distortion: what the squared error of a weight may cost.

A weight goes to the grid index that minimises ``error**2 + slope * length``, where a length is what
the index takes in a code that is fitted to the indices in use: ``-log2`` of its frequency, monotone
away from zero (`ectorch.constrain.lengths`). Lengths and indices are found in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ectorch.constrain.lengths import isotonic_counts

_PASSES = 3  # lengths and indices have settled by then
_CHUNK_ITEMS = 1 << 22  # at once: what widens them stays small
_SAMPLE_ITEMS = 1 << 16
_RATIOS = (0.4, 0.6, 0.75, 0.9, 1.05, 1.2, 1.4)
_UNSEEN = 0.3  # counts of an index that nothing has yet
_MOST_INDEX = 32_000  # what a codebook of the format holds on either side of zero
_STEP_BITS = 8  # significant ones: index * step is exact in float32, and the file's step short
# of a fine grid: the error is step**2 / 12, and halves of the step cost a bit
_SLOPE_OF_STEP = math.log(2) / 6


@dataclass(frozen=True)
class Rounded:
    """A tensor on a uniform grid.

    Attributes:
        index: int32, the tensor's shape: grid indices.
        step: of the grid, in the tensor's units.
        bits: of all indices together, at their order-0 entropy: an estimate.
    """

    index: Tensor
    step: float
    bits: float

    def values(self, dtype: torch.dtype) -> Tensor:
        """``index * step``, rounded once; zeros are +0.0."""
        return on_grid(self.index, self.step, dtype)


@dataclass(frozen=True)
class Lengths:
    """Code lengths of grid indices.

    Attributes:
        table: (2 * zero + 1,) float32 bits of the indices ``-zero`` to ``zero``.
    """

    table: Tensor

    @property
    def zero(self) -> int:
        return len(self.table) // 2

    @classmethod
    def of(cls, counts: Tensor) -> Lengths:
        """Lengths for (2 * zero + 1,) counts of indices."""
        smooth = isotonic_counts(counts.to(torch.float64)[None], len(counts) // 2)[0] + _UNSEEN
        return cls((smooth.sum() / smooth).log2().float())

    def __getitem__(self, index: Tensor) -> Tensor:
        """Bits of each of ``index``, whole numbers of any dtype."""
        return self.table[(index + self.zero).long().clamp(0, len(self.table) - 1)]


def count(index: Tensor, zero: int) -> Tensor:
    """(2 * zero + 1,) int64 how often each index occurs."""
    return torch.bincount((index + zero).long().reshape(-1), minlength=2 * zero + 1)


def entropy_bits(counts: Tensor) -> float:
    """Bits of all that was counted, at its order-0 entropy."""
    some = counts[counts > 0].to(torch.float64)
    return float((some * (some.sum() / some).log2()).sum())


def short(step: float) -> float:
    """The nearest step of few significant bits.

    >>> short(0.1), short(3.0)
    (0.10009765625, 3.0)
    """
    mantissa, exponent = math.frexp(step)
    return math.ldexp(round(mantissa * 2**_STEP_BITS), exponent - _STEP_BITS)


def least_step(weight: Tensor) -> float:
    """Of a grid whose indices the format can hold."""
    return float(weight.abs().max()) / _MOST_INDEX


def usual_step(slope: float) -> float:
    """The step at which a bit more lowers a fine grid's error by ``slope``."""
    return math.sqrt(slope / _SLOPE_OF_STEP)


def candidates(scaled: Tensor) -> Iterator[Tensor]:
    """Indices that may be the cheapest: the nearest, the one toward zero, and zero."""
    nearest = scaled.round()
    yield nearest
    yield nearest - nearest.sign()
    yield torch.zeros_like(nearest)


def decide(scaled: Tensor, lengths: Lengths, price: Tensor | float) -> Tensor:
    """The index of each weight that minimises ``(scaled - index)**2 + price * length``.

    Args:
        scaled: weights in steps.
        price: of a bit, in steps squared; broadcasts.
    """
    best = cost = scaled
    for at, index in enumerate(candidates(scaled)):
        own = (scaled - index).square() + price * lengths[index]
        better = own < cost if at else torch.ones_like(own, dtype=torch.bool)
        best, cost = torch.where(better, index, best), torch.where(better, own, cost)
    return best


def on_grid(index: Tensor, step: float, dtype: torch.dtype) -> Tensor:
    """``index * step``, rounded once to ``dtype``; zeros are +0.0.

    Args:
        index: whole numbers of any dtype.
        step: `short`.
    """
    most = torch.finfo(dtype).max / step
    index = index.clamp(-math.floor(most), math.floor(most)) if most < _MOST_INDEX else index
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (index.to(wide) * step + 0.0).to(dtype)


def round_to_grid(
    weight: Tensor, step: float, slope: float, importance: Tensor | None = None
) -> Rounded:
    """Indices that minimise ``importance * error**2 + slope * length``, summed over all weights.

    Args:
        weight: floats, finite.
        step: of the grid; made `short`.
        slope: squared error that a bit is worth, above 0.
        importance: (rows,) of the first dimension's items, 1 if None.
    """
    flat = weight.detach().reshape(-1)
    index = torch.empty(flat.shape, dtype=torch.int32, device=flat.device)

    def keep(part: slice, found: Tensor) -> None:
        index[part] = found.to(torch.int32)

    step, counts = _decide_all(flat, step, slope, importance, keep)
    return Rounded(index.view(weight.shape), step, entropy_bits(counts))


def rounded_values(weight: Tensor, step: float, slope: float) -> Tensor:
    """`round_to_grid`, of which nothing is kept but the values: little memory beside the result."""
    flat = weight.detach().reshape(-1)
    values = torch.empty_like(flat)

    def keep(part: slice, found: Tensor) -> None:
        values[part] = on_grid(found, own, values.dtype)

    own = short(max(step, least_step(flat)))
    _decide_all(flat, own, slope, None, keep)
    return values.view(weight.shape)


def _decide_all(
    flat: Tensor,
    step: float,
    slope: float,
    importance: Tensor | None,
    keep: Callable[[slice, Tensor], None],
) -> tuple[float, Tensor]:
    """Decide part by part, in passes of which each has the lengths that the one before led to.

    Returns:
        the step, and how often each index occurs.
    """
    step = short(max(step, least_step(flat)))
    price = slope / step**2
    zero = round(float(flat.abs().max()) / step) + 1
    row = flat.numel() // len(importance) if importance is not None else 1
    counts = torch.zeros(2 * zero + 1, dtype=torch.int64, device=flat.device)
    for part in _parts(flat):
        counts += count((flat[part].float() / step).round(), zero)
    for at in range(_PASSES):
        lengths, counts = Lengths.of(counts), torch.zeros_like(counts)
        for part in _parts(flat):
            own: Tensor | float = price
            if importance is not None:
                rows = torch.arange(part.start, min(part.stop, flat.numel()), device=flat.device)
                own = price / importance[rows // row]
            found = decide(flat[part].float() / step, lengths, own)
            counts += count(found, zero)
            if at == _PASSES - 1:
                keep(part, found)
    return step, counts


def best_step(weight: Tensor, slope: float, importance: Tensor | None = None) -> float:
    """The step at which `round_to_grid` costs a sample the least, error and bits together.

    Args:
        weight, slope, importance: as of `round_to_grid`.
    """
    rows = weight.detach().reshape(1 if importance is None else len(importance), -1)
    if importance is None:
        rows = rows.T[:: max(1, rows.numel() // _SAMPLE_ITEMS)]
    else:
        every = max(1, rows.numel() // _SAMPLE_ITEMS)
        rows, importance = rows[::every], importance[::every]
    sample = rows.float()
    heavy = 1.0 if importance is None else importance[:, None]

    def cost(step: float) -> float:
        found = round_to_grid(sample, step, slope, importance)
        error = (heavy * (sample - found.index * found.step).square()).sum()
        return float(error) + slope * found.bits

    usual = usual_step(slope)
    return min((ratio * usual for ratio in _RATIOS), key=cost)


def _parts(flat: Tensor) -> Iterator[slice]:
    for start in range(0, flat.numel(), _CHUNK_ITEMS):
        yield slice(start, start + _CHUNK_ITEMS)
