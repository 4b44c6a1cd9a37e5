import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream.codings.floats import decode_half, decode_zstd, encode_half, encode_zstd
from ectorch.bitstream.tensor import DTYPES
from ectorch.errors import FormatError


@given(data=st.data(), dtype=st.sampled_from(list(DTYPES)))
def test_zstd_round_trip(data, dtype, ect):
    items = st.lists(st.integers(0, (1 << 8 * DTYPES[dtype]) - 1), min_size=1, max_size=50)
    tensor = ect.raw(dtype, data.draw(items))
    frame = encode_zstd(tensor)
    assert np.array_equal(decode_zstd(frame, dtype, len(tensor.bits), "test"), tensor.bits)


@pytest.mark.parametrize("count", [0, 9, 11, 1 << 40])
def test_a_frame_of_another_size_is_refused(count, ect):
    frame = encode_zstd(ect.raw("float32", range(10)))
    with pytest.raises(FormatError, match="conv1: zstd frame does not hold"):
        decode_zstd(frame, "float32", count, "conv1")


@given(st.binary(max_size=60))
def test_noise_is_no_frame(data):
    with pytest.raises(FormatError, match="noise: "):
        decode_zstd(data, "uint8", 1000, "noise")


def test_a_truncated_frame_is_refused(ect):
    frame = encode_zstd(ect.raw("float32", np.random.default_rng(0).integers(0, 1 << 32, 500)))
    for end in range(len(frame) - 4):
        with pytest.raises(FormatError):
            decode_zstd(frame[:end], "float32", 500, "test")


def test_a_frame_that_swells_is_cut_off_early():
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(1 << 28))
    tracemalloc.start()
    with pytest.raises(FormatError):
        decode_zstd(bomb, "uint8", 1000, "test")
    assert tracemalloc.get_traced_memory()[1] < 1 << 22
    tracemalloc.stop()


def test_a_window_beyond_the_format_is_refused():
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=25)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = compressor.compress(bytes(1 << 25)) + compressor.flush()
    with pytest.raises(FormatError):
        decode_zstd(frame, "uint8", 1 << 25, "test")


@given(values=st.lists(st.floats(width=16, allow_nan=False)))
def test_what_float16_holds_becomes_half_as_large(values, ect):
    tensor = ect.float32(values)
    half = encode_half(tensor)
    assert len(half) == 2 * len(values)
    assert np.array_equal(decode_half(half, "w"), tensor.bits)


@pytest.mark.parametrize("value", [0.1, 65520.0, 1e-8, 1 + 2**-11])
def test_what_float16_does_not_hold_stays(value, ect):
    assert encode_half(ect.float32([1.0, value])) is None


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7F802000, 0x7F800001, 0xFFFFFFFF])
def test_nans_stay_since_machines_convert_them_differently(bits, ect):
    assert encode_half(ect.raw("float32", [bits])) is None


@pytest.mark.parametrize("half", [0x7C01, 0x7E00, 0xFFFF])
def test_a_nan_among_halves_is_damage(half):
    with pytest.raises(FormatError, match="w: a NaN"):
        decode_half(half.to_bytes(2, "little"), "w")


def test_other_dtypes_stay(ect):
    assert encode_half(ect.raw("float64", [0])) is None


def test_bytes_after_the_frame_are_refused(ect):
    frame = encode_zstd(ect.raw("float32", range(10)))
    for more in (b"\0", frame, bytes(3000)):
        with pytest.raises(FormatError, match="conv1"):
            decode_zstd(frame + more, "float32", 10, "conv1")
