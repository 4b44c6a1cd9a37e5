"""The compiled context model and its plain twin: both round-trip, and write the same bytes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ectorch.bitstream.native import DamagedStream

NO_HINT = np.zeros(0, np.uint32)
ORDERS = range(4)


def decode(twin, data, how):
    """The symbols, or None where the stream is refused."""
    symbols = np.empty(np.prod(how[0]), np.uint16)
    try:
        twin.context_decode(data, symbols, *how)
    except DamagedStream:
        return None
    return symbols.tolist()


def coding(shape, levels, zero, order=0, live=True, light=False, hint=NO_HINT):
    return shape, order, live, light, levels, zero, hint


SIDES = st.one_of(st.just((1, 1)), st.tuples(st.integers(1, 4), st.integers(1, 4)))
LEVELS = st.one_of(st.integers(1, 40), st.sampled_from([255, 256, 1000, 65535, 65536]))


@st.composite
def codings(draw):
    levels = draw(LEVELS)
    return (
        (draw(st.integers(1, 7)), draw(st.integers(1, 4)), *draw(SIDES)),
        draw(st.sampled_from(ORDERS)),
        draw(st.booleans()),
        draw(st.booleans()),
        levels,
        draw(st.one_of(st.just(0), st.just(levels - 1), st.integers(0, levels - 1))),
        np.array(draw(st.lists(st.integers(0, 2**32 - 1), max_size=6)), np.uint32),
    )


@st.composite
def tensors(draw):
    """Symbols, zero more often than not, and how to code them."""
    how = draw(codings())
    levels, zero = how[4:6]
    near_zero = st.integers(max(zero - 3, 0), min(zero + 3, levels - 1))
    symbol = st.one_of(st.just(zero), near_zero, st.integers(0, levels - 1))
    items = int(np.prod(how[0]))
    nonzeros = draw(st.dictionaries(st.integers(0, items - 1), symbol, max_size=40))
    symbols = np.full(items, zero, np.uint16)
    symbols[list(nonzeros)] = list(nonzeros.values())
    return symbols, how


@settings(max_examples=300)
@given(tensors())
def test_both_write_the_same_bytes_and_read_them(twins, tensor):
    symbols, how = tensor
    stream, *others = [twin.context_encode(symbols, *how) for twin in twins]
    assert all(other == stream for other in others)
    assert all(decode(twin, stream, how) == symbols.tolist() for twin in twins)


@settings(max_examples=300)
@given(st.binary(max_size=60), codings())
@example(b"\xff" * 6, coding((2, 2, 1, 1), 3, 1))
@example(b"\xff" * 40, coding((2, 2, 2, 2), 65536, 0))
def test_both_read_noise_alike_or_refuse_it(twins, data, how):
    symbols, *others = [decode(twin, data, how) for twin in twins]
    assert all(other == symbols for other in others)
    assert symbols is None or max(symbols) < how[4]


@pytest.mark.parametrize("light", [False, True])
def test_both_write_the_same_bytes_once_everything_is_learnt(twins, light):
    """Counts at their most, magnitudes of every length."""
    rng = np.random.default_rng(3)
    symbols = np.full((60, 4, 3, 3), 9, np.uint16)
    symbols[:, 1] = 10
    symbols[:, 2:] = 2 ** rng.integers(0, 17, (60, 2, 3, 3)) - 1
    how = coding(symbols.shape, 65536, 9, light=light)
    stream, *others = [twin.context_encode(symbols.ravel(), *how) for twin in twins]
    assert all(other == stream for other in others)
    assert decode(twins[0], stream, how) == symbols.ravel().tolist()


SPECIAL = {
    "one item that is zero": ([1], coding((1, 1, 1, 1), 2, 1)),
    "one item that is not": ([0], coding((1, 1, 1, 1), 2, 1)),
    "one level": ([0] * 12, coding((3, 4, 1, 1), 1, 0)),
    "two levels": ([0, 1] * 6, coding((3, 4, 1, 1), 2, 0)),
    "all zero": ([5] * 48, coding((4, 3, 2, 2), 33, 5)),
    "no zero": ([4] * 48, coding((4, 3, 2, 2), 33, 5)),
    "one row": ([0, 1, 2, 3, 2], coding((1, 5, 1, 1), 4, 2)),
    "one column": ([0, 1, 2, 3, 2], coding((5, 1, 1, 1), 4, 2)),
    "one row of a kernel": ([0, 1, 2, 3, 2], coding((1, 1, 1, 5), 4, 2)),
    "one column of a kernel": ([0, 1, 2, 3, 2], coding((1, 1, 5, 1), 4, 2)),
    "extremes up": ([0, 65535, 1, 65534, 0, 32768], coding((2, 3, 1, 1), 65536, 0)),
    "extremes down": ([0, 65535, 1, 65534, 0, 32768], coding((2, 3, 1, 1), 65536, 65535)),
    "hint of one": ([0, 1, 0] * 4, coding((2, 6, 1, 1), 2, 0, hint=np.array([9], np.uint32))),
    "hint that does not divide": (
        [0, 1, 0] * 4,
        coding((2, 6, 1, 1), 2, 0, hint=np.array([0, 1, 2**32 - 1, 7], np.uint32)),
    ),
    "hint longer than the columns": (
        [0, 1, 0] * 4,
        coding((2, 6, 1, 1), 2, 0, hint=np.arange(50, dtype=np.uint32)),
    ),
}


@pytest.mark.parametrize("light", [False, True])
@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", SPECIAL)
def test_special_cases_round_trip(twin, case, order, live, light):
    symbols, (shape, _, _, _, *rest) = SPECIAL[case]
    how = (shape, order, live, light, *rest)
    stream = twin.context_encode(np.array(symbols, np.uint16), *how)
    assert decode(twin, stream, how) == symbols


@pytest.mark.parametrize("shape", [(0, 3, 1, 1), (3, 0, 1, 1), (2**31 - 1, 2**31 - 1, 0, 1)])
def test_no_items_need_no_bytes(twin, shape):
    how = coding(shape, 3, 1)
    assert twin.context_encode(np.zeros(0, np.uint16), *how) == b""
    assert decode(twin, b"", how) == []
    assert decode(twin, b"\1" * 20, how) is None


def test_dead_rows_and_columns_cost_next_to_nothing(twin):
    symbols = np.zeros((100, 100), np.uint16)
    symbols[10:14, 50:90] = 1
    size = len(twin.context_encode(symbols.ravel(), *coding((100, 100, 1, 1), 2, 0)))
    assert size < 30


def pruned(seed=11):
    """(40, 60) symbols of five levels, two of them the zero: rows and columns differ in density."""
    rng = np.random.default_rng(seed)
    density = np.outer(rng.dirichlet(np.full(40, 0.5)), rng.dirichlet(np.full(60, 0.5))) * 400
    magnitudes = 1 + rng.binomial(1, 0.3, (40, 60))
    signs = rng.choice([-1, 1], (40, 60))
    kept = rng.random((40, 60)) < density
    return (2 + kept * signs * magnitudes).astype(np.uint16)


@pytest.mark.parametrize("light", [False, True])
def test_a_tensor_with_structure_takes_less_than_its_entropy(twin, light):
    symbols = pruned()
    shares = np.unique(symbols, return_counts=True)[1] / symbols.size
    entropy_bytes = -(shares * np.log2(shares)).sum() * symbols.size / 8
    how = coding((40, 60, 1, 1), 5, 2, light=light)
    stream = twin.context_encode(symbols.ravel(), *how)
    assert decode(twin, stream, how) == symbols.ravel().tolist()
    assert len(stream) < 0.85 * entropy_bytes


TINY = np.array([2, 2, 3, 2, 2, 0, 2, 2, 4, 2, 2, 1, 2, 2, 2, 2], np.uint16)


@pytest.mark.parametrize(
    ("light", "expected"),
    [(False, "2211de0c"), (True, "25fecb3c45")],
)
def test_the_bytes_of_a_tiny_tensor(twin, light, expected):
    how = coding((2, 2, 2, 2), 5, 2, light=light, hint=np.array([1, 40], np.uint32))
    assert twin.context_encode(TINY, *how).hex() == expected


@pytest.mark.parametrize(
    ("order", "light", "expected"),
    [
        (0, False, "f5f99416dc66c40b"),
        (0, True, "59d29ac20a99b111"),
        (1, False, "073a39857f4da5e1"),
        (1, True, "7a05cd30b9a6c554"),
        (2, False, "77dcf3e00ee18985"),
        (2, True, "e66faf7380892d5f"),
        (3, False, "54dcf47dab04fbb3"),
        (3, True, "bd0ea1e1c2de93e3"),
    ],
)
def test_the_bytes_of_a_larger_tensor(twin, order, light, expected):
    noise = np.frombuffer(hashlib.shake_128(b"symbols").digest(2400), np.uint8)
    symbols = np.where(noise < 200, 40, noise % 81).astype(np.uint16)
    stream = twin.context_encode(symbols, *coding((40, 6, 2, 5), 81, 40, order=order, light=light))
    assert hashlib.sha256(stream).hexdigest()[:16] == expected


def test_bytes_left_over_are_refused(twin):
    how = coding((2, 2, 2, 2), 5, 2)
    stream = twin.context_encode(TINY, *how)
    with pytest.raises(DamagedStream, match="bytes left"):
        twin.context_decode(stream + b"\1" * 8, np.empty_like(TINY), *how)


@pytest.mark.parametrize(
    "how",
    [
        coding((4, 5, 1, 1), 5, 2),
        coding((-4, -4, 1, 1), 5, 2),
        coding((2**16, 2**16, 2**16, 2**16), 5, 2),
        coding((4, 4, 1, 1), 5, 2, order=4),
        coding((4, 4, 1, 1), 5, 2, order=-1),
        coding((4, 4, 1, 1), 5, 5),
        coding((4, 4, 1, 1), 5, -1),
        coding((4, 4, 1, 1), 65537, 2),
        coding((4, 4, 1, 1), 0, 0),
    ],
)
def test_impossible_arguments_are_refused(twin, how):
    with pytest.raises(ValueError):
        twin.context_encode(TINY, *how)
    with pytest.raises(ValueError):
        twin.context_decode(b"", np.empty_like(TINY), *how)


def test_symbols_beyond_the_codebook_are_refused(twin):
    with pytest.raises(ValueError, match="beyond the codebook"):
        twin.context_encode(TINY, *coding((4, 4, 1, 1), 4, 2))
    how = coding((4, 4, 1, 1), 6, 1)  # whose magnitudes have as many bits as 8 levels'
    stream = twin.context_encode(np.full(16, 7, np.uint16), *coding((4, 4, 1, 1), 8, 1))
    with pytest.raises(DamagedStream, match="beyond the codebook"):
        twin.context_decode(stream, np.empty_like(TINY), *how)
