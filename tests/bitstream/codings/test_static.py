import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream.codings import static
from ectorch.bitstream.native import MAX_SCALE_BITS
from ectorch.errors import FormatError

pytestmark = pytest.mark.filterwarnings("ignore:ectorch was built without:RuntimeWarning")
TWO_OR_MORE_LEVELS = st.lists(st.integers(0, 40), max_size=400).map(lambda s: [0, *s, 7])


def decode(stream, count, levels, what="test"):
    out = np.empty(count, np.uint16)
    static.decode_into(stream, out, levels, what)
    return out


@given(TWO_OR_MORE_LEVELS)
def test_symbols_round_trip_and_both_twins_write_the_same_bytes(with_each_twin, symbols):
    levels = max(symbols) + 1
    stream, *others = with_each_twin(lambda: static.encode(np.array(symbols), levels))
    assert all(other == stream for other in others)
    for found in with_each_twin(lambda: decode(stream, len(symbols), levels).tolist()):
        assert found == symbols


def drawn(levels, count, concentration, seed):
    rng = np.random.default_rng(seed)
    symbols = rng.choice(levels, count, p=rng.dirichlet(np.full(levels, concentration)))
    symbols[:2] = 0, levels - 1
    return rng.permutation(symbols)


@pytest.mark.parametrize("levels", [2, 3, 33, 1000])
@pytest.mark.parametrize("count", [50, 3000, 60000])
@pytest.mark.parametrize("concentration", [0.02, 1.0])
def test_estimate_is_the_size_of_the_stream(levels, count, concentration):
    symbols = drawn(levels, count, concentration, seed=count + levels)
    bits = 8 * len(static.encode(symbols, levels))
    estimate = static.estimate_bits(np.bincount(symbols, minlength=levels))
    assert abs(estimate - bits) <= 8 + 1e-4 * bits


@given(TWO_OR_MORE_LEVELS)
def test_no_order_of_the_symbols_costs_more_than_the_estimate(symbols):
    """Less it may cost: trailing zero bytes are not stored."""
    estimate = static.estimate_bits(np.bincount(symbols))
    assert 8 * len(static.encode(np.array(symbols), max(symbols) + 1)) <= estimate + 8


def forced_scale(scale_bits):
    def table(counts):
        tables = static.PricedTables(counts)
        return tables[tables.scales.tolist().index(scale_bits)]

    return table


@pytest.mark.parametrize(("levels", "count", "concentration"), [(3, 400, 1), (33, 9000, 0.1)])
def test_no_other_scale_makes_a_smaller_stream(levels, count, concentration, monkeypatch):
    symbols = drawn(levels, count, concentration, seed=2)
    chosen = len(static.encode(symbols, levels))
    used = np.count_nonzero(np.bincount(symbols))
    sizes = []
    for scale_bits in range(max(int(used - 1).bit_length(), 1), MAX_SCALE_BITS + 1):
        monkeypatch.setattr(static, "best_table", forced_scale(scale_bits))
        sizes.append(len(static.encode(symbols, levels)))
    assert chosen <= min(sizes) + 1
    assert max(sizes) > chosen


@given(
    st.lists(st.one_of(st.integers(0, 3), st.integers(0, 10**9)), min_size=2, max_size=60).filter(
        lambda counts: np.count_nonzero(counts) > 1
    )
)
def test_tables_sum_to_their_scale_and_keep_every_level_that_occurs(counts):
    table = static.best_table(np.array(counts))
    assert sum(table.frequencies) == 1 << table.scale_bits
    assert [f > 0 for f in table.frequencies] == [c > 0 for c in counts]


def test_a_table_of_many_levels_takes_no_minutes():
    counts = np.array([20] * 10000 + [1] * 50000)
    symbols = np.repeat(np.arange(len(counts)), counts)
    start = time.process_time()
    static.encode(symbols, len(counts))
    assert time.process_time() - start < 15


def test_damage_is_refused_by_name(twin):
    stream = static.encode(np.array([0, 1, 2, 1, 0]), 3)
    with pytest.raises(FormatError, match=r"^conv1: bytes left"):
        decode(stream + b"\1" * 8, 5, 3, "conv1")
    with pytest.raises(FormatError, match=r"^conv1: frequency table of scale 0"):
        decode(b"", 5, 3, "conv1")
    with pytest.raises(FormatError, match=r"^conv1: frequency table of scale 0"):
        static.decode_table(b"", 3, "conv1")


@given(st.binary(max_size=80), st.integers(0, 300), st.integers(2, 200))
def test_noise_decodes_to_that_many_symbols_or_a_format_error(data, count, levels):
    try:
        symbols = decode(data, count, levels, "noise")
    except FormatError:
        return
    assert not count or symbols.max() < levels
