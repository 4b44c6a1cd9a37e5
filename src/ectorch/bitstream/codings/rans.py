"""Static order-0 coder for large tensors: interleaved rANS in chunks that threads share.

Every symbol is coded, or only those that differ from the most frequent level, each after the
length of the run before it. The histograms say which is smaller. A chunk is coded and decoded
alone, so the bytes do not depend on who does it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from ectorch.bitstream.codings import static
from ectorch.bitstream.codings.static import FrequencyTable, PricedTables
from ectorch.bitstream.kernels import kernels_for, naming
from ectorch.bitstream.native import MAX_RANS_SCALE_BITS, RUN_CLASSES
from ectorch.bitstream.parallel import Map
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

_CHUNK_BITS = 20  # log2 of a chunk's symbols, unless it had too few bytes
_MIN_CHUNK_BITS, _MAX_CHUNK_BITS = 8, 32
_SMALL_CHUNK_BITS = 8 << 16  # sizes and states, 20 bytes a chunk, shall be next to nothing
_EXACT_RUNS = 16
_SCALE_SLACK = 1 / 2048  # of the bits: a smaller table is faster
_RUNS_SLACK = 3 / 2048  # so much more, or less, where runs are the faster, or the slower, way
_FAST_RUNS_SHARE = 1 / 4  # of symbols other than the most frequent, up to which runs are faster
_PAST_END = 1 << 63  # of any stream
_STATIC_SLACK, _STATIC_SLACK_BITS = 1 / 512, 512  # more over the range coder: it takes the tensor


def count_symbols(symbols: np.ndarray, levels: int, map: Map = map) -> np.ndarray:
    """(levels,) uint64: how often each level occurs among (n,) uint16 ``symbols``."""

    def count(part: np.ndarray) -> np.ndarray:
        counts = np.zeros(levels, np.uint64)
        kernels_for(0).count_symbols(part, counts)
        return counts

    return _sum(map(count, _split(symbols, _CHUNK_BITS)), levels)


def encode(symbols: np.ndarray, levels: int, map: Map = map) -> bytes | None:
    """Code (n,) uint16 symbols in ``[0, levels)``, n >= 1, levels >= 2.

    Returns:
        the stream, or None where the range coder of `static` makes a clearly smaller one: the
        scale of 16 bits is too coarse for the counts.
    """
    symbols = np.ascontiguousarray(symbols, np.uint16)
    counts = count_symbols(symbols, levels, map)
    chunk_bits = _choose_chunk_bits(counts)
    parts = _split(symbols, chunk_bits)
    tables = static.PricedTables(counts)
    model, bits = _choose_model(tables, counts, parts, map)
    if bits > tables.bits.min() * (1 + _STATIC_SLACK) + _STATIC_SLACK_BITS:
        return None
    chunks = list(map(model.encode, parts))
    sizes = b"".join(model.sizes(tokens, len(data)) for tokens, data in chunks)
    head = bytes([model.mode, chunk_bits]) + model.header() + sizes
    return head + b"".join(data for _, data in chunks)


class RansStream:
    """A stream whose tables are read and whose chunks can be decoded alone, by any thread.

    Attributes:
        chunk_items: symbols of a chunk; the last one may have fewer.

    Args:
        count, levels: of the symbols.
        what: the tensor's name in errors.

    Raises:
        FormatError: on bytes that no encoder writes, as far as that can be told, from the
            constructor or from the chunk that is damaged.
    """

    def __init__(self, data: bytes | memoryview, count: int, levels: int, what: str) -> None:
        cursor = Cursor(data, what)
        self._what = what
        self._count = count
        model = _MODES.get(cursor.byte())
        chunk_bits = cursor.byte()
        if model is None or not _MIN_CHUNK_BITS <= chunk_bits <= _MAX_CHUNK_BITS:
            raise FormatError(f"{what}: unknown mode of rANS or chunks of 2**{chunk_bits}")
        self.chunk_items = 1 << chunk_bits
        self._model = model.read(cursor, levels)
        self._tokens, self._ends = array("Q"), array("Q")  # there may be many chunks of few symbols
        end = 0
        for _ in range(len(self)):
            tokens, size = self._model.read_sizes(cursor)
            end = min(end + size, _PAST_END)
            self._tokens.append(tokens)
            self._ends.append(end)
        self._data = cursor.view(end)
        if cursor.remaining:
            raise FormatError(f"{what}: {cursor.remaining} bytes follow the last chunk")

    def __len__(self) -> int:
        """The number of chunks."""
        return -(-self._count // self.chunk_items)

    def decode_into(self, index: int, out: np.ndarray) -> None:
        """Fill ``out``, uint16 of the length of chunk ``index``, contiguous."""
        start = self._ends[index - 1] if index else 0
        data = self._data[start : self._ends[index]]
        with naming(self._what):
            self._model.decode(data, self._tokens[index], out)


@dataclass(frozen=True)
class _Table:
    """A frequency table in the forms that the kernels take."""

    table: FrequencyTable

    @property
    def bits(self) -> int:
        return self.table.scale_bits

    @property
    def frequencies(self) -> npt.NDArray[np.uint32]:
        return self.table.frequencies

    @cached_property
    def slots(self) -> npt.NDArray[np.uint64]:
        """(2**bits,) uint64: frequency << 32 | place in the symbol's interval << 16 | symbol."""
        frequencies = self.frequencies.astype(np.int64)
        symbols = np.repeat(np.arange(len(frequencies)), frequencies)
        starts = np.cumsum(frequencies) - frequencies
        places = np.arange(1 << self.bits) - starts[symbols]
        return (frequencies[symbols] << 32 | places << 16 | symbols).astype(np.uint64)

    def header(self) -> bytes:
        data = static.encode_table(self.table)
        return varint(len(data)) + data

    @classmethod
    def read(cls, cursor: Cursor, levels: int) -> _Table:
        table = static.decode_table(cursor.take(cursor.varint()), levels, cursor.what)
        if table.scale_bits > MAX_RANS_SCALE_BITS:
            raise FormatError(
                f"{cursor.what}: table of scale {table.scale_bits}, at most {MAX_RANS_SCALE_BITS}"
            )
        return cls(table)


