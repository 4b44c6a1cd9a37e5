import pytest

from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file.index import Entry, decode_header, encode_header, place
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

BUDGET = 1 << 20
ONE_ITEM = bytes([0, 0x80, 0, 4])  # an unnamed float32 of no dimension, raw, in a new block


def sized(*sizes):
    return [Entry(f"{at:05}", "uint8", (n,), Coding.RAW, n) for at, n in enumerate(sizes)]


def index(*entries, pairs=b"\0", count=None):
    return pairs + varint(len(entries) if count is None else count) + b"".join(entries)


def read(header, budget=BUDGET):
    return decode_header(Cursor(header, "header"), budget)


def test_small_payloads_share_blocks_and_large_ones_have_their_own():
    entries = place(sized(1, 4095, 4096, 2, 0, 70000, 0, 3))
    assert [entry.block for entry in entries] == [0, 0, 1, 2, 2, 3, 4, 4]
    assert [entry.offset for entry in entries] == [0, 1, 0, 0, 2, 0, 0, 0]


def test_shared_blocks_hold_64_kib_at_most():
    entries = place(sized(*[4000] * 40))
    assert max(entry.offset + 4000 for entry in entries) <= 1 << 16
    assert [entry.block for entry in entries] == [at // 16 for at in range(40)]


@pytest.mark.parametrize("sizes", [(), (0,), (0, 5), (5000, 0), (5000, 0, 5), (1, 5000, 1, 0, 0)])
def test_header_round_trip(sizes):
    entries = place(sized(*sizes))
    metadata, decoded, block_sizes = read(encode_header(entries, {"b": "2", "a": "\0é"}))
    assert metadata == {"a": "\0é", "b": "2"}
    assert list(decoded.values()) == entries
    assert sum(block_sizes) == sum(sizes)


def test_aliases_take_shape_and_dtype_of_their_source():
    source = Entry("a", "int16", (2, 3), Coding.RAW, 12)
    alias = Entry("b", "int16", (2, 3), Coding.ALIAS, 0, alias_of="a")
    _, entries, _ = read(encode_header(place([source, alias]), {}))
    assert entries["b"] == alias


def named(name, rest=ONE_ITEM[1:]):
    return bytes([len(name)]) + name + rest


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "expected"),
        (index(count=1 << 40), "things in 0 bytes"),
        (index(ONE_ITEM, count=3), "things in 4 bytes"),
        (index(ONE_ITEM, count=2), "header: "),
        (index(pairs=varint(1 << 60)), "things in"),
        (index(pairs=b"\1" + varint(1 << 60) + b"a"), "expected"),
        (index(pairs=b"\1\1\xff\0"), "no UTF-8"),
        (index(pairs=b"\2\1b\0\1a\0"), "metadata keys are not sorted"),
        (index(pairs=b"\2\1a\0\1a\0"), "metadata keys are not sorted"),
        (index(ONE_ITEM) + b"\0", "1 bytes after"),
        (index(named(b"b"), named(b"a")), "does not sort after"),
        (index(named(b"a"), named(b"a")), "does not sort after"),
        (index(named(b"a", b"\x00\0\4")), "in no block"),
        (index(named(b"a", b"\x80\x41" + b"\1" * 65 + b"\4")), "65 dimensions"),
        (index(named(b"a", b"\x80" + varint(1 << 62))), "dimensions"),
        (index(named(b"a", b"\x30\0")), "alias of no earlier"),
        (index(named(b"a"), named(b"b", b"\x30\1")), "alias of no earlier"),
        (index(named(b"a"), named(b"b", b"\xb0\0")), "alias of no earlier"),
        (index(named(b"a"), named(b"b", b"\x31\0")), "alias of no earlier"),
        (index(named(b"a"), named(b"b", b"\x30\0"), named(b"c", b"\x30\1")), "of the alias b"),
    ],
)
def test_damaged_headers_are_refused(header, message):
    with pytest.raises(FormatError, match=f"header: .*{message}|{message}"):
        read(header)


def shaped(*shape, dtype=0):
    numbers = b"".join(map(varint, (len(shape), *shape, 6)))
    return named(b"a", bytes([0xC0 | dtype]) + numbers)


@pytest.mark.parametrize(
    "shape", [(1 << 40,), (1 << 62, 1 << 62), (0, 1 << 40), (1 << 20,), (1 << 32, 0, 1 << 32)]
)
def test_more_than_the_reader_may_decode_is_refused(shape):
    with pytest.raises(FormatError, match="max_decoded_bytes"):
        read(index(shaped(*shape)))


def test_what_numpy_cannot_hold_is_refused_whatever_is_allowed():
    with pytest.raises(FormatError, match="max_decoded_bytes"):
        read(index(shaped(1 << 62)), 1 << 80)


def test_aliases_count_against_the_limit():
    """Each alias costs the file three bytes and the reader a whole tensor."""
    aliases = [named(bytes([code]), b"\x30\0") for code in b"bcdefgh"]
    header = index(shaped(1000), *aliases)
    assert len(read(header, 8 * 4000)[1]) == 8
    with pytest.raises(FormatError, match="max_decoded_bytes"):
        read(header, 8 * 4000 - 1)


def test_names_count_against_the_limit():
    """Front coding lets every entry repeat a long name at the cost of a few bytes."""
    name = b"a" * 5000
    first = b"\x0f" + varint(len(name) - 15) + name + b"\x8a\0\1"
    others = [b"\xf1" + varint(len(name) - 15 + at) + b"a" + b"\x0a\0\1" for at in range(400)]
    header = index(first, *others)
    assert len(header) < 10_000
    with pytest.raises(FormatError, match="max_decoded_bytes"):
        read(header)
