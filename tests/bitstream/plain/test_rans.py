"""The compiled rANS kernels and their plain twins, chunk by chunk."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream.native import DamagedStream
from ectorch.bitstream.plain import rans

SYMBOLS = np.array([2, 0, 0, 1, 0, 0, 0, 2, 1], np.uint16)


def uint32(*values):
    return np.array(values, np.uint32)


def slots(*frequencies):
    """One entry a slot: frequency, place in the symbol's interval, symbol."""
    packed = [f << 32 | at << 16 | s for s, f in enumerate(frequencies) for at in range(f)]
    return np.array(packed, np.uint64)


def test_a_chunk_round_trips(twin):
    out = np.empty_like(SYMBOLS)
    data = twin.rans_encode_dense(SYMBOLS, uint32(5, 2, 1), 3)
    twin.rans_decode_dense(data, slots(5, 2, 1), out)
    assert np.array_equal(out, SYMBOLS)
    tokens, data = twin.rans_encode_runs(SYMBOLS, 0, uint32(1, 1, 1, 1), 2, uint32(0, 3, 1), 2)
    assert tokens == 4
    twin.rans_decode_runs(data, tokens, 0, slots(1, 1, 1, 1), slots(0, 3, 1), out)
    assert np.array_equal(out, SYMBOLS)


def test_no_symbols_are_states_alone_and_no_tokens_are_nothing(twin):
    out = np.empty(0, np.uint16)
    data = twin.rans_encode_dense(out, uint32(1, 1), 1)
    assert data == (1 << 16).to_bytes(4, "little") * 8
    twin.rans_decode_dense(data, slots(1, 1), out)
    zeros = np.zeros(5, np.uint16)
    assert twin.rans_encode_runs(zeros, 0, uint32(1, 1), 1, uint32(1, 1), 1) == (0, b"")


def test_long_runs_take_two_steps_of_raw_bits(twin):
    symbols = np.zeros((1 << 19) + 300000, np.uint16)
    symbols[-1] = 1
    tokens, data = twin.rans_encode_runs(symbols, 0, uint32(*[1] * 128), 7, uint32(0, 1, 1, 2), 2)
    out = np.empty_like(symbols)
    tables = slots(*[1] * 128), slots(0, 1, 1, 2)
    twin.rans_decode_runs(data, tokens, 0, *tables, out)
    assert np.array_equal(out, symbols)
    with pytest.raises(DamagedStream, match="beyond the end"):
        twin.rans_decode_runs(data, tokens, 0, *tables, out[:-1])


@given(st.integers(0, (1 << 32) - 1))
def test_run_classes_hold_every_run(run):
    kind = rans._run_class(run)
    base, raw_bits = rans._run_of(kind)
    assert 0 <= kind < 128
    assert 0 <= run - base < 1 << raw_bits
    assert kind == run or 2 << raw_bits <= run


def test_runs_are_counted_by_their_class(twin):
    counts = np.zeros(128, np.uint64)
    twin.count_runs(np.array([0, 5] + [0] * 40 + [1, 1], np.uint16), 0, counts)
    assert {at: n for at, n in enumerate(counts.tolist()) if n} == {0: 1, 1: 1, 21: 1}


ONE, TWO = np.array([0, 1], np.uint16), uint32(1, 1)
LATE = np.array([0, 0, 1], np.uint16)
COUNTS = np.zeros(127, np.uint64)


@pytest.mark.parametrize(
    ("name", "given"),
    {
        "no frequency": ("rans_encode_dense", (ONE, uint32(2, 0), 1)),
        "symbol past the frequencies": ("rans_encode_dense", (ONE + np.uint16(1), TWO, 1)),
        "sum": ("rans_encode_dense", (ONE, uint32(1, 2), 1)),
        "scale": ("rans_encode_dense", (ONE, uint32(1 << 16, 1 << 16), 17)),
        "no levels": ("rans_encode_dense", (ONE[:0], TWO[:0], 1)),
        "runs, no frequency": ("rans_encode_runs", (ONE, 0, TWO, 1, uint32(2, 0), 1)),
        "runs, no frequency of a class": ("rans_encode_runs", (ONE, 0, uint32(2, 0), 1, TWO, 1)),
        "runs, the sum": ("rans_encode_runs", (ONE, 0, uint32(1, 2), 1, TWO, 1)),
        "runs, class past the last": ("rans_encode_runs", (LATE, 0, TWO, 1, TWO, 1)),
        "runs, symbol past the frequencies": ("rans_encode_runs", (ONE, 1, TWO, 1, uint32(2), 1)),
        "dense slots": ("rans_decode_dense", (bytes(32), slots(1, 2), ONE.copy())),
        "one slot": ("rans_decode_dense", (bytes(32), slots(1), ONE.copy())),
        "slots of runs": ("rans_decode_runs", (b"", 0, 0, slots(1, 2), slots(1, 1), ONE.copy())),
        "run classes": ("count_runs", (ONE, 0, COUNTS)),
        "symbol past the counts": ("count_symbols", (ONE, COUNTS[:1])),
    }.values(),
)
def test_what_cannot_be_served_is_a_value_error(twin, name, given):
    with pytest.raises(ValueError, match=r"."):
        getattr(twin, name)(*given)