class _Model(Protocol):
    """What a mode codes, by which tables."""

    mode: ClassVar[int]

    def header(self) -> bytes: ...

    @classmethod
    def read(cls, cursor: Cursor, levels: int) -> _Model: ...

    def sizes(self, tokens: int, size: int) -> bytes: ...

    def read_sizes(self, cursor: Cursor) -> tuple[int, int]: ...

    def encode(self, symbols: np.ndarray) -> tuple[int, bytes]: ...

    def decode(self, data: memoryview, tokens: int, out: np.ndarray) -> None: ...


@dataclass(frozen=True)
class _Dense:
    """Every symbol."""

    mode: ClassVar[int] = 0
    symbols: _Table

    def header(self) -> bytes:
        return self.symbols.header()

    @classmethod
    def read(cls, cursor: Cursor, levels: int) -> _Dense:
        return cls(_Table.read(cursor, levels))

    def sizes(self, tokens: int, size: int) -> bytes:
        return varint(size)

    def read_sizes(self, cursor: Cursor) -> tuple[int, int]:
        return 0, cursor.varint()

    def encode(self, symbols: np.ndarray) -> tuple[int, bytes]:
        kernels, table = kernels_for(len(symbols)), self.symbols
        return 0, kernels.rans_encode_dense(symbols, table.frequencies, table.bits)

    def decode(self, data: memoryview, tokens: int, out: np.ndarray) -> None:
        kernels_for(len(out)).rans_decode_dense(data, self.symbols.slots, out)


