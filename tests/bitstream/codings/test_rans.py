from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate

import constriction
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream import native
from ectorch.bitstream.codings import rans, static
from ectorch.bitstream.plain.range_coder import RangeEncoder
from ectorch.bitstream.wire import varint
from ectorch.errors import FormatError

pytestmark = pytest.mark.filterwarnings("ignore:ectorch was built without:RuntimeWarning")
needs_compiled = pytest.mark.skipif(native.module is None, reason="plain Python is too slow")
SMALL_CHUNK_BITS = 8


def small_chunks(patch):
    """Chunks of 256 symbols, whatever bytes they have."""
    patch.setattr(rans, "_CHUNK_BITS", SMALL_CHUNK_BITS)
    patch.setattr(rans, "_SMALL_CHUNK_BITS", 0)


def drawn(count, *weights, seed=0):
    """(count,) symbols drawn with these weights, every level among them."""
    shares = np.array(weights) / np.sum(weights)
    symbols = np.random.default_rng(seed).choice(len(weights), count, p=shares)
    symbols[: len(weights)] = np.arange(len(weights))
    return symbols.astype(np.uint16)


def bell(levels):
    places = (np.arange(levels) - levels // 2) / (levels / 5)
    return np.exp(-places * places / 2) + 1e-3


def entropy_bytes(symbols):
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return counts @ np.log2(counts.sum() / counts) / 8


@pytest.fixture(scope="session")
def by_each_twin(with_each_twin):
    def results(code):
        with pytest.MonkeyPatch.context() as patch:
            small_chunks(patch)
            return with_each_twin(code)

    return results


def decode(stream, count, levels, what, map=map):
    """All chunks, (count,) symbols."""
    parsed, symbols = rans.RansStream(stream, count, levels, what), np.empty(count, np.uint16)
    items = parsed.chunk_items
    parts = [symbols[at * items : (at + 1) * items] for at in range(len(parsed))]
    list(map(parsed.decode_into, range(len(parts)), parts))
    return symbols


def outcome(stream, count, levels):
    try:
        return decode(stream, count, levels, "noise").tolist()
    except FormatError as error:
        return str(error)


SYMBOLS = st.one_of(
    st.lists(st.integers(0, 6), min_size=1, max_size=600),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 3)), min_size=1, max_size=12).map(
        lambda runs: [symbol for run, last in runs for symbol in [1] * run + [last]]
    ),
    st.lists(st.integers(0, 65535), min_size=1, max_size=30),
)


@given(SYMBOLS)
def test_symbols_round_trip_and_both_twins_write_the_same_bytes(by_each_twin, symbols):
    levels = max(2, *symbols) + 1
    streams = by_each_twin(lambda: rans.encode(np.array(symbols, np.uint16), levels))
    assert streams == streams[:1] * len(streams)
    decoded = by_each_twin(lambda: outcome(streams[0], len(symbols), levels))
    assert decoded == [symbols] * len(decoded)


