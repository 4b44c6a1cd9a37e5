"""The kernels of a grid in Triton: what each program computes of a block of weights.

The numbers are those of `ectorch.constrain.kernels.plain` bit by bit: quotients are rounded, and
`ectorch.constrain.kernels.cuda` launches without contracted products and sums. Imported when the
first CUDA tensor comes; with TRITON_INTERPRET=1 in the environment by then, it runs on a CPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

if triton.knobs.runtime.interpret if hasattr(triton, "knobs") else False:

    @triton.jit
    def _exp(x):
        return tl.exp(x)

else:
    from triton.language.extra import libdevice

    @triton.jit
    def _exp(x):
        return libdevice.exp(x)


@triton.jit
def _clip(x, low, high):
    x = tl.where(x < low, low, x)  # NaN stays NaN
    return tl.where(x > high, high, x)


@triton.jit
def _narrow(x, DTYPE: tl.constexpr):
    """``x`` of another dtype, bfloat16 half to even."""
    if DTYPE == tl.bfloat16:
        single = x.to(tl.float32)
        bits = single.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(single == single, bits, 0x7FC0)
        found = bits.to(tl.uint16).to(tl.bfloat16, bitcast=True)
    else:
        found = x.to(DTYPE)
    return found


@triton.jit
def _gap(log_gaps, least, most):
    """The gap of a grid, in its own dtype."""
    given = tl.load(log_gaps)
    wide = given if given.dtype == tl.float64 else given.to(tl.float32)
    return _narrow(_exp(_clip(wide, least, most)), given.dtype)


@triton.jit
def _step(log_gaps, least, most):
    """`grid.step_of`, as float32, or float64 for such weights."""
    gap = _gap(log_gaps, least, most)
    single = _narrow(gap, tl.bfloat16).to(tl.float32)
    if gap.dtype == tl.float64:
        step = single.to(tl.float64)
    else:
        step = single.to(gap.dtype).to(tl.float32)
    return step


@triton.jit
def _places(weight, step):
    """Weights in steps."""
    if step.dtype == tl.float64:
        places = weight.to(tl.float64) / step
    else:
        single = weight.to(tl.float32)
        places = tl.div_rn(single, tl.zeros_like(single) + step)
    return places


@triton.jit
def _rounded(weight, noise, step, low, high, NOISY: tl.constexpr):
    place = _places(weight, step)
    if NOISY:
        place = tl.floor(_clip(place + (noise.to(place.dtype) * (1.0 / 65536) + 0.5), low, high))
    else:
        clipped = _clip(place, low, high)
        if step.dtype == tl.float64:
            place = (clipped + 6755399441055744.0) - 6755399441055744.0
        else:
            place = (clipped + 12582912.0) - 12582912.0
    index = _narrow(place, weight.dtype).to(step.dtype)
    return _narrow((index * step) + 0.0, weight.dtype)


@triton.jit
def _noise(noise, at, mask, NOISY: tl.constexpr):
    if NOISY:
        found = tl.load(noise + at, mask=mask, other=0)
    else:
        found = mask  # of no use
    return found


@triton.jit(do_not_specialize=["low", "high"])
def round_block(
    weight, log_gaps, noise, out, size, low, high, least, most, NOISY: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    step = _step(log_gaps, least, most)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    given = tl.load(weight + at, mask=mask, other=0.0)
    value = _rounded(given, _noise(noise, at, mask, NOISY), step, low, high, NOISY)
    tl.store(out + at, _narrow(value, out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["low", "high"])
def by_step_block(
    grad, weight, log_gaps, noise, partials, size, low, high, least, most, NOISY: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """One partial sum, float64, of what values hand back to the step."""
    step = _step(log_gaps, least, most)
    first = tl.program_id(0).to(tl.int64) * (BLOCK * BLOCKS)
    total = tl.zeros([BLOCK], step.dtype)
    for block in range(BLOCKS):
        at = first + block * BLOCK + tl.arange(0, BLOCK)
        mask = at < size
        given = tl.load(weight + at, mask=mask, other=0.0)
        value = _rounded(given, _noise(noise, at, mask, NOISY), step, low, high, NOISY)
        moved = value.to(step.dtype) - given.to(step.dtype)
        total += tl.load(grad + at, mask=mask, other=0.0).to(step.dtype) * moved
    tl.store(partials + tl.program_id(0), tl.sum(total.to(tl.float64)))


@triton.jit
def sum_to_log_gaps(partials, count, log_gaps, out, least, most, DIVIDE: tl.constexpr,
                    BLOCK: tl.constexpr):  # fmt: skip
    """`plain.to_log_gaps` of the sum of partial sums, in one order always."""
    total = tl.zeros([BLOCK], tl.float64)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(partials + at, mask=at < count, other=0.0)
    found = tl.sum(total)
    if DIVIDE:
        found = found / _step(log_gaps, least, most).to(tl.float64)
    given = tl.load(log_gaps).to(tl.float64)
    inside = (given >= least) & (given <= most)
    found = tl.where(inside, found * _gap(log_gaps, least, most).to(tl.float64), 0.0)
    tl.store(out, _narrow(found, out.dtype.element_ty))


@triton.jit
def _share(weight, step, low, high):
    """t and k, and whether a weight is within the grid."""
    place = _places(weight, step)
    clipped = _clip(place, low, high)
    below = tl.floor(clipped)
    below = tl.where(below > high - 1, high - 1, below)
    return clipped - below, below, place == clipped


@triton.jit(do_not_specialize=["low", "high"])
def moments_block(
    weight, log_gaps, mean, variance, size, low, high, least, most, BLOCK: tl.constexpr
):
    step = _step(log_gaps, least, most)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    given = tl.load(weight + at, mask=mask, other=0.0)
    share, below, inside = _share(given, step, low, high)
    tl.store(
        mean + at,
        _narrow(_clip(given.to(step.dtype), low * step, high * step), given.dtype),
        mask=mask,
    )
    tl.store(variance + at, _narrow((1 - share) * share * (step * step), given.dtype), mask=mask)


@triton.jit(do_not_specialize=["low", "high"])
def moments_back_block(
    by_mean, by_variance, weight, log_gaps, out, partials, size, low, high, least, most,
    MEAN: tl.constexpr, VARIANCE: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Gradients to weights, and one partial sum of those to the step."""
    step = _step(log_gaps, least, most)
    first = tl.program_id(0).to(tl.int64) * (BLOCK * BLOCKS)
    total = tl.zeros([BLOCK], step.dtype)
    for block in range(BLOCKS):
        at = first + block * BLOCK + tl.arange(0, BLOCK)
        mask = at < size
        given = tl.load(weight + at, mask=mask, other=0.0)
        share, below, inside = _share(given, step, low, high)
        back = tl.zeros([BLOCK], step.dtype)
        if MEAN:
            back = tl.load(by_mean + at, mask=mask, other=0.0).to(step.dtype)
            wide = given.to(step.dtype)
            total += back * ((_clip(wide, low * step, high * step) - wide) / step)
        if VARIANCE:
            by = tl.load(by_variance + at, mask=mask, other=0.0).to(step.dtype)
            by = tl.where(inside, by * step, 0.0)
            total += by * ((2 * below + 1) * share - below)
            back += by * (1 - 2 * share)
        tl.store(out + at, _narrow(back, out.dtype.element_ty), mask=mask)
    tl.store(partials + tl.program_id(0), tl.sum(total.to(tl.float64)))


