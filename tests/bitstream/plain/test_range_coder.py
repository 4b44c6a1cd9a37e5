from itertools import accumulate, pairwise

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream.native import MAX_SCALE_BITS, DamagedStream
from ectorch.bitstream.plain.range_coder import RangeDecoder, RangeEncoder

SCALES = st.integers(1, MAX_SCALE_BITS)


@st.composite
def tables(draw):
    scale_bits = draw(SCALES)
    near_edges = st.one_of(
        st.integers(0, 1 << scale_bits),
        st.sampled_from([0, 1, (1 << scale_bits) - 1, 1 << scale_bits]),
    )
    cuts = sorted(draw(st.lists(near_edges, max_size=12)))
    edges = [0, *cuts, 1 << scale_bits]
    return [b - a for a, b in pairwise(edges)], scale_bits


@st.composite
def coded(draw, max_runs=8):
    """A table and symbols that it can code, in runs."""
    frequencies, scale_bits = draw(tables())
    used = [symbol for symbol, frequency in enumerate(frequencies) if frequency]
    runs = draw(st.lists(st.tuples(st.sampled_from(used), st.integers(1, 60)), max_size=max_runs))
    return frequencies, scale_bits, [symbol for symbol, length in runs for _ in range(length)]


UNIFORM = st.integers(0, MAX_SCALE_BITS).flatmap(
    lambda bits: st.tuples(st.integers(0, (1 << bits) - 1), st.just(bits))
)
PARTS = st.lists(st.one_of(UNIFORM, coded(max_runs=3)), max_size=8)


def encode(parts):
    coder = RangeEncoder()
    for part in parts:
        if len(part) == 2:
            coder.encode_uniform(*part)
        else:
            frequencies, scale_bits, symbols = part
            coder.encode_symbols(symbols, frequencies, scale_bits)
    return coder.finish()


def interval(parts):
    """The interval that the coder narrows down to, without carries: low is one long integer."""
    low, width, shipped = 0, (1 << 48) - 1, 0
    for part in parts:
        if len(part) == 2:
            steps = [(part[0], 1, part[1])]
        else:
            frequencies, scale_bits, symbols = part
            starts = [0, *accumulate(frequencies)]
            steps = [(starts[s], frequencies[s], scale_bits) for s in symbols]
        for start, frequency, scale_bits in steps:
            unit = width >> scale_bits
            low, width = low + start * unit, frequency * unit
            while width < 1 << 40:
                low, width, shipped = low << 8, width << 8, shipped + 1
    return low, width, shipped + 6


def format_page_decoder(data):
    """The decoder as FORMAT.md prints it: knows nothing of ours."""
    data = iter(data)
    code, width = 0, 2**48 - 1
    for _ in range(6):
        code = code << 8 | next(data, 0)

    def read(frequencies, s):
        nonlocal code, width
        unit = width >> s
        t = code // unit
        assert t < 2**s
        start = symbol = 0
        while not start <= t < start + frequencies(symbol):
            start += frequencies(symbol)
            symbol += 1
        code -= start * unit
        width = frequencies(symbol) * unit
        while width < 2**40:
            code = code << 8 | next(data, 0)
            width <<= 8
        return symbol

    return read


@given(coded(max_runs=30))
def test_symbols_round_trip(table_and_symbols):
    frequencies, scale_bits, symbols = table_and_symbols
    decoder = RangeDecoder(encode([table_and_symbols]))
    assert list(decoder.decode_symbols(len(symbols), frequencies, scale_bits)) == symbols
    assert decoder.exhausted


@given(PARTS)
def test_uniform_integers_and_symbols_mix(parts):
    decoder = RangeDecoder(encode(parts))
    for part in parts:
        if len(part) == 2:
            assert decoder.decode_uniform(part[1]) == part[0]
        else:
            frequencies, scale_bits, symbols = part
            assert list(decoder.decode_symbols(len(symbols), frequencies, scale_bits)) == symbols
    assert decoder.exhausted


@given(coded())
def test_the_printed_decoder_reads_the_same(table_and_symbols):
    frequencies, scale_bits, symbols = table_and_symbols
    read = format_page_decoder(encode([table_and_symbols]))
    assert [read(frequencies.__getitem__, scale_bits) for _ in symbols] == symbols


