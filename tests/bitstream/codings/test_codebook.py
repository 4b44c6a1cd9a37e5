import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ectorch.bitstream.codings.codebook import MAX_LEVELS, decode_codebook, find_codebook
from ectorch.bitstream.tensor import DTYPES
from ectorch.bitstream.wire import Cursor, varint, zigzag
from ectorch.errors import FormatError

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


def to_bfloat16(values):
    """Bits of exact values rounded to nearest even, by comparison instead of bit tricks."""
    down = np.asarray(values, np.float64).astype(np.float32).view(np.uint32) >> 16
    up = down + 1
    near, far = [(bits << 16).view(np.float32).astype(np.float64) for bits in (down, up)]
    below, above = np.abs(values - near), np.abs(far - values)
    even = np.where(down % 2 == 0, down, up)
    return np.where(below < above, down, np.where(above < below, up, even)).astype(np.uint16)


def grid_bits(index, step, dtype):
    values = np.asarray(index, np.float64) * step + 0.0
    if dtype == "bfloat16":
        return to_bfloat16(values)
    return values.astype(dtype).view(f"u{DTYPES[dtype]}")


def value_of(bits, dtype):
    if dtype == "bfloat16":
        return float((bits.astype(np.uint32) << 16).view(np.float32)[0])
    return float(bits.view(dtype)[0])


def check_round_trip(bits, dtype):
    """Find, encode, decode; the same bits come back. Give the codebook."""
    book, symbols = find_codebook(bits, dtype)
    cursor = Cursor(book.encode(dtype), "test")
    decoded = decode_codebook(cursor, dtype, len(bits))
    assert cursor.remaining == 0
    assert np.array_equal(decoded.patterns, book.patterns)
    assert np.array_equal(decoded.patterns[symbols], bits)
    assert {0, len(book.patterns) - 1} <= set(symbols.tolist())
    return book


