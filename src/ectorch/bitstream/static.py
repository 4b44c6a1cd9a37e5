"""Static order-0 coder: one integer frequency table a tensor, then range-coded symbols.

The table travels in the same range-coded stream as the symbols. Its scale (the power of two that
the frequencies sum to) is the one that makes table plus symbols smallest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ectorch.bitstream.native import compiled
from ectorch.bitstream.rangecoder import MAX_SCALE_BITS, RangeDecoder, RangeEncoder
from ectorch.errors import FormatError

_SCALE_FIELD_BITS = 5
_CLASS_FIELD_BITS = 5  # bit length of a frequency, 0 to 24


@dataclass(frozen=True)
class FrequencyTable:
    """Integer frequencies that sum to ``2**scale_bits``; a level that never occurs has 0."""

    frequencies: tuple[int, ...]
    scale_bits: int

    @property
    def implied(self) -> int:
        """The level whose frequency is not stored, since the sum gives it: the most frequent."""
        return self.frequencies.index(max(self.frequencies))

    def cost_bits(self, counts: np.ndarray) -> float:
        """Bits of the table and of ``counts`` (levels,) symbols coded with it."""
        frequencies = np.array(self.frequencies)
        used = counts > 0
        symbols = counts[used] @ (self.scale_bits - np.log2(frequencies[used]))
        stored = np.delete(frequencies, self.implied)
        mantissas = np.frexp(stored)[1].clip(1) - 1
        fields = _SCALE_FIELD_BITS + _index_bits(len(counts)) + _CLASS_FIELD_BITS * len(stored)
        return float(symbols + fields + mantissas.sum())


def best_table(counts: np.ndarray) -> FrequencyTable:
    """The cheapest table for ``counts`` (levels,), at least two of them positive."""
    return min(possible_tables(counts), key=lambda table: table.cost_bits(counts))


def possible_tables(counts: np.ndarray, most_bits: int = MAX_SCALE_BITS) -> list[FrequencyTable]:
    """The best table of each scale up to ``most_bits`` that has room for ``counts`` (levels,)."""
    smallest = int(np.count_nonzero(counts) - 1).bit_length()
    return [_scaled(counts, bits) for bits in range(max(smallest, 1), most_bits + 1)]


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


def estimate_bits(counts: np.ndarray) -> float:
    """Bits that `encode` spends on symbols with these ``counts`` (levels,), within 8."""
    return best_table(counts).cost_bits(counts) if np.count_nonzero(counts) > 1 else 0.0


def encode(symbols: np.ndarray, levels: int) -> bytes:
    """Code (n,) integer symbols in ``[0, levels)``, all of which are in use at both ends.

    A tensor of one level needs no bytes.
    """
    if levels == 1:
        return b""
    table = best_table(np.bincount(symbols, minlength=levels))
    native = compiled(len(symbols))
    if native is not None:
        frequencies = np.array(table.frequencies, np.uint32)
        stream: bytes = native.static_encode(
            symbols.astype(np.uint16, copy=False), frequencies, table.scale_bits
        )
        return stream
    coder = RangeEncoder()
    _encode_table(coder, table)
    coder.encode_symbols(symbols.tolist(), table.frequencies, table.scale_bits)
    return coder.finish()


def decode(data: bytes, count: int, levels: int, what: str) -> np.ndarray:
    """Read (count,) integer symbols; ``what`` names the tensor in errors.

    Raises:
        FormatError: on a table that does not sum to its scale, or bytes that nobody coded.
    """
    if levels == 1:
        if data:
            raise FormatError(f"{what}: {len(data)} bytes follow a codebook of one level")
        return np.broadcast_to(np.intp(0), (count,))
    native = compiled(count)
    if native is not None:
        out = np.empty(count, np.uint16)
        try:
            native.static_decode(data, out, levels)
        except native.DamagedStream as error:
            raise FormatError(f"{what}: {error}") from error
        return out
    coder = RangeDecoder(data, what)
    table = _decode_table(coder, levels, what)
    symbols = coder.decode_symbols(count, table.frequencies, table.scale_bits)
    if not coder.exhausted:
        raise FormatError(f"{what}: bytes left after the last symbol")
    return np.frombuffer(symbols, np.uint16)


def _scaled(counts: np.ndarray, scale_bits: int) -> FrequencyTable:
    """``counts`` scaled to sum to ``2**scale_bits``, at least 1 where positive; integers only."""
    frequencies = _share(1 << scale_bits, counts)
    lost = (counts > 0) & (frequencies == 0)
    if lost.any():  # rare levels are lifted to 1: the others pay
        frequencies[lost] = 1
        frequencies -= _share(int(np.count_nonzero(lost)), (frequencies - 1).clip(0))
    return FrequencyTable(tuple(frequencies.tolist()), scale_bits)


def _share(amount: int, weights: np.ndarray) -> np.ndarray:
    """Integers that sum to ``amount`` in proportion to ``weights``, by largest remainders."""
    parts, remainders = np.divmod(weights.astype(np.int64) * amount, int(weights.sum()))
    rest = amount - int(parts.sum())
    parts[np.argsort(-remainders, kind="stable")[:rest]] += 1
    return parts


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
