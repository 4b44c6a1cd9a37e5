"""Reading an ``.ect`` file, lazily; the header is checked whole before anything is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial

import numpy as np

from ectorch.bitstream.codings import count_nonzeros, decode_tensor, layout_of
from ectorch.bitstream.container import (
    CRC_BYTES,
    LARGE_BYTES,
    MAGIC,
    MAX_HEADER_BYTES,
    VERSION,
    crc,
    workers_for,
)
from ectorch.bitstream.context import Counts, can_encode, fits, no_counts
from ectorch.bitstream.index import DEFAULT_MAX_DECODED_BYTES, Entry, decode_header
from ectorch.bitstream.parallel import Map, check_threads, done
from ectorch.bitstream.source import Identity, Source
from ectorch.bitstream.tensor import Bits, RawTensor
from ectorch.bitstream.wire import Cursor
from ectorch.errors import FormatError

__all__ = ["DEFAULT_MAX_DECODED_BYTES", "Reader"]

_MOST_CACHED_BYTES = 1 << 17  # of a block: those that many tensors share are smaller


class Reader:
    """Reads an ``.ect`` file lazily; the header is checked whole before anything is allocated.

    Threads may share one, processes after a fork too. It pickles as its path, and refuses another
    file that is there by then; bytes pickle as they are.

    Args:
        source: a path, or the file's bytes.
        max_decoded_bytes: refuse files whose tensors and names would take more than this. A tensor
            of one value costs no bytes in the file, so a tiny file can declare a huge one. A
            dimension of size 0 counts as one of 1. Stored payloads may not take more either, nor
            the header and 1 KiB for each tensor and each pair of metadata, but for 16 MiB of both.
        threads: that decode; all cores if None.

    Raises:
        ConfigError: for a wrong number of threads, or when it is read after it was closed.
        FormatError: here or when a tensor is read; no other exception leaves a damaged file, or one
            that was written to after it was opened.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes,
        max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
        threads: int | None = None,
    ) -> None:
        self._threads, self._max_decoded_bytes = check_threads(threads), max_decoded_bytes
        self._source = Source(source)
        self._what, self.size_bytes = self._source.name, self._source.size_bytes
        self._read_header()
        self._by_index = list(self.entries.values())
        self._index = {name: at for at, name in enumerate(self.entries)}
        # Threads share these two without a lock: what one replaces is as good as what it finds.
        self._counts: dict[int, np.ndarray] = {}  # nonzeros of rows, of tensors that others need
        self._cached: tuple[int, bytes] | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def __reduce__(self) -> tuple[object, ...]:
        limits = self._max_decoded_bytes, self._threads
        return _open_again, (self._source.origin, *limits, self._identity)

    @property
    def overhead_bytes(self) -> int:
        """Names, index and checksums: all that is no payload (codebook, table, symbols, floats)."""
        return self.size_bytes - sum(entry.size_bytes for entry in self)

    def payload(self, name: str) -> bytes:
        """The stored bytes of one tensor (of what it is an alias of); other blocks stay unread."""
        return self._payload(self._resolve(name))

    def read(self, name: str, rows: range | None = None) -> RawTensor:
        """Decode one tensor, and those earlier ones that it was coded with, if any.

        Args:
            rows: of the first dimension, all if None; no more than these are decoded, rounded up
                to chunks.

        Raises:
            KeyError: when there is none of this name.
        """
        entry, shape, items = self._resolve(name), self.entries[name].shape, None
        if rows is not None:
            shape = (len(rows), *shape[1:])
            row = math.prod(shape[1:])
            items = range(rows.start * row, rows.start * row + len(rows) * row)
        payload = self._payload(entry)
        self._count_hints(entry, payload)
        with workers_for(self._threads, entry.decoded_bytes) as workers:
            bits = self._decode(entry, payload, self._counts.__getitem__, items, workers.map)
        if bits.base is not None and items is not None:
            bits = bits.copy()  # lets go of the other rows
        return RawTensor(entry.dtype, shape, bits)

    def read_all(self) -> dict[str, RawTensor]:
        """Decode every tensor, several at once; each has memory of its own."""
        decoded: dict[str, Future[Bits]] = {}

        def counts(entry: Entry, index: int) -> np.ndarray:
            hint = self._check_hint(entry, index)
            if index not in self._counts:  # an earlier task: it has begun
                self._counts[index] = count_nonzeros(decoded[hint.name].result(), hint.shape)
            return self._counts[index]

        def decode(entry: Entry, map: Map = map) -> Bits:
            return self._decode(entry, self._payload(entry), partial(counts, entry), map=map)

        with workers_for(self._threads, sum(entry.decoded_bytes for entry in self)) as workers:
            for entry in self:
                if entry.alias_of is not None:
                    continue
                if entry.decoded_bytes >= LARGE_BYTES:  # its chunks at once
                    decoded[entry.name] = done(decode(entry, workers.map))
                else:
                    decoded[entry.name] = workers.submit(partial(decode, entry))
            bits = {name: task.result() for name, task in decoded.items()}
        return {
            entry.name: RawTensor(
                entry.dtype,
                entry.shape,
                bits[entry.name] if entry.alias_of is None else bits[entry.alias_of].copy(),
            )
            for entry in self
        }

    def _count_hints(self, entry: Entry, payload: bytes) -> None:
        """Count what `_decode` will ask for, and what that was coded with."""
        chain: list[Entry] = []
        hint = self._hint(entry, payload)
        while hint is not None and self._index[hint.name] not in self._counts:
            chain.append(hint)
            hint = self._hint(hint, self._payload(hint))
        for entry in reversed(chain):
            bits = self._decode(entry, self._payload(entry), self._counts.__getitem__)
            self._counts[self._index[entry.name]] = count_nonzeros(bits, entry.shape)

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

    def _hint(self, entry: Entry, payload: bytes) -> Entry | None:
        """The earlier tensor whose rows `decode_tensor` will ask for, if any."""
        what = f"{self._what}: {entry.name}"
        layout = layout_of(entry.coding, payload, entry.dtype, entry.shape, what)
        if layout is None or layout.hint is None:
            return None
        return self._check_hint(entry, layout.hint)

    def _check_hint(self, entry: Entry, hint: int) -> Entry:
        what = f"{self._what}: {entry.name}"
        if hint >= self._index[entry.name] or self._by_index[hint].alias_of is not None:
            raise FormatError(f"{what}: coded with the tensor {hint}, which is no earlier one")
        earlier, columns = self._by_index[hint], math.prod(entry.shape[1:])
        rows = earlier.shape[0] if earlier.shape else 1
        if not can_encode(entry.shape) or not fits(rows, columns):
            raise FormatError(f"{what}: {rows} rows of another tensor for {columns} columns")
        return earlier

    def verify(self) -> None:
        """Check every block's checksum without decoding."""
        for block in range(len(self._blocks)):
            self._block(block)

    def _resolve(self, name: str) -> Entry:
        entry = self.entries[name]
        return entry if entry.alias_of is None else self.entries[entry.alias_of]

    def _payload(self, entry: Entry) -> bytes:
        return self._block(entry.block)[entry.offset : entry.offset + entry.size_bytes]

    def _block(self, block: int) -> bytes:
        cached = self._cached
        if cached is not None and cached[0] == block:
            return cached[1]
        offset, size = self._blocks[block]
        data = self._source.read(offset, size)
        self._check_crc(data, offset + size, f"block {block}")
        if size <= _MOST_CACHED_BYTES:
            self._cached = block, data
        return data

    def _read_header(self) -> None:
        start = self._source.read(0, len(MAGIC) + 10)
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
        if size > MAX_HEADER_BYTES or head_bytes + CRC_BYTES > self.size_bytes:
            raise FormatError(f"{self._what}: header of {size} bytes in {self.size_bytes} in all")
        head = self._source.read(0, head_bytes)
        self._identity = self._source.identity, self._check_crc(head, head_bytes, "header")
        header = Cursor(head[head_bytes - size :], f"{self._what}: header")
        self.metadata, self.entries, sizes = decode_header(header, self._max_decoded_bytes)
        self._place_blocks(head_bytes + CRC_BYTES, sizes)

    def _place_blocks(self, start: int, sizes: list[int]) -> None:
        self._blocks: list[tuple[int, int]] = []  # (offset in the file, payload bytes)
        for size in sizes:
            self._blocks.append((start, size))
            start += size + CRC_BYTES
        if start != self.size_bytes:
            raise FormatError(
                f"{self._what}: the index asks for {start} bytes, the file has {self.size_bytes}"
            )

    def _check_crc(self, data: bytes, offset: int, part: str) -> bytes:
        found = crc(data)
        if found != self._source.read(offset, CRC_BYTES):
            raise FormatError(f"{self._what}: {part}: checksum mismatch, the file is damaged")
        return found


def _open_again(
    origin: str | bytes,
    max_decoded_bytes: int,
    threads: int | None,
    identity: tuple[Identity | None, bytes],
) -> Reader:
    """Unpickle a `Reader`."""
    reader = Reader(origin, max_decoded_bytes, threads)
    if reader._identity != identity:
        raise FormatError(f"{reader._what}: changed since the handle was pickled: open it anew")
    return reader
