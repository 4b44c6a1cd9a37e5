"""Rounding with Hessian feedback: what one column errs, the columns after it make up for.

The output ``weight @ x`` errs by ``trace(error @ moments @ error.T)`` on average, with
``moments = mean(x @ x.T)``. Columns are rounded one after the other, and each one's error is taken
over by those that follow as far as they can undo it (GPTQ, arXiv 2210.17323; OBQ, 2208.11580). What
remains of it is ``(w - q)**2 / u**2`` with u of the Cholesky factor of the inverse, and that is
weighed against the code length of q (CERWU, arXiv 2505.18758, has the idea).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ectorch.posttrain.grids import (
    Lengths,
    Rounded,
    count,
    decide,
    entropy_bits,
    least_step,
    round_to_grid,
    short,
    usual_step,
)

_BLOCK_COLUMNS = 64
_PASSES = 2
_SAMPLE_ROWS = 16
_RATIOS = (0.6, 0.8, 1.0, 1.25)
_WIDER = 2  # a weight that takes over errors may leave the range of the weights
_OWN = 0.9  # share of the damping that is a column's own, the rest is alike for all
_DAMPINGS = (0.01, 0.05, 0.2, 0.8, 3.0)


@dataclass(frozen=True)
class Factor:
    """How errors are handed on.

    Attributes:
        upper: (groups, columns, columns) float32, ``inverse(moments) = upper.T @ upper``.
        order: (groups, columns) int64, in which columns are rounded: the largest moments first.
        mean: of the squares that a column is weighed by, geometric.
        damping: what was added to the diagonal, as a share of it.
    """

    upper: Tensor
    order: Tensor
    mean: float
    damping: float

    @classmethod
    def of(cls, moments: Tensor, damping: float) -> Factor:
        """The factor of (groups, columns, columns) ``moments``, with a larger diagonal.

        Raises:
            torch.linalg.LinAlgError: when they are no moments.
        """
        order, sorted_ = _largest_first(_damped(moments, damping))
        lower = torch.linalg.cholesky(sorted_)
        upper = torch.linalg.cholesky(torch.cholesky_inverse(lower), upper=True)
        mean = float((-2 * _diagonal(upper).log()).mean().exp())
        return cls(upper.float(), order, mean, damping)


def best_damping(
    one: Tensor, other: Tensor, weight: Tensor, slope: float, importance: Tensor | None = None
) -> float:
    """The damping at which feedback by ``one`` costs some rows the least, by ``other``.

    Few examples say little of many columns: their moments hold directions in which nothing seems to
    matter, and errors that are led there are errors on other examples.

    Args:
        one, other: (groups, columns, columns) moments of two halves of the examples.
        weight, slope, importance: as of `round_with_feedback`.
    """
    every = max(1, weight.shape[1] // _SAMPLE_ROWS)
    rows = weight[:, ::every]
    some = torch.ones(rows.shape[:2]) if importance is None else importance[:, ::every]

    def cost(damping: float) -> float:
        factor = Factor.of(one, damping)
        step = usual_step(slope / factor.mean)
        rounded, _ = round_with_feedback(rows, factor, slope, step, some, passes=1)
        error = rounded.values(torch.float32) - rows
        output = (error @ other.float() * error).sum(2)
        return float((output * some).sum()) + slope * rounded.bits

    return min(_DAMPINGS, key=cost)


def round_with_feedback(
    weight: Tensor,
    factor: Factor,
    slope: float,
    step: float,
    importance: Tensor | None = None,
    passes: int = _PASSES,
) -> tuple[Rounded, float]:
    """Indices that cost the least of ``importance * output error + slope * length``.

    Args:
        weight: (groups, rows, columns).
        slope: output error that a bit is worth.
        importance: (groups, rows), 1 if None.
        passes: rounds; each has the code lengths that the one before led to.

    Returns:
        the indices, and the sum of ``importance`` times what output error was left to each row.
    """
    step = short(max(step, _WIDER * least_step(weight)))
    price = slope / step**2
    heavy = torch.ones(weight.shape[:2]) if importance is None else importance
    start = round_to_grid(weight, step, slope / factor.mean)
    zero = _WIDER * (round(float(weight.abs().max()) / step) + 1)
    counts = count(start.index, zero)
    order = factor.order[:, None].expand(weight.shape)
    scaled = weight.float().gather(2, order) / step
    for _ in range(passes):
        index, error = _round(scaled, factor.upper, Lengths.of(counts), price, heavy)
        counts = count(index, zero)
    placed = torch.empty_like(index, dtype=torch.int32).scatter_(2, order, index.to(torch.int32))
    return Rounded(placed, step, entropy_bits(counts)), float((error * heavy).sum()) * step**2


def best_feedback_step(
    weight: Tensor, factor: Factor, slope: float, importance: Tensor | None = None
) -> float:
    """The step at which `round_with_feedback` costs some of the rows the least."""
    every = max(1, weight.shape[1] // _SAMPLE_ROWS)
    rows = weight[:, ::every]
    some = None if importance is None else importance[:, ::every]
    usual = usual_step(slope / factor.mean)

    def cost(step: float) -> float:
        rounded, error = round_with_feedback(rows, factor, slope, step, some, passes=1)
        return error + slope * rounded.bits

    return min((ratio * usual for ratio in _RATIOS), key=cost)


def _round(
    scaled: Tensor, upper: Tensor, lengths: Lengths, price: float, heavy: Tensor
) -> tuple[Tensor, Tensor]:
    """One round: the indices, and (groups, rows) squared errors as they are weighed."""
    left, index = scaled.clone(), torch.empty_like(scaled)
    most = float(lengths.zero)
    total = torch.zeros(scaled.shape[:2])
    for start in range(0, scaled.shape[2], _BLOCK_COLUMNS):
        block = slice(start, min(start + _BLOCK_COLUMNS, scaled.shape[2]))
        own, factor = left[:, :, block], upper[:, block, block]
        errors = torch.empty_like(own)
        for at in range(own.shape[2]):
            scale = factor[:, at, at, None]
            found = decide(own[:, :, at].clamp(-most, most), lengths, price * scale**2 / heavy)
            errors[:, :, at] = (own[:, :, at] - found) / scale
            index[:, :, start + at] = found
            own[:, :, at + 1 :] -= errors[:, :, at, None] * factor[:, at, None, at + 1 :]
        left[:, :, block.stop :] -= errors @ upper[:, block, block.stop :]
        total += errors.square().sum(2)
    return index, total


def _damped(moments: Tensor, damping: float) -> Tensor:
    """Moments with a larger diagonal: less is made up for by columns that only seem to agree."""
    own = _diagonal(moments)
    mean = own.mean().clamp(min=torch.finfo(torch.float32).tiny)  # no column is free
    return moments + damping * torch.diag_embed(_OWN * own + (1 - _OWN) * mean)


def _largest_first(moments: Tensor) -> tuple[Tensor, Tensor]:
    order = _diagonal(moments).argsort(dim=1, descending=True, stable=True)
    return order, _ordered(moments, order)


def _ordered(moments: Tensor, order: Tensor) -> Tensor:
    rows = moments.gather(1, order[:, :, None].expand_as(moments))
    return rows.gather(2, order[:, None].expand_as(moments))


def _diagonal(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=1, dim2=2)
