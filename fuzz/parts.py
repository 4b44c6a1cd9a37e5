"""An ``.ect`` file as metadata, entries and payloads: take it apart, put it together again."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace

from ectorch.bitstream.file.index import Entry, decode_header, encode_header, place
from ectorch.bitstream.wire import Cursor, varint

Parts = tuple[dict[str, str], list[Entry], list[bytes]]  # a payload for each entry

_CRC_BYTES = 4
_ANY_SIZE = 1 << 62


def assemble(header: bytes, blocks: Sequence[bytes]) -> bytes:
    """A file with right lengths and checksums around any header and payloads."""
    head = b"ECT\1" + varint(len(header)) + header
    parts = (head, *blocks)
    return b"".join(part + zlib.crc32(part).to_bytes(_CRC_BYTES, "little") for part in parts)


def take_apart(data: bytes) -> Parts:
    """Inverse of `assemble` and `put_together`; `FormatError` where the header is damaged."""
    cursor = Cursor(data, "file")
    cursor.take(len(b"ECT\1"))
    header = cursor.take(cursor.varint())
    cursor.take(_CRC_BYTES)
    metadata, entries, sizes = decode_header(Cursor(header, "header"), _ANY_SIZE)
    blocks = []
    for size in sizes:
        blocks.append(cursor.take(size))
        cursor.take(_CRC_BYTES)
    payloads = [
        b"" if at.alias_of else blocks[at.block][at.offset : at.offset + at.size_bytes]
        for at in entries.values()
    ]
    return metadata, list(entries.values()), payloads


def put_together(parts: Parts) -> tuple[bytes, list[bytes]]:
    """Header and blocks; payloads may have other lengths than before."""
    metadata, entries, payloads = parts
    sized = [replace(at, size_bytes=len(data)) for at, data in zip(entries, payloads, strict=True)]
    placed = place(sized)
    blocks: dict[int, bytes] = {}
    for entry, payload in zip(placed, payloads, strict=True):
        if entry.alias_of is None:
            blocks[entry.block] = blocks.get(entry.block, b"") + payload
    return encode_header(placed, metadata), list(blocks.values())