# Many parameters at once: a row of `table` has addresses of weights and log gaps, the number of
# weights, the first and the last level in steps, an offset of its own; a row of `bounds` the range
# of log gaps; `programs` says which row, and which weights from, each program takes.
COLUMNS = tl.constexpr(6)


@triton.jit
def _row(table, bounds, programs, ELEMENT: tl.constexpr):
    at = tl.load(programs + 2 * tl.program_id(0))
    row = table + at * COLUMNS
    weight = tl.load(row).to(tl.pointer_type(ELEMENT))
    log_gaps = tl.load(row + 1).to(tl.pointer_type(ELEMENT))
    least, most = tl.load(bounds + 2 * at), tl.load(bounds + 2 * at + 1)
    if ELEMENT != tl.float64:
        least, most = least.to(tl.float32), most.to(tl.float32)
    step = _step(log_gaps, least, most)
    return (weight, tl.load(row + 2), tl.load(row + 3), tl.load(row + 4), tl.load(row + 5),
            tl.load(programs + 2 * tl.program_id(0) + 1), step)  # fmt: skip


@triton.jit
def _blocks(size, first, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):
    """How many blocks of its chunk hold weights."""
    return tl.minimum(BLOCKS, tl.cdiv(size - first, BLOCK)).to(tl.int32)


