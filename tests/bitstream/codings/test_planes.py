import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ectorch.bitstream.codings.choose import encode_tensor, planes
from ectorch.bitstream.codings.decode import Coding, decode_tensor
from ectorch.bitstream.codings.planes import PlaneCoding, Sign
from ectorch.bitstream.tensor import DTYPES, RawTensor
from ectorch.bitstream.wire import varint
from ectorch.errors import FormatError

NO_LIMIT = 1 << 30
RNG = np.random.default_rng(0)


def of(array, dtype=None):
    array = np.ascontiguousarray(array)
    bits = array.reshape(-1).view(f"u{array.itemsize}")
    return RawTensor(dtype or array.dtype.name, array.shape, bits)


def normal(*shape):
    return (0.05 * RNG.standard_normal(shape)).astype(np.float32)


def angles(positions, frequencies):
    return np.outer(np.arange(positions), 100.0 ** -np.linspace(0, 1, frequencies))


def rise(*shape):
    return np.cumsum(RNG.integers(0, 999, shape), axis=0)


CASES = {  # tensors whose smallest payload is of planes, with (distance, sign) of each
    "float32": (of(normal(40, 60)), 0, Sign.ROTATED),
    "bfloat16": (of((normal(3000).view("u4") >> 16).astype("u2"), "bfloat16"), 0, Sign.ROTATED),
    "float32 of bfloat16": (of(normal(900).view("u4") & 0xFFFF0000, "float32"), 0, Sign.ROTATED),
    "float64 of float32": (of(normal(900).astype(np.float64)), 0, Sign.STAYS),
    "positive floats": (of(1 + abs(normal(900))), 0, Sign.STAYS),
    "signed": (of(np.rint(1e9 * normal(900)).astype(np.int64)), 0, Sign.ZIGZAG),
    "unsigned": (of(RNG.integers(0, 1 << 20, 999, np.uint32)), 0, Sign.STAYS),
    "positions": (of(np.arange(512)[None]), 1, Sign.STAYS),
    "sorted": (of(rise(900).astype(np.uint64)), 1, Sign.STAYS),
    "coordinates": (of(np.argwhere(RNG.random((200, 300)) < 0.03)), 2, Sign.ZIGZAG),
    "table": (of(np.cos(angles(90, 16)).astype(np.float32)), 16, Sign.STAYS),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def test_planes_are_chosen_where_they_are_smallest(case):
    tensor, distance, sign = case
    coding, payload = encode_tensor(tensor)
    assert coding == Coding.PLANES
    assert payload[:1] == varint(distance << 2 | sign)
    assert len(payload) < len(tensor.little_endian())
    assert np.array_equal(
        decode_tensor(coding, payload, tensor.dtype, tensor.shape, "t"), tensor.bits
    )


def test_the_limit_is_kept(case):
    tensor, _, _ = case
    size = len(planes.encode(tensor, NO_LIMIT))
    assert planes.encode(tensor, size + 2) is not None
    assert planes.encode(tensor, size - 2) is None


@given(data=st.data(), dtype=st.sampled_from(list(DTYPES)))
def test_any_tensor_round_trips(data, dtype):
    shape = data.draw(st.lists(st.integers(1, 6), max_size=3).map(tuple))
    items = st.integers(0, (1 << 8 * DTYPES[dtype]) - 1)
    few = data.draw(st.lists(items, min_size=1, max_size=4))
    count = math.prod(shape)
    bits = data.draw(st.lists(st.sampled_from(few) | items, min_size=count, max_size=count))
    tensor = RawTensor(dtype, shape, np.array(bits, f"u{DTYPES[dtype]}"))
    decoded = planes.decode(planes.encode(tensor, NO_LIMIT), dtype, count, "test")
    assert decoded.dtype == tensor.bits.dtype
    assert np.array_equal(decoded, tensor.bits)


@given(data=st.data(), size=st.sampled_from([1, 2, 4, 8]), sign=st.sampled_from(Sign))
def test_transforms_are_undone(data, size, sign):
    items = st.integers(0, (1 << 8 * size) - 1)
    bits = np.array(data.draw(st.lists(items, min_size=1, max_size=40)), f"u{size}")
    distance = data.draw(st.integers(0, len(bits) - 1))
    changed = planes._transform(bits.copy(), distance, sign)
    assert changed.dtype == bits.dtype
    assert np.array_equal(planes._restore(changed, distance, sign), bits)


def test_signs_move_as_the_format_says():
    bits = np.array([0, 1, 0x80, 0xFF, 0xFE], np.uint8)  # 0, 1, -128, -1, -2 as int8
    assert planes._transform(bits, 0, Sign.ROTATED).tolist() == [0, 2, 1, 0xFF, 0xFD]
    assert planes._transform(bits, 0, Sign.ZIGZAG).tolist() == [0, 2, 0xFF, 1, 3]


def test_nans_and_infinities_keep_their_bits():
    bits = [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x80000000, 1] * 90
    tensor = of(np.array([*bits, *normal(900).view("u4")], "u4"), "float32")
    payload = planes.encode(tensor, NO_LIMIT)
    assert np.array_equal(planes.decode(payload, "float32", len(tensor.bits), "t"), tensor.bits)


def test_positions_take_next_to_nothing():
    assert len(encode_tensor(of(np.arange(512)[None]))[1]) < 32


def test_bfloat16_in_float32_costs_hardly_more_than_itself():
    bits = normal(20000).view("u4") >> 16
    narrow = planes.encode(of(bits.astype("u2"), "bfloat16"), NO_LIMIT)
    wide = planes.encode(of(bits << 16, "float32"), NO_LIMIT)
    assert len(wide) < 1.01 * len(narrow)


def plane(coding, *rest):
    return bytes([coding]) + b"".join(bytes([r]) if isinstance(r, int) else r for r in rest)


@pytest.mark.parametrize(
    ("payload", "items"),
    [
        (
            b"\0" + plane(PlaneCoding.RAW, b"\1\2\3") + plane(PlaneCoding.CONSTANT, 7),
            [263, 519, 775],
        ),
        (b"\4" + 2 * plane(PlaneCoding.CONSTANT, 1), [257, 514, 771]),
        (b"\x08" + 2 * plane(PlaneCoding.CONSTANT, 1), [257, 257, 514]),
        (b"\1" + 2 * plane(PlaneCoding.CONSTANT, 1), [0x8080] * 3),
        (b"\2" + 2 * plane(PlaneCoding.CONSTANT, 1), [0xFF7F] * 3),
        (b"\0" + plane(PlaneCoding.CONSTANT, 0) + plane(PlaneCoding.STATIC, 3, 4, b"\0"), None),
    ],
)
def test_payloads_written_by_hand_decode(payload, items):
    if items is None:  # a stream of zero bytes alone has the impossible scale 0
        with pytest.raises(FormatError, match="conv1: frequency table"):
            planes.decode(payload, "uint16", 3, "conv1")
    else:
        assert planes.decode(payload, "uint16", 3, "conv1").tolist() == items


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "1 bytes expected"),
        (b"\3" + plane(PlaneCoding.CONSTANT, 0), "mode 3"),
        (b"\x0c" + plane(PlaneCoding.CONSTANT, 0), "3 items by mode 12"),
        (varint(1 << 60) + plane(PlaneCoding.CONSTANT, 0), "mode"),
        (b"\0", "1 bytes expected"),
        (b"\0" + plane(4, 0), "unknown coding 4"),
        (b"\0" + plane(PlaneCoding.RAW, b"\1\2"), "3 bytes expected"),
        (b"\0" + plane(PlaneCoding.CONSTANT), "1 bytes expected"),
        (b"\0" + plane(PlaneCoding.ZSTD, 9, b"\1"), "9 bytes expected"),
        (b"\0" + plane(PlaneCoding.ZSTD, 1, b"\1"), "zstd"),
        (b"\0" + plane(PlaneCoding.STATIC, 7, 7, 0), "bytes 7 to 7"),
        (b"\0" + plane(PlaneCoding.STATIC, 7, 6, 0), "bytes 7 to 6"),
        (b"\0" + plane(PlaneCoding.STATIC, 7, 9, 3, b"\1"), "3 bytes expected"),
        (b"\0" + plane(PlaneCoding.CONSTANT, 0, 0), "1 bytes follow the last plane"),
    ],
)
def test_damaged_payloads_are_refused(payload, message):
    with pytest.raises(FormatError, match=f"conv1: .*{message}"):
        planes.decode(payload, "uint8", 3, "conv1")