@st.composite
def grid_indices(draw):
    """A range around 0 and 1 with holes, sorted."""
    first, last = draw(st.integers(-150, 0)), draw(st.integers(1, 150))
    holes = draw(st.sets(st.integers(first, last), max_size=(last - first) // 2))
    return sorted(set(range(first, last + 1)) - holes | {first, 0, 1, last})


@given(grid_indices(), st.floats(2.0**-60, 2.0**20, width=32))
def test_grids_of_random_float32_steps_are_found(index, step):
    levels = check_round_trip(grid_bits(index, step, "float32"), "float32")
    assert levels.step == int(np.float32(step).view(np.uint32))
    assert (levels.first, len(levels.patterns)) == (index[0], index[-1] - index[0] + 1)
    assert len(levels.encode("float32")) <= 3 + 4 + 3


@given(grid_indices(), st.integers(0x2000, 0x4900))
def test_steps_rounded_to_bfloat16_cost_two_bytes(index, step_bits):
    step = value_of(np.array([step_bits], np.uint16), "bfloat16")
    levels = check_round_trip(grid_bits(index, step, "float32"), "float32")
    assert levels.step is not None
    count = len(levels.patterns)
    assert len(levels.encode("float32")) <= len(varint(count)) + 1 + 2 + len(
        varint(zigzag(levels.first))
    )


@pytest.mark.parametrize(("dtype", "reach"), [("float16", 64), ("bfloat16", 16), ("float64", 9000)])
def test_grids_of_other_float_dtypes_are_found(dtype, reach):
    rng = np.random.default_rng(reach)
    for step in rng.uniform(0.001, 1.0, 40):
        step = value_of(grid_bits([1], step, dtype), dtype)
        index = np.arange(-reach, reach + 1)
        levels = check_round_trip(grid_bits(index, step, dtype), dtype)
        assert levels.step is not None
        assert len(levels.patterns) == 2 * reach + 1


@pytest.mark.parametrize("dtype", INTEGERS)
def test_grids_of_integers_are_found(dtype):
    step = 9
    low = 0 if dtype.startswith("u") else -10
    bits = (np.arange(low, 11) * step).astype(dtype).view(f"u{DTYPES[dtype]}")
    levels = check_round_trip(bits, dtype)
    assert levels.step == step
    assert levels.first == low


@pytest.mark.parametrize("index", [[0, 2, 5], [-5, 0, 3], [-7, -4, -2], [3], [-3], [2, 4, 6, 20]])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_sparse_and_one_sided_grids_are_found(index, dtype):
    step = 3.0 if dtype == "int16" else float(np.float32(0.3))
    levels = check_round_trip(grid_bits(index, step, dtype), dtype)
    assert levels.step is not None


def test_grid_values_that_never_occur_are_dropped_where_they_cost_more_than_a_codebook():
    bits = np.array([0, 1, 60000], np.uint32)
    levels = check_round_trip(bits, "int32")
    assert levels.step is None
    assert levels.patterns.tolist() == [0, 1, 60000]


def test_values_on_no_grid_make_an_explicit_codebook():
    bits = np.array([0.1, 0.25, -1.7, 0.1], np.float32).view(np.uint32)
    levels = check_round_trip(bits, "float32")
    assert levels.step is None
    assert len(levels.encode("float32")) == 1 + 1 + 3 * 4


SPECIAL = {
    "float32": [0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001, 0xFFFFFFFF, 1, 2],
    "float16": [0x8000, 0x7C00, 0xFC00, 0x7E00, 0x7C01, 0xFFFF, 0x7BFF, 1, 3],
    "bfloat16": [0x8000, 0x7F80, 0xFF80, 0x7FC0, 0x7F81, 0xFFFF, 0x7F7F, 1, 3],
    "float64": [1 << 63, 0x7FF << 52, 0xFFF << 52, 0x7FF8 << 48, (0x7FF << 52) + 1, 1, 3],
}


@pytest.mark.parametrize("dtype", SPECIAL)
def test_signed_zeros_nans_infinities_and_extremes_stay_bit_exact(dtype):
    for special in SPECIAL[dtype]:
        for others in ([], [0], list(grid_bits([0, 1, 2], 0.5, dtype))):
            check_round_trip(np.array([special, *others], f"u{DTYPES[dtype]}"), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_any_bits_round_trip(dtype, data):
    patterns = st.integers(0, (1 << 8 * DTYPES[dtype]) - 1)
    if dtype in SPECIAL:
        patterns = st.one_of(patterns, st.sampled_from(SPECIAL[dtype]))
    bits = data.draw(st.lists(patterns, min_size=1, max_size=12))
    check_round_trip(np.array(bits, f"u{DTYPES[dtype]}"), dtype)


@given(st.lists(st.integers(-40, 40), min_size=2, max_size=60), st.randoms())
def test_levels_depend_on_the_set_of_bits_alone(index, random):
    bits = grid_bits(index, 0.7, "float32")
    shuffled = bits.tolist() + bits.tolist()[:5]
    random.shuffle(shuffled)
    first, _ = find_codebook(bits, "float32")
    second, _ = find_codebook(np.array(shuffled, np.uint32), "float32")
    assert first.encode("float32") == second.encode("float32")


def test_more_values_than_a_codebook_holds():
    assert find_codebook(np.arange(MAX_LEVELS + 1, dtype=np.uint32), "float32") is None
    late = np.concatenate([np.zeros(5 * MAX_LEVELS), np.arange(MAX_LEVELS + 1)])
    assert find_codebook(late.astype(np.uint32), "float32") is None
    levels, _ = find_codebook(np.arange(MAX_LEVELS, dtype=np.uint32), "int32")
    assert (levels.step, len(levels.patterns)) == (1, MAX_LEVELS)


def book(count, step, first=0):
    return varint(count) + bytes([len(step)]) + step + varint(zigzag(first))


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (book(0, b"\x3f"), "float32"),
        (varint(0) + b"\0", "float32"),
        (book(MAX_LEVELS + 1, b"\x3f"), "float32"),
        (book(3, b"\x3f\0\0\0\1"), "float32"),
        (book(3, b"\x3f\0\1"), "bfloat16"),
        (book(3, b"\1\1"), "int8"),
        (book(2, b"\1"), "bool"),
        (book(2, b"\1"), "float8_e4m3fn"),
        (book(2, b"\1"), "float8_e5m2"),
        (book(2, b"\1"), "uint64"),
        (book(2, b"\1"), "complex64"),
        (book(3, b"\x3f", -MAX_LEVELS - 1), "float32"),
        (book(3, b"\x3f", MAX_LEVELS - 1), "float32"),
        (book(3, b"\x3f")[:-1], "float32"),
        (varint(3) + b"\0" + bytes(11), "float32"),
    ],
)
def test_impossible_codebooks_are_refused(data, dtype):
    with pytest.raises(FormatError, match="conv1: "):
        decode_codebook(Cursor(data, "conv1"), dtype, MAX_LEVELS)


@pytest.mark.parametrize(
    ("data", "dtype"),
    [
        (book(3, b"\x7f\x80"), "float32"),
        (book(3, b"\x7f\xc0"), "float32"),
        (book(3, b"\x7f\x80\0\1"), "float32"),
        (book(3, b"\x7f\x7f", -1), "float16"),
        (book(9, b"\x7b\xff"), "float16"),
        (book(2, b"\x7f", 1), "int8"),
        (book(2, b"\1", -1), "uint8"),
        (book(9, b"\x7f", 1), "int64"),
    ],
)
def test_grids_that_leave_their_dtype_are_refused(data, dtype):
    with pytest.raises(FormatError, match=f"conv1: a grid value is no finite {dtype}"):
        decode_codebook(Cursor(data, "conv1"), dtype, MAX_LEVELS)


def test_a_grid_that_rounds_to_infinity_is_refused():
    """Its last value is below the largest float32, and rounds past the largest bfloat16."""
    step = (127 + 120) << 7 | 126
    value = 129 * (1 + 126 / 128) * 2.0**120
    assert 3.3961776e38 < value < 3.4028234e38
    with pytest.raises(FormatError, match="no finite bfloat16"):
        decode_codebook(Cursor(book(2, step.to_bytes(2, "big"), 128), "w"), "bfloat16", 9)


def test_few_items_have_few_levels():
    decode_codebook(Cursor(book(32, b"\x3f"), "w"), "float32", 2)
    with pytest.raises(FormatError, match="33 levels, expected 1 to 32"):
        decode_codebook(Cursor(book(33, b"\x3f"), "w"), "float32", 2)


@given(st.binary(max_size=40), st.sampled_from(list(DTYPES)))
def test_noise_is_a_codebook_or_a_format_error(data, dtype):
    try:
        levels = decode_codebook(Cursor(data, "noise"), dtype, MAX_LEVELS)
    except FormatError:
        return
    assume(len(levels.patterns) < 1000)
    assert levels.patterns.dtype.itemsize == DTYPES[dtype]
