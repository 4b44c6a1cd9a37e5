"""Reading an ``.ect`` file, lazily; the header is checked whole before anything is allocated."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from concurrent.futures import Future
from copy import deepcopy
from functools import partial

import numpy as np

from ectorch.bitstream.codings.context import Counts, can_hint, no_counts
from ectorch.bitstream.codings.decode import Coding, count_nonzeros, decode_tensor, layout_of
from ectorch.bitstream.file.index import FREE_BYTES, Entry, decode_header
from ectorch.bitstream.file.source import BytesSource, FileSource, Source
from ectorch.bitstream.file.writer import (
    CRC_BYTES,
    LARGE_BYTES,
    MAGIC,
    MAX_HEADER_BYTES,
    VERSION,
    crc,
    workers_for,
)
from ectorch.bitstream.parallel import Map, check_threads
from ectorch.bitstream.tensor import Bits, RawTensor
from ectorch.bitstream.wire import Cursor
from ectorch.errors import FormatError

DEFAULT_MAX_DECODED_BYTES = 1 << 32


class Reader:
    """Reads an ``.ect`` file lazily; the header is checked whole before anything is allocated.

    Any number of threads may share it, and processes over a fork. It is copied and pickled as its
    source is: a file by its path, and what comes back reads that very file or raises.

    Args:
        source: a path, or the file's bytes, or what `ectorch.bitstream.file.source` makes of them.
        max_decoded_bytes: refuse files that would take more than this. A tensor of one value costs
            no bytes in the file, so a tiny file can declare a huge one.
        threads: that decode; all cores if None.

    Raises:
        ConfigError: for a wrong number of threads, or when a closed file is read.
        FormatError: here or when a tensor is read, also where the file was changed in the
            meantime; no other exception leaves a damaged file.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | bytes | Source,
        max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
        threads: int | None = None,
    ) -> None:
        self._threads = check_threads(threads)
        self._limit = max_decoded_bytes
        if isinstance(source, bytes):
            source = BytesSource(source)
        elif isinstance(source, (str, os.PathLike)):
            source = FileSource(source)
        self._source: Source = source
        self._what = source.what
        self.size_bytes = source.size_bytes
        try:
            self._read_header()
        except BaseException:
            self._source.close()
            raise
        self._by_index = list(self.entries.values())
        self._index = {name: at for at, name in enumerate(self.entries)}
        # Threads share these two: both are replaced or grown in one step, never changed.
        self._counts: dict[int, np.ndarray] = {}  # nonzeros of rows, of tensors that others need
        self._cached: tuple[int, memoryview] | None = None  # a block

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *error: object) -> None:
        self._source.close()

    def __reduce__(self) -> tuple[object, ...]:
        return _reopen, (self._source, self._limit, self._threads, self._header_crc)

    def __copy__(self) -> Reader:
        return deepcopy(self)  # either can be closed

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    @property
    def overhead_bytes(self) -> int:
        """Names, index and checksums: all that is no payload (codebook, table, symbols, floats)."""
        return self.size_bytes - sum(entry.size_bytes for entry in self)

    def payload(self, name: str) -> bytes:
        """The stored bytes of one tensor (of what it is an alias of); other blocks stay unread."""
        return bytes(self._payload(self._resolve(name)))

    def read(self, name: str, rows: range | None = None) -> RawTensor:
        """Decode one tensor, and those earlier ones that it was coded with, if any.

        Args:
            rows: of the first dimension, all if None; no more than these are decoded, rounded up
                to chunks.

        Raises:
            KeyError: when there is none of this name.
        """
        entry = self._resolve(name)
        chain = [(entry, self._payload(entry, keep=rows is not None))]
        while (hint := self._hint(*chain[-1])) is not None and hint not in self._counts:
            earlier = self._by_index[hint]
            chain.append((earlier, self._payload(earlier)))
        while len(chain) > 1:
            self._count(*chain.pop(), self._counts.__getitem__)
        shape, items = entry.shape, None
        if rows is not None:
            shape = (len(rows), *shape[1:])
            row = math.prod(shape[1:])
            items = range(rows.start * row, rows.start * row + len(rows) * row)
        with workers_for(self._threads, entry.decoded_bytes) as workers:
            bits = self._decode(*chain.pop(), self._counts.__getitem__, items, workers.map)
        if bits.base is not None and bits.base.nbytes > bits.nbytes:  # do not hold all the rows
            bits = bits.copy()
        return RawTensor(entry.dtype, shape, bits)

    def read_all(self) -> dict[str, RawTensor]:
        """Decode every tensor, several at once; equal ones share no memory."""
        own = [entry for entry in self if entry.alias_of is None]
        hints = {entry.name: self._hint_of(entry) for entry in own}
        needed = set(hints.values())
        tasks: dict[int, Future[Bits]] = {}
        large: list[Entry] = []
        with workers_for(self._threads, sum(entry.decoded_bytes for entry in own)) as workers:
            for entry in own:  # a hint is earlier, so the task that is waited for has begun
                at = self._index[entry.name]
                alone = hints[entry.name] is None and at not in needed
                if alone and entry.decoded_bytes >= LARGE_BYTES:
                    large.append(entry)
                    continue
                work = self._read_counting if at in needed else self._read_whole
                tasks[at] = workers.submit(partial(work, entry, tasks))
            decoded = {
                entry.name: self._decode(entry, self._payload(entry), map=workers.map)
                for entry in large
            }
            decoded |= {self._by_index[at].name: task.result() for at, task in tasks.items()}
        return {
            entry.name: RawTensor(
                entry.dtype,
                entry.shape,
                decoded[entry.name] if entry.alias_of is None else decoded[entry.alias_of].copy(),
            )
            for entry in self
        }

    def _read_whole(self, entry: Entry, tasks: dict[int, Future[Bits]]) -> Bits:
        return self._decode(entry, self._payload(entry), self._wait(tasks))

    def _read_counting(self, entry: Entry, tasks: dict[int, Future[Bits]]) -> Bits:
        return self._count(entry, self._payload(entry), self._wait(tasks))

    def _wait(self, tasks: dict[int, Future[Bits]]) -> Counts:
        def counts(index: int) -> np.ndarray:
            tasks[index].result()
            return self._counts[index]

        return counts

    def _count(self, entry: Entry, payload: memoryview, counts: Counts) -> Bits:
        """Decode a tensor that others need."""
        bits = self._decode(entry, payload, counts)
        self._counts[self._index[entry.name]] = count_nonzeros(bits, entry.shape)
        return bits

    def _decode(
        self,
        entry: Entry,
        payload: memoryview,
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

    def _hint_of(self, entry: Entry) -> int | None:
        if entry.coding != Coding.CONTEXT:  # spares the payload
            return None
        return self._hint(entry, self._payload(entry))

    def _hint(self, entry: Entry, payload: memoryview) -> int | None:
        """The earlier entry whose rows `decode_tensor` will ask for, if any."""
        what = f"{self._what}: {entry.name}"
        layout = layout_of(entry.coding, payload, entry.dtype, entry.shape, what)
        if layout is None or layout.hint is None:
            return None
        hint = layout.hint
        if hint >= self._index[entry.name] or self._by_index[hint].alias_of is not None:
            raise FormatError(f"{what}: coded with the tensor {hint}, which is no earlier one")
        rows, columns = self._by_index[hint].shape[:1] or (1,), math.prod(entry.shape[1:])
        if not can_hint(rows[0], columns):
            raise FormatError(f"{what}: {rows[0]} rows of another tensor for {columns} columns")
        return hint

    def verify(self) -> None:
        """Check every block's checksum without decoding."""
        for block in range(len(self._blocks)):
            self._block(block)

    def _resolve(self, name: str) -> Entry:
        entry = self.entries[name]
        return entry if entry.alias_of is None else self.entries[entry.alias_of]

    def _payload(self, entry: Entry, keep: bool = False) -> memoryview:
        shared = entry.size_bytes < self._blocks[entry.block][1]
        block = self._block(entry.block, keep or shared)
        return block[entry.offset : entry.offset + entry.size_bytes]

    def _block(self, block: int, keep: bool = False) -> memoryview:
        cached = self._cached
        if cached is not None and cached[0] == block:
            return cached[1]
        offset, size = self._blocks[block]
        data = self._source.read(offset, size + CRC_BYTES)
        _check_crc(data, f"{self._what}: block {block}")
        data = data[:-CRC_BYTES]
        if keep:
            self._cached = block, data
        return data

    def _read_header(self) -> None:
        start = self._source.read(0, len(MAGIC) + 10)
        if start[: len(MAGIC)] != MAGIC:
            found = bytes(start[:3])
            raise FormatError(f"{self._what}: no .ect file (it starts with {found!r})")
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
        if size > self._limit + FREE_BYTES:
            raise FormatError(f"{cursor.what}: {size} bytes, max_decoded_bytes={self._limit}")
        head = self._source.read(0, head_bytes + CRC_BYTES)
        _check_crc(head, f"{self._what}: header")
        self._header_crc = bytes(head[-CRC_BYTES:])
        header = Cursor(head[head_bytes - size : head_bytes], f"{self._what}: header")
        self.metadata, self.entries, sizes = decode_header(header, self._limit)
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


def _reopen(source: Source, max_decoded_bytes: int, threads: int | None, crc: bytes) -> Reader:
    reader = Reader(source, max_decoded_bytes, threads)
    if reader._header_crc != crc:
        source.close()
        raise FormatError(f"{source.what}: another file than the one that was pickled")
    return reader


def _check_crc(data: memoryview, what: str) -> None:
    if crc(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
        raise FormatError(f"{what}: checksum mismatch, the file is damaged")
