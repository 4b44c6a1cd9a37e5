"""What a file asks for is counted before it is read or built; honest files are never refused."""

import contextlib
import tracemalloc

import numpy as np
import pytest

from ectorch.bitstream import DTYPES, Reader
from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file import reader
from ectorch.bitstream.file.index import Entry, encode_header, place
from ectorch.bitstream.wire import varint
from ectorch.errors import FormatError
from ectorch.storage.files import load

MIB = 1 << 20
EMPTY = b"\x8a\1\0\0"  # uint8 of shape (0,), in a new block


def assembled(header, *blocks):
    head = b"ECT\1" + varint(len(header)) + header
    return b"".join(part + reader.crc(part) for part in (head, *blocks))


def of_entries(*entries, pairs=b"\0"):
    return assembled(pairs + varint(len(entries)) + b"".join(entries), *[b""] * len(entries))


def empty_tensors(count):
    """Each costs a file ten bytes."""
    return of_entries(*(bytes([4]) + f"{at:04x}".encode() + EMPTY for at in range(count)))


def repeated_names(count):
    """Front coding: each repeats the name before it, a MiB long, and appends a byte."""
    first = b"\x0f" + varint(MIB - 15) + b"a" * MIB + EMPTY
    others = (b"\xf1" + varint(MIB - 15 + at) + b"a" + EMPTY for at in range(count))
    return of_entries(first, *others)


def large_payload(size):
    entry = Entry("a", "uint8", (1,), Coding.RAW, size)
    return assembled(encode_header(place([entry]), {}), bytes(size))


def many_pairs(count):
    pairs = b"".join(b"\5%05d\0" % at for at in range(count))
    return of_entries(pairs=varint(count) + pairs)


def large_text(size):
    return of_entries(pairs=b"\1\1k" + varint(size) + b"x" * size)


HOSTILE = {
    "empty tensors": lambda: empty_tensors(20_000),
    "names that repeat": lambda: repeated_names(30),
    "a payload for one item": lambda: large_payload(32 * MIB),
    "pairs of metadata": lambda: many_pairs(100_000),
    "a long text": lambda: large_text(8 * MIB),
}


@contextlib.contextmanager
def peak_memory():
    """Bytes of Python and NumPy at their highest, once it has ended."""
    peaks = []
    tracemalloc.start()
    try:
        yield lambda: peaks[0]
        peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_takes_more_than_the_limit_is_refused_before_it_is_built(kind, tmp_path):
    path = tmp_path / "m.ect"
    path.write_bytes(HOSTILE[kind]())
    with peak_memory() as peak, pytest.raises(FormatError, match=f"max_decoded_bytes={4 * MIB}"):
        Reader(path, 4 * MIB)
    assert peak() < 16 * MIB
    with Reader(path) as file:
        assert file.size_bytes == path.stat().st_size


def test_an_entry_costs_no_more_than_is_counted():
    data = empty_tensors(2000)
    with peak_memory() as peak:
        loaded = load(data)
    assert peak() < 3072 * len(loaded)


def kept_files(pytestconfig):
    root = pytestconfig.rootpath
    return [*root.glob("tests/golden/**/*.ect"), *root.glob("results/**/*.ect")]


def test_files_load_up_to_what_they_decode_to(pytestconfig):
    paths = kept_files(pytestconfig)
    assert len(paths) > 10
    for path in paths:
        with Reader(path) as file:
            decoded = sum(max(size_of(entry), 1) for entry in file)
            names = sum(len(entry.name) for entry in file)
        with Reader(path, decoded + names) as file:
            assert len(file.entries) > 0


def size_of(entry):
    return int(np.prod([max(size, 1) for size in entry.shape], dtype=int)) * DTYPES[entry.dtype]


@pytest.fixture
def counted(monkeypatch):
    """Names of arrays whose nonzeros `Reader` counts."""
    seen, count = [], reader.count_nonzeros

    def spy(bits, shape):
        seen.append(shape)
        return count(bits, shape)

    monkeypatch.setattr(reader, "count_nonzeros", spy)
    return seen


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "read", [Reader.read_all, lambda file: [file.read(n) for n in file.entries]]
)
def test_a_hint_is_counted_once(read, threads, counted):
    """Sixty tensors of two items that are coded with the rows of one large one."""
    large = varint(1) + b"\0\1"  # a codebook of one level
    small = varint(3) + b"\0" + bytes([1, 0, 2]) + bytes([32]) + varint(0)
    entries = [Entry("a", "uint8", (2, 1 << 19), Coding.STATIC, len(large))]
    entries += [Entry(f"b{at:02}", "uint8", (1, 2), Coding.CONTEXT, len(small)) for at in range(60)]
    data = assembled(encode_header(place(entries), {}), large + 60 * small)
    with Reader(data, 2 * MIB, threads) as file:
        read(file)
    assert counted == [(2, 1 << 19)]
