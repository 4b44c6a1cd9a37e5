"""The header of an ``.ect`` file: metadata, and each tensor's name, dtype, shape and place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ectorch.bitstream.codings import Coding
from ectorch.bitstream.names import decode_name, encode_name
from ectorch.bitstream.tensor import DTYPES
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

DEFAULT_MAX_DECODED_BYTES = 1 << 32
ENTRY_BYTES = 1 << 10  # about what a tensor takes beside its items and its name, or a pair of texts
FREE_BYTES = 1 << 24  # of index and of payloads, whatever the limit
MAX_DIMENSIONS = 64
_OWN_BLOCK_BYTES = 4096  # a payload of this size or more gets a block of its own
_MAX_SHARED_BLOCK_BYTES = 1 << 16
_FULL = _MAX_SHARED_BLOCK_BYTES + 1  # has no room, not even for an empty payload
MAX_ARRAY_BYTES = 1 << 59  # NumPy runs out of memory here; of sizes past it, it raises ValueError
_DTYPE_NAMES = tuple(DTYPES)
_CODINGS = frozenset(map(int, Coding))
_NEW_BLOCK = 0x80


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the index.

    Attributes:
        block, offset: where the payload is, the latter within the block.
        size_bytes: of the payload; 0 for an alias.
        alias_of: name of the earlier tensor with the same bits, if any.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    coding: Coding
    size_bytes: int
    block: int = 0
    offset: int = 0
    alias_of: str | None = None

    @property
    def decoded_bytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype]


def encode_header(entries: Sequence[Entry], metadata: Mapping[str, str]) -> bytes:
    """Metadata and index, without the bytes around them; `place` has set blocks and offsets."""
    out = bytearray(varint(len(metadata)))
    for key in sorted(metadata, key=str.encode):
        for text in (key.encode(), metadata[key].encode()):
            out += varint(len(text)) + text
    out += varint(len(entries))
    position = {entry.name: at for at, entry in enumerate(entries)}
    previous, last_block = "", -1
    for entry in entries:
        out += encode_name(entry.name, previous)
        previous = entry.name
        if entry.alias_of is not None:
            out += bytes([Coding.ALIAS << 4]) + varint(position[entry.alias_of])
            continue
        kind = _DTYPE_NAMES.index(entry.dtype) | entry.coding << 4
        out.append(kind | (_NEW_BLOCK if entry.block != last_block else 0))
        last_block = entry.block
        for number in (len(entry.shape), *entry.shape, entry.size_bytes):
            out += varint(number)
    return bytes(out)


def place(entries: Sequence[Entry]) -> list[Entry]:
    """Give every payload its block: large ones have their own, small ones share."""
    placed: list[Entry] = []
    block, filled = -1, _FULL
    for entry in entries:
        if entry.alias_of is None:
            own = entry.size_bytes >= _OWN_BLOCK_BYTES
            if own or filled + entry.size_bytes > _MAX_SHARED_BLOCK_BYTES:
                block, filled = block + 1, 0
            entry = replace(entry, block=block, offset=filled)
            filled = _FULL if own else filled + entry.size_bytes
        placed.append(entry)
    return placed


def decode_header(
    cursor: Cursor, max_decoded_bytes: int
) -> tuple[dict[str, str], dict[str, Entry], list[int]]:
    """Metadata, entries by name, and the payload bytes of each block.

    Raises:
        FormatError: on anything that `encode_header` would not write, or what takes more than
            ``max_decoded_bytes``, as `Reader` counts.
    """
    decoded = Room(f"{cursor.what}: tensors and names", max_decoded_bytes)
    index = Room(f"{cursor.what}: index", max_decoded_bytes, FREE_BYTES)
    payloads = Room(f"{cursor.what}: payloads", max_decoded_bytes, FREE_BYTES)
    index.take(cursor.remaining)
    metadata = _decode_metadata(cursor, index)
    before: list[Entry] = []
    block_sizes: list[int] = []
    count = _count(cursor)
    index.take(count * ENTRY_BYTES)
    for _ in range(count):
        last = before[-1].name if before else ""
        name = decode_name(cursor, last)
        if before and name.encode() <= last.encode():
            raise FormatError(f"{cursor.what}: {name!r} does not sort after {last!r}")
        decoded.take(len(name) if name.isascii() else 4 * len(name))
        entry = _decode_entry(cursor, name, before, block_sizes)
        decoded.take(counted_bytes(entry.dtype, entry.shape))
        payloads.take(entry.size_bytes)
        before.append(entry)
    if cursor.remaining:
        raise FormatError(f"{cursor.what}: {cursor.remaining} bytes after the last tensor")
    return metadata, {entry.name: entry for entry in before}, block_sizes


def counted_bytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor as its reader counts them: a dimension of size 0 as one of 1."""
    return math.prod(max(size, 1) for size in shape) * DTYPES[dtype]


