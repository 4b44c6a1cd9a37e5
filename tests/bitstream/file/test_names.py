import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream.file.names import decode_name, encode_name
from ectorch.bitstream.wire import Cursor
from ectorch.errors import FormatError

ENDINGS = (".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked")
CHARACTERS = st.one_of(
    st.characters(max_codepoint=40),
    st.characters(exclude_categories=["Cs"]),
    st.sampled_from("ab."),
)
NAMES = st.one_of(
    st.text(CHARACTERS),
    st.tuples(st.text(CHARACTERS), st.sampled_from(ENDINGS)).map("".join),
    st.text("ab", min_size=10, max_size=300),
)


def code(names):
    previous = ["", *names]
    return b"".join(encode_name(n, p) for n, p in zip(names, previous, strict=False))


@given(st.lists(NAMES))
def test_names_round_trip(names):
    names = sorted(names, key=str.encode)
    cursor, previous, decoded = Cursor(code(names), "test"), "", []
    for _ in names:
        previous = decode_name(cursor, previous)
        decoded.append(previous)
    assert decoded == names
    assert cursor.remaining == 0


@pytest.mark.parametrize(
    "names",
    [[""], ["", "a"], ["a", "ab", "abc"], ["\0", "\0\0", "\1", "\1.bias", "\x1f"], [".weight"]],
)
def test_odd_names_round_trip(names):
    cursor, previous = Cursor(code(names), "test"), ""
    for name in names:
        previous = decode_name(cursor, previous)
        assert previous == name


@pytest.mark.parametrize("ending", ENDINGS)
def test_usual_endings_cost_one_byte(ending):
    assert len(encode_name(f"fc1{ending}", "")) == 1 + 3 + 1
    assert len(encode_name(f"fc1{ending}", "fc1.alpha")) == 1 + 1


def test_a_long_shared_beginning_costs_two_bytes():
    block = "transformer.layers.0.attention."
    assert len(encode_name(f"{block}value", f"{block}query")) == 2 + 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "expected"),
        ("01", "expected"),
        ("4161", "shares 4 bytes"),
        ("f0ff01", "shares 270 bytes"),
        ("0106", "unknown byte"),
        ("011f", "unknown byte"),
        ("0100", "unknown byte"),
        ("03610162", "unknown byte"),  # an ending in the middle
        ("020041", "unknown byte"),  # an escape that needs none
        ("01ff", "no UTF-8"),
        ("02c328", "no UTF-8"),
        ("0fffffffffffffffff7f", "expected"),
    ],
)
def test_damaged_names_are_refused(data, message):
    with pytest.raises(FormatError, match=f"index: .*{message}"):
        decode_name(Cursor(bytes.fromhex(data), "index"), "abc")


@given(st.binary(max_size=30), NAMES)
def test_noise_is_a_name_or_a_format_error(data, previous):
    try:
        name = decode_name(Cursor(data, "noise"), previous)
    except FormatError:
        return
    assert decode_name(Cursor(encode_name(name, previous), "again"), previous) == name