@dataclass(frozen=True)
class _Runs:
    """Symbols that are not ``zero``, each after the length of the run of zeros before it."""

    mode: ClassVar[int] = 1
    zero: int
    runs: _Table
    symbols: _Table

    def header(self) -> bytes:
        classes = varint(len(self.runs.frequencies))
        return varint(self.zero) + classes + self.runs.header() + self.symbols.header()

    @classmethod
    def read(cls, cursor: Cursor, levels: int) -> _Runs:
        zero, classes = cursor.varint(), cursor.varint()
        if zero >= levels or not 1 <= classes <= RUN_CLASSES:
            raise FormatError(f"{cursor.what}: runs of level {zero}, {classes} classes")
        return cls(zero, _Table.read(cursor, classes), _Table.read(cursor, levels))

    def sizes(self, tokens: int, size: int) -> bytes:
        return varint(tokens) + varint(size)

    def read_sizes(self, cursor: Cursor) -> tuple[int, int]:
        return cursor.varint(), cursor.varint()

    def encode(self, symbols: np.ndarray) -> tuple[int, bytes]:
        kernels, runs, others = kernels_for(len(symbols)), self.runs, self.symbols
        return kernels.rans_encode_runs(
            symbols, self.zero, runs.frequencies, runs.bits, others.frequencies, others.bits
        )

    def decode(self, data: memoryview, tokens: int, out: np.ndarray) -> None:
        kernels, runs, others = kernels_for(len(out)), self.runs.slots, self.symbols.slots
        kernels.rans_decode_runs(data, tokens, self.zero, runs, others, out)


_MODES: dict[int, type[_Dense] | type[_Runs]] = {model.mode: model for model in (_Dense, _Runs)}


def _choose_model(
    tables: PricedTables,
    counts: np.ndarray,
    parts: list[np.ndarray],
    map: Map,
) -> tuple[_Model, float]:
    """The model of fewer bits, or the faster one where they are about equal; and its bits."""
    dense, dense_bits = _choose_table(tables)
    zero = int(counts.argmax())
    share = 1 - counts[zero] / counts.sum()
    if not 0 < share <= 1 / 2:
        return _Dense(dense), dense_bits

    def count_runs(part: np.ndarray) -> np.ndarray:
        counts = np.zeros(RUN_CLASSES, np.uint64)
        kernels_for(0).count_runs(part, zero, counts)
        return counts

    run_counts = np.trim_zeros(_sum(map(count_runs, parts), RUN_CLASSES), "b")
    others = np.where(np.arange(len(counts)) == zero, 0, counts)
    runs, run_bits = _choose_table(PricedTables(run_counts))
    symbols, symbol_bits = _choose_table(PricedTables(others))
    classes = np.arange(len(run_counts))
    raw_bits = np.where(classes < _EXACT_RUNS, 0, classes // 4 - 2) @ run_counts.astype(np.float64)
    bits = run_bits + symbol_bits + float(raw_bits)
    slack = _RUNS_SLACK if share <= _FAST_RUNS_SHARE else -_RUNS_SLACK
    if bits <= dense_bits * (1 + slack):
        return _Runs(zero, runs, symbols), bits
    return _Dense(dense), dense_bits


def _choose_table(tables: PricedTables) -> tuple[_Table, float]:
    """The smallest scale that is about as good as the best, and the bits of table and symbols."""
    bits = tables.bits[tables.scales <= MAX_RANS_SCALE_BITS]
    at = int(np.argmax(bits <= bits.min() * (1 + _SCALE_SLACK)))
    return _Table(tables[at]), float(bits[at])


def _choose_chunk_bits(counts: np.ndarray) -> int:
    count = int(counts.sum())
    bits_a_symbol = static.entropy_bits(counts) / count
    chunk_bits = _CHUNK_BITS
    while chunk_bits < _MAX_CHUNK_BITS and 1 << chunk_bits < count:
        if bits_a_symbol * (1 << chunk_bits) >= _SMALL_CHUNK_BITS:
            break
        chunk_bits += 1
    return chunk_bits


def _split(symbols: np.ndarray, chunk_bits: int) -> list[np.ndarray]:
    ends = [*range(0, len(symbols), 1 << chunk_bits), len(symbols)]
    return [symbols[start:end] for start, end in pairwise(ends)]


def _sum(counts: Iterable[np.ndarray], length: int) -> np.ndarray:
    total = np.zeros(length, np.uint64)
    for part in counts:
        total += part
    return total