def test_bytes_left_over_are_refused(case):
    tensor, _, _ = case
    payload = planes.encode(tensor, NO_LIMIT)
    with pytest.raises(FormatError, match="conv1: 1 bytes follow"):
        planes.decode(payload + b"\0", tensor.dtype, len(tensor.bits), "conv1")


def test_no_items_have_planes_of_no_bytes():
    assert planes.decode(b"\0" + 4 * plane(PlaneCoding.RAW), "float32", 0, "t").shape == (0,)
    with pytest.raises(FormatError, match="mode 4"):
        planes.decode(b"\4" + 4 * plane(PlaneCoding.RAW), "float32", 0, "t")


def test_a_payload_decodes_in_memory_of_the_order_of_the_tensor():
    count = 1 << 17
    payload = b"\4" + 4 * plane(PlaneCoding.CONSTANT, 1)
    tracemalloc.start()
    planes.decode(payload, "float32", count, "test")
    assert tracemalloc.get_traced_memory()[1] < 4 * 4 * count
    tracemalloc.stop()


@settings(max_examples=400)
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(CASES)), st.integers(1, 4))
def test_mutations_decode_to_a_tensor_or_a_format_error(random, name, changes):
    tensor, _, _ = CASES[name]
    payload = bytearray(PAYLOADS[name])
    for _ in range(changes):
        at = random.randrange(min(len(payload) + 1, random.choice((8, NO_LIMIT))))
        action = random.choice(("set", "insert", "delete"))
        payload[at : at + (action != "insert")] = (
            b"" if action == "delete" else bytes([random.choice((0, 1, 2, 3, 127, 128, 255))])
        )
    try:
        decoded = planes.decode(bytes(payload), tensor.dtype, len(tensor.bits), "test")
    except FormatError:
        return
    assert decoded.shape == tensor.bits.shape
    assert decoded.dtype == tensor.bits.dtype


PAYLOADS = {name: planes.encode(tensor, NO_LIMIT) for name, (tensor, _, _) in CASES.items()}
