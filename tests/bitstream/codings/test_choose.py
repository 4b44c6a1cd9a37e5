import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ectorch.bitstream.codings.choose import Preset, Surroundings, encode_tensor, estimate_bits
from ectorch.bitstream.codings.decode import Coding, decode_tensor
from ectorch.bitstream.tensor import DTYPES, RawTensor
from ectorch.errors import FormatError

RNG = np.random.default_rng(0)
SYMBOLS = RNG.choice([-1, 0, 0, 0, 1], 500)
CASES = {
    "raw": ("float64", RNG.integers(0, 1 << 63, 9), Coding.RAW),
    "empty": ("float32", [], Coding.RAW),
    "zstd": ("uint8", np.tile(RNG.permutation(256), 4), Coding.ZSTD),
    "half": (
        "float32",
        RNG.standard_normal(60).astype(np.float16).astype(np.float32).view("u4"),
        Coding.HALF,
    ),
    "grid": ("float32", (SYMBOLS * np.float32(0.1)).view("u4"), Coding.CONTEXT),
    "explicit": ("float32", RNG.choice([1, 5, 77777], 500), Coding.STATIC),
    "one level": ("float32", [0x3F9D70A4] * 500, Coding.STATIC),
}


@pytest.fixture(params=CASES)
def case(request, ect):
    dtype, bits, coding = CASES[request.param]
    return ect.raw(dtype, bits), coding


def test_each_coding_is_chosen_where_it_is_smallest_and_comes_back(case):
    tensor, expected = case
    coding, payload = encode_tensor(tensor)
    assert coding == expected
    assert len(payload) <= len(tensor.little_endian())
    assert np.array_equal(
        decode_tensor(coding, payload, tensor.dtype, tensor.shape, "t"), tensor.bits
    )


@given(data=st.data(), dtype=st.sampled_from(list(DTYPES)))
def test_any_tensor_round_trips(data, dtype, ect):
    items = st.integers(0, (1 << 8 * DTYPES[dtype]) - 1)
    few = data.draw(st.lists(items, min_size=1, max_size=6))
    bits = data.draw(st.lists(st.one_of(st.sampled_from(few), items), max_size=80))
    tensor = ect.raw(dtype, bits)
    coding, payload = encode_tensor(tensor)
    decoded = decode_tensor(coding, payload, dtype, tensor.shape, "test")
    assert decoded.dtype == tensor.bits.dtype
    assert np.array_equal(decoded, tensor.bits)


def test_wide_tensors_of_many_values_are_coded(ect):
    values = np.random.default_rng(1).standard_normal(30000).astype(np.float16)
    tensor = RawTensor("float16", (300, 100), values.view(np.uint16))
    coding, payload = encode_tensor(tensor)
    assert np.array_equal(decode_tensor(coding, payload, "float16", (300, 100), "t"), tensor.bits)


@pytest.mark.parametrize("preset", Preset)
@pytest.mark.parametrize("share", [0.03, 0.2])
def test_every_preset_brings_a_large_tensor_back(preset, share, ect):
    rng = np.random.default_rng(7)
    rows = rng.random((200, 1)) < 0.5
    values = (rng.random((200, 200)) < share) * rows * rng.integers(-9, 10, (200, 200))
    tensor = ect.raw("int8", values.astype(np.int8).view("u1"), (200, 200))
    coding, payload = encode_tensor(tensor, Surroundings(preset))
    assert coding == (Coding.RANS if preset == Preset.FAST else Coding.CONTEXT)
    items = [(None, tensor.bits), (range(333, 20111), tensor.bits[333:20111])]
    for part, expected in items:
        decoded = decode_tensor(coding, payload, "int8", (200, 200), "t", items=part)
        assert np.array_equal(decoded, expected)


def test_presets_are_ordered_by_size(ect):
    rng = np.random.default_rng(8)
    values = (rng.random((300, 200)) < rng.random(200) ** 6) * rng.integers(-3, 4, (300, 200))
    tensor = ect.raw("int8", values.astype(np.int8).view("u1"), (300, 200))
    sizes = [len(encode_tensor(tensor, Surroundings(preset))[1]) for preset in Preset]
    assert sizes == sorted(sizes)
    assert sizes[0] < 0.9 * sizes[2]


def test_estimate_is_the_size_of_the_payload_where_zstd_does_not_win(case):
    tensor, coding = case
    if coding == Coding.ZSTD:
        assert estimate_bits(tensor) == 8 * len(tensor.bits)
    else:
        size = len(encode_tensor(tensor, Surroundings(Preset.FAST))[1])
        assert abs(estimate_bits(tensor) - 8 * size) <= 8


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"zstd"}))
def test_bytes_left_over_are_refused(name, ect):
    dtype, bits, coding = CASES[name]
    payload = encode_tensor(ect.raw(dtype, bits))[1]
    with pytest.raises(FormatError, match="conv1"):
        decode_tensor(coding, payload + b"\1" * 40, dtype, (len(bits),), "conv1")


@pytest.mark.parametrize("name", ["raw", "zstd", "half"])
def test_another_count_is_refused(name, ect):
    dtype, bits, coding = CASES[name]
    payload = encode_tensor(ect.raw(dtype, bits))[1]
    for count in (len(bits) - 1, len(bits) + 1, 1 << 50):
        with pytest.raises(FormatError, match="conv1"):
            decode_tensor(coding, payload, dtype, (count,), "conv1")


def test_halves_of_other_dtypes_are_refused():
    with pytest.raises(FormatError, match="conv1: stored as halves of int32"):
        decode_tensor(Coding.HALF, bytes(4), "int32", (2,), "conv1")


def test_a_symbol_stream_decodes_in_memory_of_the_order_of_the_tensor():
    """A count that the stream does not back costs what the tensor would, not more."""
    mostly_zero = (np.arange(2000) // 1999).astype(np.uint8)
    payload = encode_tensor(RawTensor("uint8", (2000,), mostly_zero))[1]
    count = 1 << 17
    tracemalloc.start()
    decode_tensor(Coding.STATIC, payload, "uint8", (count,), "test")
    assert tracemalloc.get_traced_memory()[1] < 8 * count
    tracemalloc.stop()


@settings(max_examples=400)
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(CASES)), st.integers(1, 4))
def test_damaged_payloads_decode_to_a_tensor_or_a_format_error(random, name, changes):
    dtype, bits, coding = CASES[name]
    bits = np.array(bits, f"u{DTYPES[dtype]}")
    payload = bytearray(encode_tensor(RawTensor(dtype, bits.shape, bits))[1])
    for _ in range(changes):
        at = random.randrange(len(payload) + 1)
        action = random.choice(("set", "insert", "delete"))
        payload[at : at + (action != "insert")] = (
            b"" if action == "delete" else bytes([random.choice((0, 1, 127, 128, 255))])
        )
    try:
        decoded = decode_tensor(coding, bytes(payload), dtype, bits.shape, "test")
    except FormatError:
        return
    assert decoded.shape == bits.shape
    assert decoded.dtype == bits.dtype
