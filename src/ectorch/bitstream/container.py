"""The ``.ect`` file, version 1, as FORMAT.md specifies it: header, index, blocks, checksums."""

from __future__ import annotations

import hashlib
import io
import math
import os
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ectorch.bitstream import context
from ectorch.bitstream.codings import (
    Coding,
    Preset,
    Surroundings,
    count_nonzeros,
    decode_tensor,
    encode_tensor,
    estimate_bits,
    hint_of,
)
from ectorch.bitstream.context import Counts, no_counts
from ectorch.bitstream.index import Entry, decode_header, encode_header, place
from ectorch.bitstream.parallel import Map, Workers
from ectorch.bitstream.tensor import Bits, RawTensor
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import ConfigError, FormatError

_Source = tuple[str, RawTensor, str | None]  # name, tensor, name of the earlier one it equals

MAGIC = b"ECT"
VERSION = 1
DEFAULT_MAX_DECODED_BYTES = 1 << 32
_MAX_HEADER_BYTES = 1 << 24
_CRC_BYTES = 4
_LARGE_BYTES = 1 << 23  # tensors from here on are coded and decoded by chunks
_MOST_HINTS = 4
_WORTH_THREADS_BYTES = 1 << 18  # less is done before a thread has started


def encode_file(
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> bytes:
    """The bytes of an ``.ect`` file: a function of the sorted tensors, the metadata, the preset.

    Args:
        preset: "small", "balanced" or "fast", see `Preset`.
        threads: that code; all cores if None. The bytes do not depend on it.

    Raises:
        ConfigError: for another preset.
    """
    sources = list(_sorted_with_aliases(tensors))
    with _workers(threads, sum(tensor.bits.nbytes for tensor in tensors.values())) as workers:
        coded = _encode_all(sources, _parse_preset(preset), workers)
    entries = [
        Entry(name, tensor.dtype, tensor.shape, coding, len(payload), alias_of=source)
        for (name, tensor, source), (coding, payload) in zip(sources, coded, strict=True)
    ]
    placed = place(entries)
    blocks: dict[int, bytearray] = {}
    for entry, (_, payload) in zip(placed, coded, strict=True):
        if entry.alias_of is None:
            blocks.setdefault(entry.block, bytearray()).extend(payload)
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
        threads: that decode; all cores if None.

    Raises:
        FormatError: here or when a tensor is read; no other exception leaves a damaged file.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
        threads: int | None = None,
    ) -> None:
        self._threads = threads
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
        self._by_index = list(self.entries.values())
        self._index = {name: at for at, name in enumerate(self.entries)}
        self._counts: dict[int, np.ndarray] = {}  # nonzeros of rows, of tensors that others need
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

    def read(self, name: str, rows: range | None = None) -> RawTensor:
        """Decode one tensor, and those earlier ones that it was coded with, if any.

        Args:
            rows: of the first dimension, all if None; no more than these are decoded, rounded up
                to chunks.

        Raises:
            KeyError: when there is none of this name.
        """
        chain = [self._resolve(name)]
        while (hint := self._hint(chain[-1])) is not None and hint not in self._counts:
            chain.append(self._by_index[hint])
        for entry in reversed(chain[1:]):
            bits = self._decode(entry, self.payload(entry.name), self._counts.__getitem__)
            self._counts[self._index[entry.name]] = count_nonzeros(bits, entry.shape)
        entry, shape, items = chain[0], chain[0].shape, None
        if rows is not None:
            shape = (len(rows), *shape[1:])
            row = math.prod(shape[1:])
            items = range(rows.start * row, rows.start * row + len(rows) * row)
        with _workers(self._threads, entry.decoded_bytes) as workers:
            payload, counts = self.payload(name), self._counts.__getitem__
            bits = self._decode(entry, payload, counts, items, workers.map)
        return RawTensor(entry.dtype, shape, bits)

    def read_all(self) -> dict[str, RawTensor]:
        """Decode every tensor, several at once."""
        own = [entry for entry in self if entry.alias_of is None]
        hints = {entry.name: self._hint(entry) for entry in own}
        needed = set(hints.values())
        tasks: dict[int, Future[Bits]] = {}
        large: list[Entry] = []
        with _workers(self._threads, sum(entry.decoded_bytes for entry in own)) as workers:
            for entry in own:  # a hint is earlier, so the task that is waited for has begun
                at = self._index[entry.name]
                alone = hints[entry.name] is None and at not in needed
                if alone and entry.decoded_bytes >= _LARGE_BYTES:
                    large.append(entry)
                    continue
                payload = self.payload(entry.name)
                tasks[at] = workers.submit(partial(self._decode, entry, payload, self._wait(tasks)))
            decoded = {
                entry.name: self._decode(entry, self.payload(entry.name), map=workers.map)
                for entry in large
            }
            decoded |= {self._by_index[at].name: task.result() for at, task in tasks.items()}
        return {
            entry.name: RawTensor(entry.dtype, entry.shape, decoded[entry.alias_of or entry.name])
            for entry in self
        }

    def _wait(self, tasks: Mapping[int, Future[Bits]]) -> Counts:
        def counts(index: int) -> np.ndarray:
            return count_nonzeros(tasks[index].result(), self._by_index[index].shape)

        return counts

    def _decode(
        self,
        entry: Entry,
        payload: bytes,
        counts: Counts = no_counts,
        items: range | None = None,
        map: Map = map,
    ) -> Bits:
        what = f"{self._what}: {entry.name}"
        try:
            return decode_tensor(
                entry.coding, payload, entry.dtype, entry.shape, what, counts, items, map
            )
        except MemoryError as error:
            raise FormatError(f"{what}: {entry.decoded_bytes} bytes do not fit memory") from error

    def _hint(self, entry: Entry) -> int | None:
        """The earlier entry whose rows `decode_tensor` will ask for, if any."""
        if entry.coding != Coding.CONTEXT:  # spares the payload
            return None
        what = f"{self._what}: {entry.name}"
        hint = hint_of(entry.coding, self.payload(entry.name), entry.dtype, what)
        if hint is None:
            return None
        if hint >= self._index[entry.name] or self._by_index[hint].alias_of is not None:
            raise FormatError(f"{what}: coded with the tensor {hint}, which is no earlier one")
        return hint

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


