"""Static order-0 coder: one integer frequency table a tensor, then range-coded symbols.

The table travels in the same range-coded stream as the symbols. Its scale (the power of two that
the frequencies sum to) is the one that makes table plus symbols smallest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ectorch.bitstream.kernels import kernels_for, naming
from ectorch.bitstream.native import MAX_SCALE_BITS

_SCALE_FIELD_BITS = 5
_CLASS_FIELD_BITS = 5  # bit length of a frequency, 0 to 24
_COUNTED_ITEMS = 1 << 20


@dataclass(frozen=True, eq=False)
class FrequencyTable:
    """(levels,) uint32 that sum to ``2**scale_bits``; a level that never occurs has 0."""

    frequencies: npt.NDArray[np.uint32]
    scale_bits: int


class PricedTables:
    """The best table of each scale that has room for ``counts`` (levels,), two of them positive.

    Attributes:
        scales: (tables,) log2 of what the frequencies of each sum to.
        bits: (tables,) of each table and the counted symbols coded with it.
    """

    def __init__(self, counts: np.ndarray) -> None:
        used = counts > 0
        smallest = max(int(np.count_nonzero(used) - 1).bit_length(), 1)
        self.scales = np.arange(smallest, MAX_SCALE_BITS + 1)
        self._frequencies = _scaled(counts, self.scales)
        lengths = np.frexp(self._frequencies)[1]
        mantissas = np.maximum(lengths - 1, 0)
        fields = least_table_bits(len(counts))
        logs = np.log2(self._frequencies[:, used])
        symbols = self.scales * float(counts.sum()) - logs @ counts[used].astype(np.float64)
        self.bits = symbols + fields + mantissas.sum(1) - mantissas.max(1)

    def __getitem__(self, at: int) -> FrequencyTable:
        return FrequencyTable(self._frequencies[at].astype(np.uint32), int(self.scales[at]))


def best_table(counts: np.ndarray) -> FrequencyTable:
    """The cheapest table for ``counts`` (levels,), at least two of them positive."""
    tables = PricedTables(counts)
    return tables[int(tables.bits.argmin())]


def encode_table(table: FrequencyTable) -> bytes:
    """A table alone, as it stands at the head of a static stream."""
    return _encode(np.empty(0, np.uint16), table)


def decode_table(data: bytes, levels: int, what: str) -> FrequencyTable:
    """Inverse of `encode_table`; raises `FormatError` as `decode_into` does."""
    frequencies = np.empty(levels, np.uint32)
    with naming(what):
        scale_bits = kernels_for(0).decode_table(data, frequencies)
    return FrequencyTable(frequencies, scale_bits)


def least_table_bits(levels: int) -> int:
    """Bits of a table whose frequencies are the smallest."""
    return _SCALE_FIELD_BITS + _index_bits(levels) + _CLASS_FIELD_BITS * (levels - 1)


def entropy_bits(counts: np.ndarray) -> float:
    """Bits of all symbols with these ``counts`` (levels,) under their own entropy: no coder gets
    below that does not look at their order, nor has to know the counts."""
    used = counts[counts > 0].astype(np.float64)
    return float(used @ np.log2(used.sum() / used))


def estimate_bits(counts: np.ndarray) -> float:
    """Bits that `encode` spends on symbols with these ``counts`` (levels,), within 8."""
    return float(PricedTables(counts).bits.min()) if np.count_nonzero(counts) > 1 else 0.0


def count(symbols: np.ndarray, levels: int) -> np.ndarray:
    """(levels,) int64: how often each occurs; by blocks, as NumPy widens what it counts."""
    total = np.zeros(levels, np.int64)
    for start in range(0, len(symbols), _COUNTED_ITEMS):
        total += np.bincount(symbols[start : start + _COUNTED_ITEMS], minlength=levels)
    return total


def encode(symbols: np.ndarray, levels: int, counts: np.ndarray | None = None) -> bytes:
    """Code (n,) integer symbols in ``[0, levels)``, at least two of which occur.

    Args:
        counts: (levels,) how often each occurs, if that is known.
    """
    if symbols.dtype != np.uint8:
        symbols = symbols.astype(np.uint16, copy=False)
    return _encode(symbols, best_table(count(symbols, levels) if counts is None else counts))


def decode_into(
    data: bytes | memoryview, out: np.ndarray, levels: int, what: str, whole: bool = True
) -> None:
    """Fill (n,) ``out``, uint8 or uint16, contiguous; ``what`` names the tensor in errors.

    Args:
        levels: two at least.
        whole: the stream holds no more symbols.

    Raises:
        FormatError: on a table that does not sum to its scale, or bytes that nobody coded.
    """
    with naming(what):
        kernels_for(len(out)).static_decode(data, out, levels, whole)


class StaticStream:
    """A stream of one chunk, in the form of those that have several; see `decode_into`."""

    def __init__(self, data: bytes | memoryview, count: int, levels: int, what: str) -> None:
        self.chunk_items = count
        self._data, self._levels, self._what = data, levels, what

    def __len__(self) -> int:
        return 1

    def decode_into(self, index: int, out: np.ndarray) -> None:
        """Fill ``out``, uint16."""
        decode_into(self._data, out, self._levels, self._what)


def _scaled(counts: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """(scales, levels): counts scaled to sum to powers of two, 1 at least where positive."""
    counts = np.broadcast_to(counts.astype(np.int64), (len(scales), len(counts)))
    frequencies = _share(1 << scales, counts)
    lost = (counts > 0) & (frequencies == 0)
    if lost.any():  # rare levels are lifted to 1: the others pay
        frequencies[lost] = 1
        frequencies -= _share(np.count_nonzero(lost, axis=1), np.maximum(frequencies - 1, 0))
    return frequencies


def _share(amounts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rows of integers that sum to ``amounts`` in proportion to rows of ``weights``.

    By largest remainders; integers only.
    """
    totals = np.maximum(weights.sum(1, keepdims=True), 1)
    parts, remainders = np.divmod(weights * amounts[:, None], totals)
    rest = amounts - parts.sum(1)
    ranks = np.argsort(np.argsort(-remainders, axis=1, kind="stable"), axis=1)
    return np.asarray(parts + (ranks < rest[:, None]))


def _index_bits(levels: int) -> int:
    return (levels - 1).bit_length()


def _encode(symbols: np.ndarray, table: FrequencyTable) -> bytes:
    kernels = kernels_for(len(symbols))
    return kernels.static_encode(symbols, table.frequencies, table.scale_bits)
