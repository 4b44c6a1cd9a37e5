"""Static order-0 coder: one integer frequency table a tensor, then range-coded symbols.

The table travels in the same range-coded stream as the symbols. Its scale (the power of two that
the frequencies sum to) is the one that makes table plus symbols smallest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ectorch.bitstream.native import compiled
from ectorch.bitstream.plain.rangecoder import MAX_SCALE_BITS, RangeDecoder, RangeEncoder
from ectorch.errors import FormatError

_SCALE_FIELD_BITS = 5
_CLASS_FIELD_BITS = 5  # bit length of a frequency, 0 to 24
_COUNTED_ITEMS = 1 << 20


@dataclass(frozen=True)
class FrequencyTable:
    """Integer frequencies that sum to ``2**scale_bits``; a level that never occurs has 0."""

    frequencies: tuple[int, ...]
    scale_bits: int

    @property
    def implied(self) -> int:
        """The level whose frequency is not stored, since the sum gives it: the most frequent."""
        return self.frequencies.index(max(self.frequencies))


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
        return FrequencyTable(tuple(self._frequencies[at].tolist()), int(self.scales[at]))


def best_table(counts: np.ndarray) -> FrequencyTable:
    """The cheapest table for ``counts`` (levels,), at least two of them positive."""
    tables = PricedTables(counts)
    return tables[int(tables.bits.argmin())]


def encode_table(table: FrequencyTable) -> bytes:
    """A table alone, as it stands at the head of a static stream."""
    native = compiled(0)
    if native is not None:
        frequencies = np.array(table.frequencies, np.uint32)
        stream: bytes = native.static_encode(np.empty(0, np.uint16), frequencies, table.scale_bits)
        return stream
    coder = RangeEncoder()
    _encode_table(coder, table)
    return coder.finish()


def decode_table(data: bytes, levels: int, what: str) -> FrequencyTable:
    """Inverse of `encode_table`; raises `FormatError` as `decode` does."""
    native = compiled(0)
    if native is not None:
        frequencies = np.empty(levels, np.uint32)
        try:
            scale_bits = native.decode_table(data, frequencies)
        except native.DamagedStream as error:
            raise FormatError(f"{what}: {error}") from error
        return FrequencyTable(tuple(frequencies.tolist()), scale_bits)
    coder = RangeDecoder(data, what)
    table = _decode_table(coder, levels, what)
    if not coder.exhausted:
        raise FormatError(f"{what}: bytes left after the last frequency")
    return table


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


def encode(symbols: np.ndarray, levels: int) -> bytes:
    """Code (n,) integer symbols in ``[0, levels)``, all of which are in use at both ends.

    A tensor of one level needs no bytes.
    """
    if levels == 1:
        return b""
    table = best_table(count(symbols, levels))
    native = compiled(len(symbols))
    if native is not None:
        frequencies = np.array(table.frequencies, np.uint32)
        if symbols.dtype != np.uint8:
            symbols = symbols.astype(np.uint16, copy=False)
        stream: bytes = native.static_encode(symbols, frequencies, table.scale_bits)
        return stream
    coder = RangeEncoder()
    _encode_table(coder, table)
    coder.encode_symbols(symbols.tolist(), table.frequencies, table.scale_bits)
    return coder.finish()


def decode(data: bytes | memoryview, count: int, levels: int, what: str) -> np.ndarray:
    """Read (count,) integer symbols; ``what`` names the tensor in errors.

    Raises:
        FormatError: on a table that does not sum to its scale, or bytes that nobody coded.
    """
    if levels == 1:
        if data:
            raise FormatError(f"{what}: {len(data)} bytes follow a codebook of one level")
        return np.broadcast_to(np.intp(0), (count,))
    out = np.empty(count, np.uint16)
    decode_into(data, out, levels, what)
    return out


def decode_into(
    data: bytes | memoryview, out: np.ndarray, levels: int, what: str, whole: bool = True
) -> None:
    """Fill ``out``, uint8 or uint16, contiguous, as `decode` does; two levels at least.

    Args:
        whole: the stream holds no more symbols.
    """
    native = compiled(len(out))
    if native is not None:
        try:
            native.static_decode(data, out, levels, whole)
        except native.DamagedStream as error:
            raise FormatError(f"{what}: {error}") from error
        return
    coder = RangeDecoder(data, what)
    table = _decode_table(coder, levels, what)
    out[:] = coder.decode_symbols(len(out), table.frequencies, table.scale_bits)
    if whole and not coder.exhausted:
        raise FormatError(f"{what}: bytes left after the last symbol")


class StaticStream:
    """A stream of one chunk, in the form of those that have several; see `decode`."""

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


def _encode_table(coder: RangeEncoder, table: FrequencyTable) -> None:
    implied = table.implied
    coder.encode_uniform(table.scale_bits, _SCALE_FIELD_BITS)
    coder.encode_uniform(implied, _index_bits(len(table.frequencies)))
    for level, frequency in enumerate(table.frequencies):
        if level != implied:
            length = frequency.bit_length()
            coder.encode_uniform(length, _CLASS_FIELD_BITS)
            if length > 1:
                coder.encode_uniform(frequency - (1 << length - 1), length - 1)


def _decode_table(coder: RangeDecoder, levels: int, what: str) -> FrequencyTable:
    scale_bits = coder.decode_uniform(_SCALE_FIELD_BITS)
    implied = coder.decode_uniform(_index_bits(levels))
    if not 1 <= scale_bits <= MAX_SCALE_BITS or implied >= levels:
        raise FormatError(f"{what}: frequency table of scale {scale_bits}, implied level {implied}")
    frequencies = [0] * levels
    for level in range(levels):
        if level != implied:
            length = coder.decode_uniform(_CLASS_FIELD_BITS)
            low_bits = coder.decode_uniform(length - 1) if length > 1 else 0
            frequencies[level] = (1 << length - 1) + low_bits if length else 0
    frequencies[implied] = (1 << scale_bits) - sum(frequencies)
    if frequencies[implied] < 1:
        raise FormatError(f"{what}: frequencies sum to more than 2**{scale_bits}")
    return FrequencyTable(tuple(frequencies), scale_bits)
