"""The header of an ``.ect`` file: metadata, and each tensor's name, dtype, shape and place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file.names import decode_name, encode_name
from ectorch.bitstream.tensor import DTYPES
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

MAX_DIMENSIONS = 64
_OWN_BLOCK_BYTES = 4096  # a payload of this size or more gets a block of its own
_MAX_SHARED_BLOCK_BYTES = 1 << 16
_FULL = _MAX_SHARED_BLOCK_BYTES + 1  # has no room, not even for an empty payload
_MAX_ARRAY_BYTES = 1 << 59  # NumPy runs out of memory here; of sizes past it, it raises ValueError
_DTYPE_NAMES = tuple(DTYPES)
_CODINGS = frozenset(map(int, Coding))
_NEW_BLOCK = 0x80
_ENTRY_BYTES = 3072  # what Python takes for an entry and its tensor beside the items, about
_PAIR_BYTES = 256  # the same of metadata
_CHARACTER_BYTES = 4  # of a string, at most
FREE_BYTES = 1 << 20  # header, names, metadata, entries: no honest file of few tensors has more


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


class Budget:
    """What a reader may take, spent before it is taken.

    A tensor costs its items (a size of 0 counted as 1) or its payload, whichever is more. All
    else costs what Python makes of it: the header its bytes, a text four bytes a byte, an entry
    3 KiB, a pair of metadata 256 bytes; the first MiB of that is free.
    """

    def __init__(self, max_decoded_bytes: int) -> None:
        self._limit = max_decoded_bytes
        self._left = min(max_decoded_bytes, _MAX_ARRAY_BYTES)
        self._free = FREE_BYTES

    def spend(self, size_bytes: int, what: str) -> None:
        self._left -= size_bytes
        if self._left < 0:
            raise FormatError(
                f"{what}: tensors and names take more than max_decoded_bytes={self._limit}; "
                "raise it if you trust the file"
            )

    def spend_beside(self, size_bytes: int, what: str) -> None:
        """For what is no tensor."""
        free = min(self._free, size_bytes)
        self._free -= free
        self.spend(size_bytes - free, what)

    def spend_text(self, size_bytes: int, what: str) -> None:
        self.spend_beside(_CHARACTER_BYTES * size_bytes, what)


def decode_header(
    cursor: Cursor, max_decoded_bytes: int
) -> tuple[dict[str, str], dict[str, Entry], list[int]]:
    """Metadata, entries by name, and the payload bytes of each block.

    Raises:
        FormatError: on anything that `encode_header` would not write, or what takes more than
            ``max_decoded_bytes``, see `Budget`.
    """
    budget = Budget(max_decoded_bytes)
    budget.spend_beside(cursor.remaining, cursor.what)
    metadata = _decode_metadata(cursor, budget)
    before: list[Entry] = []
    block_sizes: list[int] = []
    last = ""
    for _ in range(_count(cursor)):
        what = f"{cursor.what}: after {last[:80]!r}" if before else cursor.what
        budget.spend_beside(_ENTRY_BYTES, what)
        name = decode_name(cursor, last, partial(budget.spend_text, what=what))
        if before and name.encode() <= last.encode():
            raise FormatError(f"{cursor.what}: {name!r} does not sort after {last!r}")
        entry = _decode_entry(cursor, name, before, block_sizes)
        items = math.prod(max(size, 1) for size in entry.shape)
        budget.spend(max(items * DTYPES[entry.dtype], entry.size_bytes), what)
        before.append(entry)
        last = name
    if cursor.remaining:
        raise FormatError(f"{cursor.what}: {cursor.remaining} bytes after the last tensor")
    return metadata, {entry.name: entry for entry in before}, block_sizes


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


def _decode_metadata(cursor: Cursor, budget: Budget) -> dict[str, str]:
    metadata: dict[str, str] = {}
    last = None
    for _ in range(_count(cursor)):
        budget.spend_beside(_PAIR_BYTES, f"{cursor.what}: metadata")
        key, text = _take_text(cursor, budget), _take_text(cursor, budget)
        if last is not None and key <= last:
            raise FormatError(f"{cursor.what}: metadata keys are not sorted")
        last = key
        try:
            metadata[key.decode()] = text.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"{cursor.what}: metadata is no UTF-8") from error
    return metadata


def _take_text(cursor: Cursor, budget: Budget) -> bytes:
    size = cursor.varint()
    budget.spend_text(min(size, cursor.remaining), f"{cursor.what}: metadata")
    return cursor.take(size)


def _count(cursor: Cursor) -> int:
    """A number of things that follow, each of two bytes at least."""
    count = cursor.varint()
    if 2 * count > cursor.remaining:
        raise FormatError(f"{cursor.what}: {count} things in {cursor.remaining} bytes")
    return count
