"""The kernels of a grid on CUDA: launches of `ectorch.constrain.kernels.programs`.

Nothing here waits for the device. Tables of addresses are brought to it once, when parameters are
first seen, so a step may be captured in a CUDA graph after a first one outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ectorch.constrain.kernels import plain
from ectorch.constrain.kernels.grid import known_log_gap_range, multiples
from ectorch.constrain.kernels.layout import beside, constants, dense

_ROUNDED = 1024  # weights of a program
_BLOCK, _BLOCKS = 1024, 16  # of one that sums
_COUNTED, _COUNTED_BLOCKS = 32, 64  # of one warp: it compares without a barrier
_SUMMED = 64  # programs at a time
_MOST_BINS = 128  # a program compares each weight with each of them
_MOST_SIDE = 64  # levels beside zero: a program compares all of a side with all
_ALIGNED = 64  # items: gradients of several parameters lie in one memory
_OPTIONS = {"enable_fp_fusion": False}


@lru_cache(maxsize=1)
def _programs() -> Any:
    """The kernels, or None where there is no Triton."""
    if find_spec("triton") is None:
        return None
    from ectorch.constrain.kernels import programs

    return programs


def has_programs() -> bool:
    """Whether there is Triton."""
    return _programs() is not None


def serves(weight: Tensor) -> bool:
    """Whether the kernels know this tensor."""
    return weight.is_cuda and weight.dtype.is_floating_point and has_programs()


def round_to_grid(
    weight: Tensor,
    log_gaps: Tensor,
    levels: int,
    noise: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """See `plain.round_to_grid`."""
    weight = dense(weight)
    out = torch.empty_like(weight, dtype=dtype)
    if weight.numel():
        programs = -(-weight.numel() // _ROUNDED)
        _programs().round_block[programs,](
            *(weight, log_gaps, log_gaps if noise is None else beside(weight, noise), out),
            *_grid(weight, log_gaps, levels),
            NOISY=noise is not None,
            BLOCK=_ROUNDED,
            **_OPTIONS,
        )
    return out


def by_step(
    grad: Tensor, weight: Tensor, log_gaps: Tensor, levels: int, noise: Tensor | None = None
) -> Tensor:
    """See `plain.by_step`; sums are of another order than there, and always the same."""
    weight = dense(weight)
    count = max(1, -(-weight.numel() // (_BLOCK * _BLOCKS)))
    partials = torch.empty(count, dtype=torch.float64, device=weight.device)
    _programs().by_step_block[count,](
        *(beside(weight, grad), weight, log_gaps),
        *(log_gaps if noise is None else beside(weight, noise), partials),
        *_grid(weight, log_gaps, levels),
        NOISY=noise is not None,
        BLOCK=_BLOCK,
        BLOCKS=_BLOCKS,
        **_OPTIONS,
    )
    return _sum_to_log_gaps(partials, log_gaps, levels, divide=True)


def moments(weight: Tensor, log_gaps: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """See `plain.moments`."""
    weight = dense(weight)
    mean, variance = torch.empty_like(weight), torch.empty_like(weight)
    if weight.numel():
        _programs().moments_block[-(-weight.numel() // _ROUNDED),](
            *(weight, log_gaps, mean, variance),
            *_grid(weight, log_gaps, levels),
            BLOCK=_ROUNDED,
            **_OPTIONS,
        )
    return mean, variance


def moments_backward(
    by_mean: Tensor | None,
    by_variance: Tensor | None,
    weight: Tensor,
    log_gaps: Tensor,
    levels: int,
) -> tuple[Tensor, Tensor]:
    """See `plain.moments_backward`."""
    weight = dense(weight)
    out = torch.empty_like(weight)
    count = max(1, -(-weight.numel() // (_BLOCK * _BLOCKS)))
    partials = torch.empty(count, dtype=torch.float64, device=weight.device)
    _programs().moments_back_block[count,](
        *(weight if by is None else beside(weight, by) for by in (by_mean, by_variance)),
        *(weight, log_gaps, out, partials),
        *_grid(weight, log_gaps, levels),
        MEAN=by_mean is not None,
        VARIANCE=by_variance is not None,
        BLOCK=_BLOCK,
        BLOCKS=_BLOCKS,
        **_OPTIONS,
    )
    return out, _sum_to_log_gaps(partials, log_gaps, levels, divide=False)


def counts(
    weights: Sequence[Tensor], log_gaps: Sequence[Tensor], levels: Sequence[int]
) -> list[Tensor]:
    """See `plain.counts`; of codebooks of many levels, it is that."""
    found: dict[int, Tensor] = {}
    for places in _groups(weights, levels):
        some = [dense(weights[at]) for at in places]
        gaps, many = [log_gaps[at] for at in places], [levels[at] for at in places]
        if max(many) - 1 > _MOST_BINS:
            found |= dict(zip(places, plain.counts(some, gaps, many), strict=True))
            continue
        plan = _plan_of(some, gaps, many, _COUNTED * _COUNTED_BLOCKS)
        bins = _power_of_two(max(many) - 1)
        count = plan.programs.shape[0]
        partials = plan.table.new_empty((count, 2, bins))
        wrongs = torch.empty(count, dtype=torch.int32, device=plan.table.device)
        if count:
            _programs().count_blocks[count,](
                *(plan.table, plan.bounds, plan.programs, partials, wrongs),
                ELEMENT=_element(some[0]),
                BINS=bins,
                BLOCK=_COUNTED,
                BLOCKS=_COUNTED_BLOCKS,
                num_warps=1,
                **_OPTIONS,
            )
        out = torch.empty((len(some), 2 * bins), dtype=torch.float64, device=plan.table.device)
        _programs().sum_counts[len(some),](
            *(partials, wrongs, plan.firsts, out),
            BINS=bins,
            LEVELS=2 * bins,
            ROWS=_SUMMED,
            **_OPTIONS,
        )
        found |= {at: out[row, : levels[at]] for row, at in enumerate(places)}
    return [found[at] for at in range(len(weights))]


def isotonic(counts: Tensor, zero: int) -> Tensor | None:
    """(rows, levels) float64 counts that fall away from ``zero``; None where not served."""
    levels = counts.shape[1]
    side = _power_of_two(max(zero, levels - 1 - zero) + 1)
    if side > _MOST_SIDE or not serves(counts):
        return None
    out = torch.empty_like(counts)
    _programs().isotonic_rows[len(counts),](counts, out, levels, zero, SIDE=side, **_OPTIONS)
    return out


def charge_backward(
    grad: Tensor,
    weights: Sequence[Tensor],
    log_gaps: Sequence[Tensor],
    levels: Sequence[int],
    lengths: Sequence[Tensor],
    scales: Sequence[float],
) -> list[Tensor]:
    """See `plain.charge_backward`."""
    found: dict[int, Tensor] = {}
    for places in _groups(weights, levels):
        some = [dense(weights[at]) for at in places]
        gaps, many = [log_gaps[at] for at in places], [levels[at] for at in places]
        plan = _plan_of(some, gaps, many, _BLOCK * _BLOCKS)
        factors = constants(tuple(scales[at] for at in places), grad.device)
        out = torch.empty(plan.size, dtype=some[0].dtype, device=grad.device)
        if plan.programs.shape[0]:
            _programs().charge_blocks[plan.programs.shape[0],](
                *(plan.table, plan.bounds, plan.programs, factors),
                *(torch.cat([lengths[at] for at in places]), plan.starts, grad.double(), out),
                ELEMENT=_element(some[0]),
                BLOCK=_BLOCK,
                BLOCKS=_BLOCKS,
                **_OPTIONS,
            )
        found |= {
            at: out.as_strided(weight.shape, weight.stride(), offset)
            for at, weight, offset in zip(places, some, plan.offsets, strict=True)
        }
    return [found[at] for at in range(len(weights))]


def deviate(spread: Tensor, floor: Tensor, seed: Tensor) -> Tensor:
    """See `ops.deviate`."""
    spread = dense(spread)
    out = torch.empty_like(spread)
    if spread.numel():
        _programs().deviate_block[-(-spread.numel() // _ROUNDED),](
            spread, floor, seed, out, spread.numel(), BLOCK=_ROUNDED
        )
    return out


def deviate_backward(grad: Tensor, spread: Tensor, floor: Tensor, seed: Tensor) -> Tensor:
    """What `deviate` hands back to ``spread``: its numbers are drawn again."""
    spread = dense(spread)
    out = torch.empty_like(spread)
    if spread.numel():
        _programs().deviate_back_block[-(-spread.numel() // _ROUNDED),](
            beside(spread, grad), spread, floor, seed, out, spread.numel(), BLOCK=_ROUNDED
        )
    return out


class _Plan(NamedTuple):
    """Which program takes which weights of which parameter, on the device.

    Attributes:
        table, bounds, programs: as the kernels read them.
        firsts: (parameters + 1,) each one's first program.
        starts: (parameters,) where each one's levels begin among all.
        offsets: where each one's gradient begins in a memory of ``size`` items.
    """

    table: Tensor
    bounds: Tensor
    programs: Tensor
    firsts: Tensor
    starts: Tensor
    offsets: list[int]
    size: int


def _plan_of(
    weights: Sequence[Tensor], log_gaps: Sequence[Tensor], levels: Sequence[int], chunk: int
) -> _Plan:
    rows = tuple(
        (weight.data_ptr(), gaps.data_ptr(), weight.numel(), *multiples(many))
        for weight, gaps, many in zip(weights, log_gaps, levels, strict=True)
    )
    return _plan(rows, chunk, weights[0].device, log_gaps[0].dtype)


@lru_cache(maxsize=32)
def _plan(
    rows: tuple[tuple[int, ...], ...], chunk: int, device: torch.device, dtype: torch.dtype
) -> _Plan:
    room = [-(-row[2] // _ALIGNED) * _ALIGNED for row in rows]
    *offsets, size = accumulate(room, initial=0)
    programs = [(at, start) for at, row in enumerate(rows) for start in range(0, row[2], chunk)]
    firsts = [*accumulate((-(-row[2] // chunk) for row in rows), initial=0)]
    *starts, _ = accumulate((row[4] - row[3] + 1 for row in rows), initial=0)
    table = [(*row, offset) for row, offset in zip(rows, offsets, strict=True)]

    bounds = [known_log_gap_range(dtype, row[4] - row[3] + 1) for row in rows]

    def brought(numbers: Any, *shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
        there = torch.tensor(numbers, dtype=dtype).reshape(shape)
        return there.to(device, non_blocking=True)

    return _Plan(
        table=brought(table, -1, 6),
        bounds=brought(bounds, -1, 2, dtype=torch.float64),
        programs=brought(programs, -1, 2),
        firsts=brought(firsts, -1),
        starts=brought(starts, -1),
        offsets=offsets,
        size=size,
    )


def _groups(weights: Sequence[Tensor], levels: Sequence[int]) -> list[list[int]]:
    """Places of parameters that one launch serves: of a dtype and a device, and of few levels."""
    places: dict[Any, list[int]] = {}
    for at, (weight, many) in enumerate(zip(weights, levels, strict=True)):
        few = many - 1 <= _MOST_BINS
        places.setdefault((weight.dtype, weight.device, few or many), []).append(at)
    return [*places.values()]


def _grid(weight: Tensor, log_gaps: Tensor, levels: int) -> tuple[Any, ...]:
    return weight.numel(), *multiples(levels), *known_log_gap_range(log_gaps.dtype, levels)


def _sum_to_log_gaps(partials: Tensor, log_gaps: Tensor, levels: int, divide: bool) -> Tensor:
    out = torch.empty_like(log_gaps)
    least, most = known_log_gap_range(log_gaps.dtype, levels)
    _programs().sum_to_log_gaps[1,](
        partials, len(partials), log_gaps, out, least, most, DIVIDE=divide, BLOCK=256, **_OPTIONS
    )
    return out


def _power_of_two(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _element(tensor: Tensor) -> Any:
    """Triton's name of a tensor's dtype."""
    language = _programs().tl
    return {
        torch.float16: language.float16,
        torch.bfloat16: language.bfloat16,
        torch.float32: language.float32,
        torch.float64: language.float64,
    }[tensor.dtype]
