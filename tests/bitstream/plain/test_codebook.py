"""Distinct patterns and tables that are looked up, by the compiled module and by its twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

MANY = np.arange(9, dtype=np.uint32)
TABLE = np.array([9, 8], np.uint16)


def find(twin, bits, most):
    symbols = np.empty(len(bits), np.uint16)
    found = twin.find_distinct(bits, most, symbols)
    return None if found is None else (np.frombuffer(found, bits.dtype).tolist(), symbols.tolist())


@given(
    st.lists(st.integers(0, 255), max_size=60),
    st.sampled_from(["u1", "u2", "u4", "u8"]),
    st.integers(1, 12),
)
def test_patterns_are_sorted_and_symbols_are_their_places(twins, values, dtype, most):
    bits = np.array(values, dtype) << np.array(8 * (np.dtype(dtype).itemsize - 1), dtype)
    distinct = sorted(set(bits.tolist()))
    expected = None
    if len(distinct) <= most:
        expected = distinct, [distinct.index(value) for value in bits.tolist()]
    assert [find(twin, bits, most) for twin in twins] == [expected] * len(twins)


def test_as_many_patterns_as_symbols_tell_apart(twin):
    bits = np.arange(1 << 16, dtype=np.uint32)[::-1].copy()
    patterns, symbols = find(twin, bits, 1 << 16)
    assert patterns == sorted(patterns)
    assert symbols == bits.tolist()
    late = np.append(np.zeros(1 << 19, np.uint32), np.arange(1, (1 << 16) + 1, dtype=np.uint32))
    assert find(twin, late, 1 << 16) is None


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8"])
def test_a_table_is_looked_up(twin, dtype):
    out = np.empty(4, dtype)
    twin.take(TABLE.astype(dtype), np.array([1, 0, 0, 1], np.uint16), out)
    assert out.tolist() == [8, 9, 9, 8]


def test_a_table_is_looked_up_in_place(twin):
    symbols = np.array([1, 0, 1], np.uint16)
    twin.take(TABLE, symbols, symbols)
    assert symbols.tolist() == [8, 9, 8]


@pytest.mark.parametrize(
    ("name", "given"),
    {
        "fewer symbols than bits": ("find_distinct", (MANY, 9, np.zeros(3, np.uint16))),
        "one symbol": ("find_distinct", (MANY, 9, np.zeros(1, np.uint16))),
        "more distinct than symbols": ("find_distinct", (MANY, 1 << 17, np.zeros(9, np.uint16))),
        "none is most": ("find_distinct", (MANY * 0, 0, np.zeros(9, np.uint16))),
        "other length": ("take", (TABLE, np.zeros(1, np.uint16), np.zeros(3, np.uint16))),
        "past the table": ("take", (TABLE, np.full(3, 2, np.uint16), np.zeros(3, np.uint16))),
    }.values(),
)
def test_what_cannot_be_served_is_a_value_error(twin, name, given):
    with pytest.raises(ValueError, match=r"."):
        getattr(twin, name)(*given)
