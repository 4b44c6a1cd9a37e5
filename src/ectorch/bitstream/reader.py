"""Reading an ``.ect`` file, lazily; the header is checked whole before anything is allocated."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import BinaryIO

import numpy as np

from ectorch.bitstream.codings import Coding, count_nonzeros, decode_tensor, layout_of
from ectorch.bitstream.container import (
    CRC_BYTES,
    LARGE_BYTES,
    MAGIC,
    MAX_HEADER_BYTES,
    VERSION,
    crc,
    workers_for,
)
from ectorch.bitstream.context import Counts, no_counts
from ectorch.bitstream.index import Entry, decode_header
from ectorch.bitstream.parallel import Map
from ectorch.bitstream.tensor import Bits, RawTensor
from ectorch.bitstream.wire import Cursor
from ectorch.errors import FormatError

DEFAULT_MAX_DECODED_BYTES = 1 << 32


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
        with workers_for(self._threads, entry.decoded_bytes) as workers:
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
        with workers_for(self._threads, sum(entry.decoded_bytes for entry in own)) as workers:
            for entry in own:  # a hint is earlier, so the task that is waited for has begun
                at = self._index[entry.name]
                alone = hints[entry.name] is None and at not in needed
                if alone and entry.decoded_bytes >= LARGE_BYTES:
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
            entry.name: RawTensor(entry.dtype, entry.shape, decoded[self._resolve(entry.name).name])
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
        layout = layout_of(entry.coding, self.payload(entry.name), entry.dtype, entry.shape, what)
        if layout is None or layout.hint is None:
            return None
        hint = layout.hint
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
            data = self._file.read(size + CRC_BYTES)
            _check_crc(data, f"{self._what}: block {block}")
            self._cached = block, data[:-CRC_BYTES]
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
        if size > MAX_HEADER_BYTES or head_bytes + CRC_BYTES > self.size_bytes:
            raise FormatError(f"{self._what}: header of {size} bytes in {self.size_bytes} in all")
        self._file.seek(0)
        head = self._file.read(head_bytes + CRC_BYTES)
        _check_crc(head, f"{self._what}: header")
        header = Cursor(head[head_bytes - size : head_bytes], f"{self._what}: header")
        self.metadata, self.entries, sizes = decode_header(header, max_decoded_bytes)
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


def _check_crc(data: bytes, what: str) -> None:
    if crc(data[:-CRC_BYTES]) != data[-CRC_BYTES:]:
        raise FormatError(f"{what}: checksum mismatch, the file is damaged")