@triton.jit
def count_blocks(
    table, bounds, programs, partials, wrongs, ELEMENT: tl.constexpr, BINS: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """(2, BINS) int64 a program: weights between a level and the next; what of them is the next's.

    In units of 2**-40. A block's two sums travel in one integer.
    """
    weight, size, low, high, offset, first, step = _row(table, bounds, programs, ELEMENT)
    bins = tl.arange(0, BINS)
    items = tl.zeros([BINS], tl.int64)
    above = tl.zeros([BINS], tl.int64)
    wrong = tl.zeros([BLOCK], tl.int32)
    for block in range(_blocks(size, first, BLOCK, BLOCKS)):
        at = first + block * BLOCK + tl.arange(0, BLOCK)
        mask = at < size
        given = tl.load(weight + at, mask=mask, other=0.0)
        wide = given.to(step.dtype)
        wrong += ((wide - wide) != 0.0).to(tl.int32)
        share, below, inside = _share(given, step, low, high)
        number = share == share
        own = tl.where(number, below, 0.0).to(tl.int32) - low.to(tl.int32)
        own = tl.where(mask, own, -1)
        fixed = (tl.where(number, share, 0.0) * 1099511627776.0).to(tl.int64)
        packed = fixed + (1 << 50)
        here = own[:, None] == bins[None, :]
        sums = tl.sum(tl.where(here, packed[:, None], 0), axis=0)
        items += sums >> 50
        above += sums & ((1 << 50) - 1)
    out = partials + tl.program_id(0).to(tl.int64) * (2 * BINS)
    tl.store(out + bins, items)
    tl.store(out + BINS + bins, above)
    tl.store(wrongs + tl.program_id(0), tl.sum(wrong))


@triton.jit
def sum_counts(
    partials, wrongs, firsts, counts, BINS: tl.constexpr, LEVELS: tl.constexpr, ROWS: tl.constexpr
):
    """(LEVELS,) float64 counts of one parameter from what its programs found."""
    row = tl.program_id(0)
    start, stop = tl.load(firsts + row), tl.load(firsts + row + 1)
    levels, rows = tl.arange(0, LEVELS)[None, :], tl.arange(0, ROWS)[:, None]
    own, before = levels < BINS, (levels > 0) & (levels <= BINS)
    high, low = tl.zeros([LEVELS], tl.int64), tl.zeros([LEVELS], tl.int64)
    wrong = tl.zeros([ROWS], tl.int32)
    for block in range(tl.cdiv(stop - start, ROWS).to(tl.int32)):
        program = start + block * ROWS + rows
        part, known = partials + program * (2 * BINS) + levels, program < stop
        above = tl.load(part + BINS, mask=known & own, other=0)
        from_below = tl.load(part + BINS - 1, mask=known & before, other=0)
        items = tl.load(part, mask=known & own, other=0)
        high += tl.sum((items << 20) - (above >> 20) + (from_below >> 20), axis=0)
        low += tl.sum((from_below & 1048575) - (above & 1048575), axis=0)
        each = start + block * ROWS + tl.arange(0, ROWS)
        wrong += tl.load(wrongs + each, mask=each < stop, other=0)
    found = high.to(tl.float64) * 9.5367431640625e-07 + low.to(tl.float64) * 9.094947017729282e-13
    found = tl.where(tl.sum(wrong) == 0, found, float("nan"))
    tl.store(counts + row * LEVELS + tl.arange(0, LEVELS), found)


@triton.jit
def charge_blocks(
    table, bounds, programs, scales, lengths, starts, grad, out, ELEMENT: tl.constexpr,
    BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """What the rate hands back to each weight: the slope between its two levels."""
    weight, size, low, high, offset, first, step = _row(table, bounds, programs, ELEMENT)
    row = tl.load(programs + 2 * tl.program_id(0))
    by = (tl.load(grad) * tl.load(scales + row)).to(tl.float32)
    own = lengths + tl.load(starts + row)
    levels = high - low + 1
    for block in range(_blocks(size, first, BLOCK, BLOCKS)):
        at = first + block * BLOCK + tl.arange(0, BLOCK)
        mask = at < size
        given = tl.load(weight + at, mask=mask, other=0.0)
        place = _clip(_places(given, step) + (1 - low), 0, levels)
        index = tl.where(place == place, place, 0.0).to(tl.int64)
        inside = mask & (index > 0) & (index < levels)
        rise = tl.load(own + index, mask=inside, other=0.0)
        rise -= tl.load(own + index - 1, mask=inside, other=0.0)
        single = step.to(tl.float32)
        slope = tl.div_rn(rise.to(tl.float32), tl.zeros_like(rise).to(tl.float32) + single) * by
        tl.store(out + offset + at, _narrow(slope, ELEMENT), mask=mask)


@triton.jit
def deviate_block(spread, floor, seed, out, size, BLOCK: tl.constexpr):
    """Normal noise of variance ``max(spread, floor)``, of a seed and each place."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    variance = tl.load(spread + at, mask=mask, other=0.0).to(tl.float32)
    least = tl.load(floor).to(tl.float32)
    variance = tl.where(variance < least, least, variance)  # NaN stays NaN
    noise = tl.randn(tl.load(seed), at) * tl.sqrt(variance)
    tl.store(out + at, _narrow(noise, out.dtype.element_ty), mask=mask)


@triton.jit
def deviate_back_block(grad, spread, floor, seed, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    variance = tl.load(spread + at, mask=mask, other=0.0).to(tl.float32)
    least = tl.load(floor).to(tl.float32)
    slope = tl.load(grad + at, mask=mask, other=0.0).to(tl.float32) * tl.randn(tl.load(seed), at)
    within = variance <= least
    slope = tl.where(within, 0.0, 0.5 * slope / tl.sqrt(tl.where(within, 1.0, variance)))
    tl.store(out + at, _narrow(slope, out.dtype.element_ty), mask=mask)


@triton.jit
def _greater(one, other):
    return tl.maximum(one, other)


@triton.jit
def _falling(values, SIDE: tl.constexpr):
    """The non-increasing fit of (SIDE,) values: `lengths.isotonic_by_bounds`, a side of it."""
    place = tl.arange(0, SIDE)
    sums = tl.cumsum(values, 0)
    first, last = place[:, None], place[None, :]
    total = sums[None, :] - (sums - values)[:, None]
    mean = total / (last - first + 1).to(tl.float64)
    mean = tl.where(last >= first, mean, float("-inf"))
    most = tl.associative_scan(mean, 1, _greater, reverse=True)
    return tl.min(tl.where(last >= first, most, float("inf")), axis=0)


@triton.jit(do_not_specialize=["levels", "zero"])
def isotonic_rows(counts, out, levels, zero, SIDE: tl.constexpr):
    """A row of counts that fall away from ``zero``; SIDE is more than a side has of levels."""
    row = tl.program_id(0) * levels
    place = tl.arange(0, SIDE)
    has_left, has_right = place < zero, place < levels - 1 - zero
    left = tl.load(counts + row + zero - 1 - place, mask=has_left, other=0.0)
    right = tl.load(counts + row + zero + 1 + place, mask=has_right, other=0.0)
    top = tl.load(counts + row + zero)
    sums_left, sums_right = tl.cumsum(left, 0) - left, tl.cumsum(right, 0) - right
    mean = top + sums_left[:, None] + sums_right[None, :]
    mean = mean / (1 + place[:, None] + place[None, :]).to(tl.float64)
    within = (place <= zero)[:, None] & (place <= levels - 1 - zero)[None, :]
    best = tl.max(tl.where(within, mean, float("-inf")))
    finite = tl.sum((left - left) + (right - right)) + (top - top)  # 0, or NaN
    best = tl.where(finite == 0.0, best, float("nan"))
    tl.store(out + row + zero, best)
    fit = _falling(left, SIDE)
    tl.store(out + row + zero - 1 - place, tl.where(fit < best, fit, best), mask=has_left)
    fit = _falling(right, SIDE)
    tl.store(out + row + zero + 1 + place, tl.where(fit < best, fit, best), mask=has_right)