def _workers(threads: int | None, size_bytes: int) -> Workers:
    return Workers(threads if size_bytes >= _WORTH_THREADS_BYTES else 1)


def _parse_preset(preset: str) -> Preset:
    try:
        return Preset(preset)
    except ValueError:
        known = ", ".join(known.value for known in Preset)
        raise ConfigError(f"preset {preset!r} is unknown, known: {known}") from None


def _encode_all(
    sources: list[_Source], preset: Preset, workers: Workers
) -> list[tuple[Coding, bytes]]:
    """Coding and payload of each tensor: small ones at once, then chunks of a large one at once."""
    coded: dict[int, Future[tuple[Coding, bytes]]] = {}
    others: dict[int, tuple[Coding, bytes]] = {}
    for at, (_, tensor, source) in enumerate(sources):
        if source is None and tensor.bits.nbytes < _LARGE_BYTES:
            around = Surroundings(preset, _hints(sources, at) if preset is Preset.SMALL else {})
            coded[at] = workers.submit(partial(encode_tensor, tensor, around))
    for at, (_, tensor, source) in enumerate(sources):
        if source is not None:
            others[at] = Coding.ALIAS, b""
        elif at not in coded:
            others[at] = encode_tensor(tensor, Surroundings(preset, map=workers.map))
    return [others[at] if at in others else coded[at].result() for at in range(len(sources))]


def _hints(sources: list[_Source], at: int) -> dict[int, np.ndarray]:
    """Nonzeros of each row, of the nearest earlier tensors whose rows may feed this one's columns.

    Large tensors neither give nor take hints, so that they can be read alone.
    """
    shape = sources[at][1].shape
    hints: dict[int, np.ndarray] = {}
    for earlier in range(at - 1, -1, -1):
        _, tensor, source = sources[earlier]
        if source is not None or tensor.bits.nbytes >= _LARGE_BYTES or len(tensor.shape) < 2:
            continue
        if len(shape) > 1 and context.fits(tensor.shape[0], math.prod(shape[1:])):
            hints[earlier] = count_nonzeros(tensor.bits, tensor.shape)
            if len(hints) == _MOST_HINTS:
                break
    return hints


def _sorted_with_aliases(tensors: Mapping[str, RawTensor]) -> Iterator[_Source]:
    """Each name, its tensor, and the earlier name that holds the same bits, if any."""
    alike = Counter((tensor.dtype, tensor.shape) for tensor in tensors.values())
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name in sorted(tensors, key=str.encode):
        tensor = tensors[name]
        source = name
        if alike[tensor.dtype, tensor.shape] > 1:
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