CASES = {
    "dense": drawn(3000, *bell(7)),
    "two levels": drawn(999, 3, 1),
    "many levels": drawn(5000, *bell(300)),
    "sparse": drawn(20000, 1, 97, 1, 1),
    "one other level": drawn(20000, 98, 2),
    "one long run": np.array([0] * 9 + [2] * 20000 + [1], np.uint16),
    "one level": np.full(700, 2, np.uint16),
    "one symbol": np.array([1], np.uint16),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def format_page_decoder(data, count, levels):
    """The decoder as FORMAT.md prints it; tables are read by `static`, whose page it is."""
    data = memoryview(data)

    def byte():
        nonlocal data
        value, data = data[0], data[1:]
        return value

    def number():
        value = byte()
        return value if value < 128 else value - 128 + 128 * number()

    def cut(size):
        nonlocal data
        part, data = bytes(data[:size]), data[size:]
        return part

    def table(levels):
        found = static.decode_table(cut(number()), levels, "test")
        return found.frequencies, found.scale_bits

    def decode_chunk(chunk, tokens, length):
        x = [int.from_bytes(chunk[4 * i : 4 * i + 4], "little") for i in range(8)]
        words = iter([chunk[i] + 256 * chunk[i + 1] for i in range(32, len(chunk), 2)])

        def refill(lane):
            if x[lane] < 2**16:
                x[lane] = x[lane] << 16 | next(words)

        def take(lane, frequencies, s):
            t = x[lane] % 2**s
            starts = [0, *accumulate(frequencies)]
            symbol = next(i for i, f in enumerate(frequencies) if starts[i] <= t < starts[i] + f)
            x[lane] = frequencies[symbol] * (x[lane] >> s) + t - starts[symbol]
            refill(lane)
            return symbol

        def bits(lane, n):
            value = x[lane] % 2**n
            x[lane] >>= n
            refill(lane)
            return value

        if mode == 0:
            symbols = [take(i % 8, *others) for i in range(length)]
        else:
            symbols, place = [zero] * length, 0
            for i in range(tokens):
                lane = 2 * (i % 4)
                k = take(lane, *runs)
                if k >= 16:
                    m = k // 4 - 2
                    k = (4 + k % 4) * 2**m + bits(lane, min(m, 16))
                    k += 2**16 * bits(lane, m - 16) if m > 16 else 0
                place += k
                symbols[place] = take(lane + 1, *others)
                place += 1
        if chunk:
            assert x == [2**16] * 8
            assert not list(words)
        return symbols

    mode, c = byte(), byte()
    if mode == 1:
        zero, classes = number(), number()
        runs = table(classes)
    others = table(levels)
    lengths = [min(2**c, count - start) for start in range(0, count, 2**c)]
    sizes = [(number() if mode else 0, number()) for _ in lengths]
    symbols = [
        symbol
        for (tokens, size), length in zip(sizes, lengths, strict=True)
        for symbol in decode_chunk(cut(size), tokens, length)
    ]
    assert not data
    return symbols


def test_the_printed_decoder_reads_the_same(case):
    stream = rans.encode(case, 301)
    assert format_page_decoder(stream, len(case), 301) == case.tolist()


def test_chunks_decode_alone_and_threads_change_no_byte(twin, case, monkeypatch):
    small_chunks(monkeypatch)
    stream = rans.encode(case, 301)
    with ThreadPoolExecutor(2) as pool:
        assert rans.encode(case, 301, pool.map) == stream
        assert np.array_equal(decode(stream, len(case), 301, "test", pool.map), case)
    parsed = rans.RansStream(stream, len(case), 301, "test")
    assert len(parsed) == -(-len(case) // 256)
    for index in reversed(range(len(parsed))):
        expected = case[256 * index : 256 * index + 256]
        parsed.decode_into(index, chunk := np.empty_like(expected))
        assert np.array_equal(chunk, expected)


@pytest.mark.parametrize("extra", [-9, -8, -1, 0, 1, 7, 8])
@pytest.mark.parametrize("weights", [(3, 2, 2), (1, 30, 1)])
def test_lengths_around_a_chunk(twin, extra, weights, monkeypatch):
    small_chunks(monkeypatch)
    symbols = drawn(512 + extra, *weights)
    stream = rans.encode(symbols, 3)
    assert np.array_equal(decode(stream, len(symbols), 3, "test"), symbols)


def runs_of(stream):
    return stream[0] == 1


def header_bytes(stream, count, levels):
    """Of the tables, which the entropy does not know."""
    return len(rans.RansStream(stream, count, levels, "test")._model.header())


WEIGHTS = {
    "fair": (1, 1),
    "skewed": (99, 1),
    "rare": (1e6, 1),
    "rarer": (1e8, 1, 1),
    "sparse": (3, 90, 3, 4),
    "7 levels": bell(7),
    "15 levels": bell(15),
    "256 levels": bell(256),
    "65536 levels": np.ones(65536),
}


@needs_compiled
@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("count", [1000, 30000, 3000000])
def test_size_is_near_that_of_the_best_table_and_near_the_entropy(weights, count):
    levels = len(weights)
    symbols = drawn(max(count, levels), *weights)
    stream = rans.encode(symbols, levels)
    counts = rans.count_symbols(symbols, levels)
    assert len(stream) <= 1.002 * static.PricedTables(counts).bits.min() / 8 + 64
    if levels <= 256:
        table = header_bytes(stream, len(symbols), levels)
        assert len(stream) <= 1.002 * entropy_bytes(symbols) + table + 64
    assert np.array_equal(decode(stream, len(symbols), levels, "test"), symbols)


@needs_compiled
def test_runs_are_coded_where_they_are_smaller_or_as_small_and_fast():
    assert runs_of(rans.encode(drawn(1 << 21, 95, 2, 3), 3))
    assert not runs_of(rans.encode(drawn(1 << 21, 60, 20, 20), 3))
    clustered = np.repeat(drawn(4000, 90, 10), 64)
    stream = rans.encode(clustered, 2)
    assert runs_of(stream)
    assert len(stream) < 0.5 * entropy_bytes(clustered)


@needs_compiled
def test_chunks_of_few_bytes_are_longer():
    symbols = np.zeros(1 << 22, np.uint16)
    symbols[[5, 1 << 21]] = 1
    stream = rans.encode(symbols, 2)
    assert len(rans.RansStream(stream, len(symbols), 2, "test")) == 1
    assert len(stream) < 64 + header_bytes(stream, len(symbols), 2)


@pytest.mark.parametrize("weights", [bell(7), bell(200), (99, 1)])
def test_as_small_as_the_ans_coder_of_constriction(weights):
    symbols = drawn(16000, *weights)
    counts = np.bincount(symbols)
    model = constriction.stream.model.Categorical(counts / counts.sum(), perfect=False)
    peer = constriction.stream.stack.AnsCoder()
    peer.encode_reverse(symbols.astype(np.int32), model)
    stream = rans.encode(symbols, len(weights))
    table = header_bytes(stream, len(symbols), len(weights))
    assert len(stream) - table <= 1.002 * peer.get_compressed().nbytes + 64


@pytest.mark.parametrize("levels", [2, 7, 65536])
@pytest.mark.parametrize("count", [0, 1, 5, 4000])
def test_symbols_are_counted(twin, levels, count):
    symbols = np.random.default_rng(0).integers(0, levels, count).astype(np.uint16)
    counts = rans.count_symbols(symbols, levels)
    assert np.array_equal(counts, np.bincount(symbols, minlength=levels))


def test_a_symbol_beyond_the_levels_is_no_symbol(twin):
    with pytest.raises(ValueError, match="beyond the last level"):
        rans.count_symbols(np.array([0, 3], np.uint16), 3)


LITERAL = {
    "dense": (
        [0, 1, 2, 1, 1, 0, 1, 1, 1, 2],
        "001403121080200400080006000800030004000100020001000200000004000100020001000200",
    ),
    "runs": (
        [1] * 300 + [0] * 40 + [1] * 75000 + [2],
        "011401412a27fffffffffb0000000000000000000000000000000fffffffff0000000000"
        "00000000000000000000100328008029229ead687244f52b0012e80100a55f010012e801"
        "00a55f010012e80100a55f0100f824",
    ),
}


@pytest.mark.parametrize("name", LITERAL)
def test_literal_bytes(twin, name):
    symbols, stream = LITERAL[name]
    assert rans.encode(np.array(symbols, np.uint16), 3).hex() == stream


@pytest.mark.parametrize("name", CASES)
def test_damaged_streams_are_refused_or_decode_alike(name, mutations, monkeypatch, by_each_twin):
    symbols = CASES[name][:1200]
    small_chunks(monkeypatch)
    stream = rans.encode(symbols, 301)
    rng = np.random.default_rng(7)
    refused = 0
    for mutate in mutations.values():
        for _ in range(40):
            damaged = mutate(rng, stream)
            outcomes = by_each_twin(lambda d=damaged: outcome(d, len(symbols), 301))
            assert outcomes == outcomes[:1] * len(outcomes)
            refused += isinstance(outcomes[0], str)
            assert isinstance(outcomes[0], str) or len(outcomes[0]) == len(symbols)
    assert refused > 100


@given(
    st.sampled_from([0, 1]),
    st.lists(st.integers(0, 300), max_size=4),
    st.binary(max_size=90),
    st.integers(0, 1200),
)
def test_noise_decodes_alike_or_is_refused(by_each_twin, mode, numbers, noise, count):
    head = bytes([mode, SMALL_CHUNK_BITS]) + b"".join(map(varint, numbers))
    outcomes = by_each_twin(lambda: outcome(head + noise, count, 5))
    assert outcomes == outcomes[:1] * len(outcomes)


def table_of(*frequencies):
    data = static.encode_table(
        static.FrequencyTable(np.array(frequencies, np.uint32), sum(frequencies).bit_length() - 1)
    )
    return varint(len(data)) + data


STATES = (1 << 16).to_bytes(4, "little") * 8
FAIR = table_of(1, 1)
TWO_SYMBOLS = bytes([0, 8]) + FAIR
RUNS = bytes([1, 8, 0, 2]) + FAIR + table_of(0, 2)


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"", "1 bytes expected"),
        (bytes([2, 8]), "unknown mode"),
        (bytes([0, 7]) + FAIR, r"chunks of 2\*\*7"),
        (bytes([0, 33]) + FAIR, r"chunks of 2\*\*33"),
        (bytes([0, 8]) + table_of((1 << 17) - 1, 1), "scale 17"),
        (bytes([0, 8, 9]) + FAIR[1:].ljust(9, b"\1"), "bytes left"),
        (bytes([1, 8, 2, 2]) + 2 * FAIR, "runs of level 2"),
        (bytes([1, 8, 0, 0]) + 2 * FAIR, "0 classes"),
        (bytes([1, 8, 0, 129, 1]) + 2 * FAIR, "129 classes"),
        (TWO_SYMBOLS, "1 bytes expected"),
        (TWO_SYMBOLS + varint(33) + STATES, "33 bytes expected"),
        (TWO_SYMBOLS + varint(31) + STATES[1:], "half words"),
        (TWO_SYMBOLS + varint(33) + STATES + b"\0", "half words"),
        (TWO_SYMBOLS + varint(32) + STATES[4:] + b"\0\0\0\1"[::-1], "state"),
        (TWO_SYMBOLS + varint(32) + b"\xff\xff\0\0" + STATES[4:], r"below 2\*\*16"),
        (TWO_SYMBOLS + varint(32) + STATES, "ends before"),
        (TWO_SYMBOLS + varint(36) + STATES + b"\0\0\0\0", r"state other than"),
        (TWO_SYMBOLS + varint(32) + STATES + b"\0", "1 bytes follow"),
        (RUNS + varint(0) + varint(32) + STATES, "bytes left"),
        (RUNS + varint(1) + varint(32) + STATES, "ends before"),
        (RUNS + varint(3) + varint(38) + STATES + 6 * b"\xff", "state other|beyond"),
    ],
)
def test_impossible_streams_are_refused(twin, stream, message):
    with pytest.raises(FormatError, match=f"conv1: .*{message}"):
        decode(stream, 2, 2, "conv1")


def test_a_scale_that_is_too_coarse_is_left_to_the_range_coder(twin):
    symbols = np.repeat(np.arange(50100), [1] * 50000 + [5000] * 100).astype(np.uint16)
    assert rans.encode(symbols, 50100) is None


def test_tables_alone_round_trip(twin):
    for counts in ([1, 1], [5], [0, 7, 100000], [1] * 300):
        tables = static.PricedTables(np.array(counts))
        table = tables[int(np.argmax(tables.scales == 16))]
        data = static.encode_table(table)
        found = static.decode_table(data, len(counts), "test")
        assert found.scale_bits == table.scale_bits
        assert np.array_equal(found.frequencies, table.frequencies)


def test_a_table_that_no_one_coded_is_refused(twin):
    coder = RangeEncoder()
    coder.encode_uniform(0, 5)
    coder.encode_uniform(0, 1)
    with pytest.raises(FormatError, match="conv1: frequency table of scale 0"):
        static.decode_table(coder.finish(), 2, "conv1")
