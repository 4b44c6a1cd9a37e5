"""The ``.ect`` file, version 1, as FORMAT.md specifies it: header, index, blocks, checksums."""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ectorch.bitstream.codings import Coding, decode_tensor, encode_tensor, estimate_bits
from ectorch.bitstream.index import Entry, decode_header, encode_header, place
from ectorch.bitstream.tensor import RawTensor
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

MAGIC = b"ECT"
VERSION = 1
DEFAULT_MAX_DECODED_BYTES = 1 << 32
_MAX_HEADER_BYTES = 1 << 24
_CRC_BYTES = 4


def encode_file(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of an ``.ect`` file: a pure function of the sorted tensors and the metadata."""
    payloads: dict[str, bytes] = {}
    entries = []
    for name, tensor, source in _sorted_with_aliases(tensors):
        coding = Coding.ALIAS
        if source is None:
            coding, payloads[name] = encode_tensor(tensor)
        size = len(payloads.get(name, b""))
        entries.append(Entry(name, tensor.dtype, tensor.shape, coding, size, alias_of=source))
    placed = place(entries)
    blocks: dict[int, bytearray] = {}
    for entry in placed:
        if entry.alias_of is None:
            blocks.setdefault(entry.block, bytearray()).extend(payloads[entry.name])
    head = _head(encode_header(placed, metadata or {}))
    parts: list[bytes | bytearray] = [head, *blocks.values()]
    return b"".join(part + _crc(part) for part in parts)


def estimate_file_bits(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> float:
    """Estimated bits of `encode_file`'s result, from counts: no coder runs."""
    entries, payload_bits = [], 0.0
    for name, tensor, source in _sorted_with_aliases(tensors):
        bits = estimate_bits(tensor) if source is None else 0.0
        payload_bits += bits
        size = math.ceil(bits / 8)
        entries.append(Entry(name, tensor.dtype, tensor.shape, Coding.RAW, size, alias_of=source))
    placed = place(entries)
    parts = 1 + len({entry.block for entry in placed if entry.alias_of is None})
    head = _head(encode_header(placed, metadata or {}))
    return payload_bits + 8 * (len(head) + _CRC_BYTES * parts)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write beside ``path``, then rename: a reader sees the old file or the whole new one."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(partial, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:  # name the file that was asked for
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


class Reader:
    """Reads an ``.ect`` file lazily; the header is checked whole before anything is allocated.

    Args:
        source: a path, or the file's bytes.
        max_decoded_bytes: refuse files whose tensors and names would take more than this. A tensor
            of one value costs no bytes in the file, so a tiny file can declare a huge one.

    Raises:
        FormatError: here or when a tensor is read; no other exception leaves a damaged file.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
    ) -> None:
        self._what = "ect bytes" if isinstance(source, bytes) else os.fspath(source)
        self._file: BinaryIO = (
            io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")  # noqa: SIM115
        )
        try:
            self.size_bytes = self._file.seek(0, os.SEEK_END)
            self._read_header(max_decoded_bytes)
        except BaseException:
            self._file.close()
            raise
        self._cached: tuple[int, bytes] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    @property
    def overhead_bytes(self) -> int:
        """Names, index and checksums: all that is no payload (codebook, table, symbols, floats)."""
        return self.size_bytes - sum(entry.size_bytes for entry in self)

    def payload(self, name: str) -> bytes:
        """The stored bytes of one tensor (of what it is an alias of); other blocks stay unread."""
        entry = self._resolve(name)
        block = self._block(entry.block)
        return block[entry.offset : entry.offset + entry.size_bytes]

    def read(self, name: str) -> RawTensor:
        """Decode one tensor.

        Raises:
            KeyError: when there is none of this name.
        """
        entry = self._resolve(name)
        what = f"{self._what}: {name}"
        try:
            bits = decode_tensor(entry.coding, self.payload(name), entry.dtype, entry.shape, what)
        except MemoryError as error:
            raise FormatError(f"{what}: {entry.decoded_bytes} bytes do not fit memory") from error
        return RawTensor(entry.dtype, entry.shape, bits)

    def verify(self) -> None:
        """Check every block's checksum without decoding."""
        for block in range(len(self._blocks)):
            self._block(block)

    def _resolve(self, name: str) -> Entry:
        entry = self.entries[name]
        return entry if entry.alias_of is None else self.entries[entry.alias_of]

    def _block(self, block: int) -> bytes:
        if self._cached is None or self._cached[0] != block:
            offset, size = self._blocks[block]
            self._file.seek(offset)
            data = self._file.read(size + _CRC_BYTES)
            _check_crc(data, f"{self._what}: block {block}")
            self._cached = block, data[:-_CRC_BYTES]
        return self._cached[1]

    def _read_header(self, max_decoded_bytes: int) -> None:
        self._file.seek(0)
        start = self._file.read(len(MAGIC) + 10)
        if start[: len(MAGIC)] != MAGIC:
            raise FormatError(f"{self._what}: no .ect file (it starts with {start[:3]!r})")
        cursor = Cursor(start[len(MAGIC) :], f"{self._what}: header")
        version = cursor.byte()
        if version != VERSION:
            raise FormatError(
                f"{self._what}: version {version}, this reader knows {VERSION}: upgrade ectorch"
            )
        size = cursor.varint()
        head_bytes = len(start) - cursor.remaining + size
        if size > _MAX_HEADER_BYTES or head_bytes + _CRC_BYTES > self.size_bytes:
            raise FormatError(f"{self._what}: header of {size} bytes in {self.size_bytes} in all")
        self._file.seek(0)
        head = self._file.read(head_bytes + _CRC_BYTES)
        _check_crc(head, f"{self._what}: header")
        header = Cursor(head[head_bytes - size : head_bytes], f"{self._what}: header")
        self.metadata, self.entries, sizes = decode_header(header, max_decoded_bytes)
        self._place_blocks(head_bytes + _CRC_BYTES, sizes)

    def _place_blocks(self, start: int, sizes: list[int]) -> None:
        self._blocks: list[tuple[int, int]] = []  # (offset in the file, payload bytes)
        for size in sizes:
            self._blocks.append((start, size))
            start += size + _CRC_BYTES
        if start != self.size_bytes:
            raise FormatError(
                f"{self._what}: the index asks for {start} bytes, the file has {self.size_bytes}"
            )


def _sorted_with_aliases(
    tensors: Mapping[str, RawTensor],
) -> Iterator[tuple[str, RawTensor, str | None]]:
    """Each name, its tensor, and the earlier name that holds the same bits, if any."""
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name in sorted(tensors, key=str.encode):
        tensor = tensors[name]
        digest = hashlib.sha256(tensor.bits.data).digest()
        source = first.setdefault((tensor.dtype, tensor.shape, digest), name)
        yield name, tensor, None if source == name else source


def _head(header: bytes) -> bytes:
    if len(header) > _MAX_HEADER_BYTES:
        raise FormatError(f"names and metadata of {len(header)} bytes, {_MAX_HEADER_BYTES} at most")
    return MAGIC + bytes([VERSION]) + varint(len(header)) + header


def _crc(data: bytes | bytearray) -> bytes:
    return zlib.crc32(data).to_bytes(_CRC_BYTES, "little")


def _check_crc(data: bytes, what: str) -> None:
    if _crc(data[:-_CRC_BYTES]) != data[-_CRC_BYTES:]:
        raise FormatError(f"{what}: checksum mismatch, the file is damaged")
