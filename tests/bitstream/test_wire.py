import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream.wire import Cursor, unzigzag, varint, zigzag
from ectorch.errors import FormatError

VALUES = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))


@given(st.lists(VALUES))
def test_varints_come_back_in_order(values):
    cursor = Cursor(b"".join(map(varint, values)), "test")
    assert [cursor.varint() for _ in values] == values
    assert cursor.remaining == 0


@given(VALUES)
def test_varint_is_as_short_as_seven_bits_a_byte_allow(value):
    assert len(varint(value)) == max(1, -(-value.bit_length() // 7))


@pytest.mark.parametrize("value", [-1, 2**63])
def test_varint_refuses_what_no_reader_takes(value):
    with pytest.raises(ValueError):
        varint(value)


@given(st.binary(max_size=12))
def test_any_varint_that_is_read_is_the_one_that_is_written(data):
    cursor = Cursor(data, "test")
    try:
        value = cursor.varint()
    except FormatError:
        return
    assert data.startswith(varint(value))
    assert cursor.remaining == len(data) - len(varint(value))


@pytest.mark.parametrize(
    "damaged",
    ["", "80", "8080", "8000", "ff00", "ffffffffffffffff00", "80" * 9 + "01", "ff" * 9, "ff" * 40],
)
def test_truncated_overlong_and_padded_varints_are_refused(damaged):
    with pytest.raises(FormatError, match="thing: "):
        Cursor(bytes.fromhex(damaged), "thing").varint()


@given(st.integers(-(2**70), 2**70))
def test_zigzag_round_trip(value):
    assert unzigzag(zigzag(value)) == value


def test_zigzag_counts_outward_from_zero():
    assert sorted(range(-50, 51), key=zigzag)[:5] == [0, -1, 1, -2, 2]
    assert sorted(map(zigzag, range(-50, 50))) == list(range(100))


@given(st.binary(), st.lists(st.integers(0, 20)))
def test_cursor_takes_consecutive_slices_and_never_passes_the_end(data, counts):
    cursor, at = Cursor(data, "test"), 0
    for count in counts:
        if at + count <= len(data):
            assert cursor.take(count) == data[at : at + count]
            at += count
        else:
            with pytest.raises(FormatError):
                cursor.take(count)
        assert cursor.remaining == len(data) - at
    assert cursor.rest() == data[at:]
    with pytest.raises(FormatError):
        cursor.byte()
