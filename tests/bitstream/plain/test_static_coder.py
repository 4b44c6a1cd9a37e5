"""The compiled static coder and its plain twin: the same bytes, and the same are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream.native import DamagedStream
from ectorch.bitstream.plain.range_coder import RangeEncoder

NO_SYMBOLS = np.empty(0, np.uint16)


def uint16(*values):
    return np.array(values, np.uint16)


def uint32(*values):
    return np.array(values, np.uint32)


def decode(twin, data, count, levels, dtype=np.uint16, whole=True):
    out = np.empty(count, dtype)
    twin.static_decode(data, out, levels, whole)
    return out.tolist()


def decode_table(twin, data, levels):
    out = np.empty(levels, np.uint32)
    return twin.decode_table(data, out), out.tolist()


def outcome(decode, *args):
    try:
        return decode(*args)
    except DamagedStream as error:
        return str(error)


@st.composite
def tables(draw):
    """Scale and frequencies, whose last rises to what the sum asks for."""
    scale_bits = draw(st.integers(1, 24))
    rest, found = 1 << scale_bits, []
    for _ in range(draw(st.integers(0, 12))):
        found.append(draw(st.sampled_from([0, min(1, rest), rest // 3, rest])))
        rest -= found[-1]
    return scale_bits, uint32(*found, rest)


@given(tables(), st.data(), st.sampled_from([np.uint8, np.uint16]))
def test_both_write_the_same_bytes_and_read_them(twins, table, data, dtype):
    scale_bits, frequencies = table
    used = st.sampled_from(np.flatnonzero(frequencies).tolist())
    symbols = data.draw(st.lists(used, max_size=60))
    given = np.array(symbols, dtype), frequencies, scale_bits
    stream, *others = [twin.static_encode(*given) for twin in twins]
    assert all(other == stream for other in others)
    alone = twins[0].static_encode(NO_SYMBOLS, frequencies, scale_bits)
    levels = len(frequencies)
    for twin in twins:
        assert decode(twin, stream, len(symbols), levels, dtype) == symbols
        assert (
            decode(twin, stream, len(symbols) // 2, levels, dtype, whole=False)
            == (symbols[: len(symbols) // 2])
        )
        assert decode_table(twin, alone, levels) == (scale_bits, frequencies.tolist())


@given(st.binary(max_size=80), st.integers(0, 300), st.integers(1, 300))
def test_both_read_noise_alike_or_refuse_it_by_the_same_words(twins, data, count, levels):
    for read in (
        lambda twin: decode(twin, data, count, levels),
        lambda twin: decode(twin, data, count, levels, whole=False),
        lambda twin: decode_table(twin, data, levels),
    ):
        first, *others = [outcome(read, twin) for twin in twins]
        assert all(other == first for other in others)


def stream_of(*fields):
    coder = RangeEncoder()
    for value, bits in fields:
        coder.encode_uniform(value, bits)
    return coder.finish()


@pytest.mark.parametrize(
    ("fields", "levels", "message"),
    [
        ([(1, 5), (0, 1), (2, 5), (0, 1)], 2, r"sum to more than 2\*\*1$"),
        ([(3, 5), (1, 1), (31, 5), (0, 30)], 2, r"sum to more than 2\*\*3$"),
        ([(0, 5), (0, 1)], 2, "scale 0"),
        ([(25, 5), (0, 1)], 2, "scale 25"),
        ([(4, 5), (3, 2)], 3, "implied level 3"),
    ],
)
def test_impossible_tables_are_refused(twin, fields, levels, message):
    for read in decode_table, lambda *given: decode(given[0], given[1], 4, given[2]):
        with pytest.raises(DamagedStream, match=message):
            read(twin, stream_of(*fields), levels)


def test_bytes_left_over_are_refused(twin):
    stream = twin.static_encode(np.array([0, 1, 1, 0], np.uint16), uint32(1, 1), 1)
    with pytest.raises(DamagedStream, match="after the last symbol"):
        decode(twin, stream + b"\1" * 8, 4, 2)
    assert decode(twin, stream + b"\1" * 8, 4, 2, whole=False) == [0, 1, 1, 0]
    with pytest.raises(DamagedStream, match="after the last frequency"):
        decode_table(twin, stream + b"\1" * 8, 2)


@pytest.mark.parametrize(
    ("name", "given"),
    {
        "symbol past the frequencies": ("static_encode", (uint16(0, 5), uint32(1, 1), 1)),
        "symbol without a frequency": ("static_encode", (uint16(0, 1), uint32(2, 0), 1)),
        "frequencies past the scale": ("static_encode", (uint16(0, 1), uint32(3, 1), 1)),
        "no frequencies": ("static_encode", (uint16(), uint32(), 1)),
        "scale": ("static_encode", (uint16(0, 1), uint32(1, 1), 64)),
        "no scale": ("static_encode", (uint16(0), uint32(1), 0)),
        "levels of a table": ("decode_table", (b"ab", uint32())),
        "levels of a stream": ("static_decode", (b"ab", uint16(0), (1 << 16) + 1)),
        "no levels of a stream": ("static_decode", (b"ab", uint16(0), 0)),
    }.values(),
)
def test_what_cannot_be_served_is_a_value_error(twin, name, given):
    with pytest.raises(ValueError, match=r"."):
        getattr(twin, name)(*given)


def test_symbols_of_one_byte_have_256_levels(twin):
    with pytest.raises(ValueError, match="narrow"):
        decode(twin, b"", 1, 257, np.uint8)