@given(PARTS)
def test_stream_lies_in_the_interval_and_is_the_shortest_that_does(parts):
    stream = encode(parts)
    low, width, size = interval(parts)
    assert low <= int.from_bytes(stream.ljust(size, b"\0"), "big") < low + width
    if stream:
        assert stream[-1]
        unit = 1 << 8 * (size - len(stream) + 1)
        assert -(-low // unit) * unit >= low + width


@pytest.mark.parametrize("above", [False, True])
@pytest.mark.parametrize("length", [8, 300])
def test_a_carry_runs_through_any_number_of_bytes(length, above):
    """Symbols whose intervals straddle the middle leave 7f ff ff ... or 80 00 00 ... open."""
    frequencies, symbols, straddling = [1] * 256, [], 0
    while len(symbols) < length or straddling in (0, 255):
        low, width, size = interval([(frequencies, 8, symbols)])
        straddling = ((1 << 8 * size - 1) - low) // (width >> 8)
        symbols.append(straddling)
    symbols[-1] += 1 if above else -1
    stream = encode([(frequencies, 8, symbols)])
    settled = length - 2
    assert stream.startswith(b"\x80" + b"\0" * settled if above else b"\x7f" + b"\xff" * settled)
    decoder = RangeDecoder(stream)
    assert list(decoder.decode_symbols(len(symbols), frequencies, 8)) == symbols


@pytest.mark.parametrize("rare_first", [True, False])
def test_a_frequency_of_one_in_2_to_the_24(rare_first):
    frequencies = [1, 2**24 - 1] if rare_first else [2**24 - 1, 1]
    rare, usual = (0, 1) if rare_first else (1, 0)
    symbols = [usual] * 3000 + [rare] * 50 + [usual] * 2000 + [rare]
    part = (frequencies, 24, symbols)
    stream = encode([part])
    assert len(stream) <= 51 * 3 + 8
    assert list(RangeDecoder(stream).decode_symbols(5051, frequencies, 24)) == symbols


def skewed(scale_bits, levels, rng):
    weights = rng.dirichlet(np.full(levels, 0.1))
    frequencies = 1 + np.floor(weights * ((1 << scale_bits) - levels)).astype(np.int64)
    frequencies[0] += (1 << scale_bits) - frequencies.sum()
    return frequencies


@pytest.mark.parametrize(
    ("scale_bits", "levels", "count"),
    [(1, 2, 5000), (8, 3, 20000), (12, 33, 20000), (16, 300, 20000), (24, 17, 20000), (24, 2, 9)],
)
def test_constriction_codes_the_same_symbols_and_no_shorter(scale_bits, levels, count):
    rng = np.random.default_rng(levels)
    frequencies = skewed(scale_bits, levels, rng)
    symbols = rng.choice(levels, count, p=frequencies / frequencies.sum()).astype(np.int32)
    oracle_queue = constriction.stream.queue
    model = constriction.stream.model.Categorical(frequencies / 2.0**scale_bits, perfect=False)
    oracle = oracle_queue.RangeEncoder()
    oracle.encode(symbols, model)
    words = oracle.get_compressed()

    stream = encode([(frequencies.tolist(), scale_bits, symbols.tolist())])
    ours = RangeDecoder(stream).decode_symbols(count, frequencies.tolist(), scale_bits)
    theirs = oracle_queue.RangeDecoder(words).decode(model, count)
    assert list(ours) == theirs.tolist() == symbols.tolist()
    assert len(stream) <= words.nbytes + 4
    ideal_bits = -np.log2(frequencies[symbols] / 2.0**scale_bits).sum()
    assert abs(len(stream) - ideal_bits / 8) <= 0.001 * ideal_bits / 8 + 8


@given(st.binary(max_size=64), tables(), st.integers(0, 24))
def test_noise_decodes_to_possible_symbols_or_are_refused(data, table, bits):
    frequencies, scale_bits = table
    try:
        decoder = RangeDecoder(data)
        assert 0 <= decoder.decode_uniform(bits) < 1 << bits
        symbols = decoder.decode_symbols(500, frequencies, scale_bits)
    except DamagedStream:
        return
    assert all(frequencies[symbol] for symbol in symbols)


DECISIONS = st.lists(
    st.tuples(st.booleans(), st.one_of(st.integers(1, 65535), st.sampled_from([1, 65535])))
)


@given(st.lists(st.one_of(UNIFORM, DECISIONS), max_size=8))
def test_decisions_round_trip_between_uniform_integers(parts):
    coder = RangeEncoder()
    for part in parts:
        if isinstance(part, tuple):
            coder.encode_uniform(*part)
        else:
            assert [coder.code(*decision) for decision in part] == [bit for bit, _ in part]
    decoder = RangeDecoder(coder.finish())
    for part in parts:
        if isinstance(part, tuple):
            assert decoder.decode_uniform(part[1]) == part[0]
        else:
            assert [decoder.code(False, one) for _, one in part] == [bit for bit, _ in part]
    assert decoder.exhausted


@pytest.mark.parametrize("one", [1, 300, 32768, 65535])
def test_decisions_cost_their_information(one):
    rng = np.random.default_rng(one)
    bits = rng.random(20000) < one / 65536
    coder = RangeEncoder()
    for bit in bits.tolist():
        coder.code(bit, one)
    ideal_bits = -np.log2(np.where(bits, one, 65536 - one) / 65536).sum()
    assert abs(len(coder.finish()) - ideal_bits / 8) <= 0.001 * ideal_bits / 8 + 8


def test_code_outside_of_the_interval_is_refused():
    with pytest.raises(DamagedStream, match="outside of the coded interval"):
        RangeDecoder(b"\xff" * 6)
    almost = b"\xff" * 5 + b"\xfe"  # inside, but beyond the last whole unit
    with pytest.raises(DamagedStream, match="outside of the coded interval"):
        RangeDecoder(almost).decode_uniform(1)
    with pytest.raises(DamagedStream, match="outside of the coded interval"):
        RangeDecoder(almost).decode_symbols(1, [1, 1], 1)


def test_bytes_that_nobody_coded_leave_the_stream_unexhausted():
    stream = encode([([3, 1], 2, [0, 1, 0, 1])])
    decoder = RangeDecoder(stream + b"\1" * 6)
    decoder.decode_symbols(4, [3, 1], 2)
    assert not decoder.exhausted