class Room:
    """What may still be taken of ``max_decoded_bytes``, or of ``free`` if that is more."""

    def __init__(self, what: str, max_decoded_bytes: int, free: int = 0) -> None:
        self._what, self._limit = what, max_decoded_bytes
        self._left = min(max(max_decoded_bytes, free), MAX_ARRAY_BYTES)

    def take(self, count: int) -> None:
        """Raises: FormatError, when there is less."""
        self._left -= count
        if self._left < 0:
            raise FormatError(
                f"{self._what} take more than max_decoded_bytes={self._limit}; raise it if you "
                "trust the file"
            )


def _decode_entry(
    cursor: Cursor, name: str, before: Sequence[Entry], block_sizes: list[int]
) -> Entry:
    kind = cursor.byte()
    code, coding = kind & 15, kind >> 4 & 7
    if coding not in _CODINGS:
        raise FormatError(f"{cursor.what}: {name} has the unknown coding {coding}")
    if coding == Coding.ALIAS:
        target = cursor.varint()
        if kind != Coding.ALIAS << 4 or target >= len(before):
            raise FormatError(f"{cursor.what}: {name} is an alias of no earlier tensor")
        source = before[target]
        if source.alias_of is not None:
            raise FormatError(f"{cursor.what}: {name} is an alias of the alias {source.name}")
        return Entry(name, source.dtype, source.shape, Coding.ALIAS, 0, alias_of=source.name)
    dimensions = cursor.varint()
    if dimensions > MAX_DIMENSIONS:
        raise FormatError(f"{cursor.what}: {name} has {dimensions} dimensions")
    shape = tuple(cursor.varint() for _ in range(dimensions))
    size = cursor.varint()
    if kind & _NEW_BLOCK:
        block_sizes.append(0)
    elif not block_sizes:
        raise FormatError(f"{cursor.what}: {name} is in no block")
    offset = block_sizes[-1]
    block_sizes[-1] += size
    block = len(block_sizes) - 1
    return Entry(name, _DTYPE_NAMES[code], shape, Coding(coding), size, block, offset)


def _decode_metadata(cursor: Cursor, index: Room) -> dict[str, str]:
    count = _count(cursor)
    index.take(count * ENTRY_BYTES)
    try:
        pairs = [
            (cursor.take(cursor.varint()).decode(), cursor.take(cursor.varint()).decode())
            for _ in range(count)
        ]
    except UnicodeDecodeError as error:
        raise FormatError(f"{cursor.what}: metadata is no UTF-8") from error
    metadata = dict(pairs)
    if list(metadata) != sorted(metadata, key=str.encode) or len(metadata) < len(pairs):
        raise FormatError(f"{cursor.what}: metadata keys are not sorted")
    return metadata


def _count(cursor: Cursor) -> int:
    """A number of things that follow, each of two bytes at least."""
    count = cursor.varint()
    if 2 * count > cursor.remaining:
        raise FormatError(f"{cursor.what}: {count} things in {cursor.remaining} bytes")
    return count
