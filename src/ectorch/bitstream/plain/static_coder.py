"""Static order-0 coder: a frequency table, then symbols, in one range-coded stream.

Of the table travel its scale, the most frequent level, and the other frequencies: each one's bit
length, then the bits below the first.
"""

from __future__ import annotations

import numpy as np

from ectorch.bitstream.native import MAX_LEVELS, MAX_SCALE_BITS, DamagedStream
from ectorch.bitstream.plain.range_coder import RangeDecoder, RangeEncoder

_SCALE_FIELD_BITS = 5
_LENGTH_FIELD_BITS = 5


def static_encode(symbols: np.ndarray, frequencies: np.ndarray, scale_bits: int) -> bytes:
    """Code (n,) symbols, uint8 or uint16, after the table: (levels,) uint32 ``frequencies``.

    Args:
        scale_bits: log2 of the frequencies' sum, from 1 to 24.
    """
    check_frequencies(frequencies, scale_bits, MAX_SCALE_BITS)
    check_coded(symbols, frequencies)
    table = frequencies.tolist()
    coder = RangeEncoder()
    _encode_table(coder, table, scale_bits)
    coder.encode_symbols(symbols.tolist(), table, scale_bits)
    return coder.finish()


def static_decode(
    data: bytes | memoryview, symbols: np.ndarray, levels: int, whole: bool = True
) -> None:
    """Fill (n,) ``symbols``, uint8 or uint16, with what `static_encode` coded.

    Args:
        levels: of the table.
        whole: the stream holds no more symbols.

    Raises:
        DamagedStream: on a table that does not sum to its scale, or bytes that nobody coded.
    """
    _check_levels(levels)
    if levels - 1 > np.iinfo(symbols.dtype).max:
        raise ValueError("narrow symbols")
    coder = RangeDecoder(data)
    table, scale_bits = _decode_table(coder, levels)
    symbols[:] = coder.decode_symbols(len(symbols), table, scale_bits)
    if whole and not coder.exhausted:
        raise DamagedStream("bytes left after the last symbol")


def decode_table(data: bytes | memoryview, frequencies: np.ndarray) -> int:
    """Fill (levels,) uint32 ``frequencies`` from a stream without symbols; return its scale.

    Raises:
        DamagedStream: as `static_decode` does.
    """
    _check_levels(len(frequencies))
    coder = RangeDecoder(data)
    table, scale_bits = _decode_table(coder, len(frequencies))
    if not coder.exhausted:
        raise DamagedStream("bytes left after the last frequency")
    frequencies[:] = table
    return scale_bits


def check_frequencies(frequencies: np.ndarray, scale_bits: int, most_scale_bits: int) -> None:
    """Refuse those that do not sum to ``2**scale_bits``."""
    _check_levels(len(frequencies))
    if not 1 <= scale_bits <= most_scale_bits:
        raise ValueError("scale")
    if frequencies.sum(dtype=np.uint64) != 1 << scale_bits:
        raise ValueError("frequencies do not sum to their scale")


def check_coded(symbols: np.ndarray, frequencies: np.ndarray) -> None:
    """Refuse symbols that nothing would be coded of."""
    if len(symbols) and (symbols.max() >= len(frequencies) or not frequencies[symbols].all()):
        raise ValueError("a symbol that has no frequency")


def _check_levels(levels: int) -> None:
    if not 1 <= levels <= MAX_LEVELS:
        raise ValueError("levels other than 1 to 65536")


def _index_bits(levels: int) -> int:
    return (levels - 1).bit_length()


def _encode_table(coder: RangeEncoder, frequencies: list[int], scale_bits: int) -> None:
    implied = frequencies.index(max(frequencies))  # the sum gives it
    coder.encode_uniform(scale_bits, _SCALE_FIELD_BITS)
    coder.encode_uniform(implied, _index_bits(len(frequencies)))
    for level, frequency in enumerate(frequencies):
        if level != implied:
            length = frequency.bit_length()
            coder.encode_uniform(length, _LENGTH_FIELD_BITS)
            if length > 1:
                coder.encode_uniform(frequency - (1 << length - 1), length - 1)


def _decode_table(coder: RangeDecoder, levels: int) -> tuple[list[int], int]:
    """Frequencies and their scale."""
    scale_bits = coder.decode_uniform(_SCALE_FIELD_BITS)
    implied = coder.decode_uniform(_index_bits(levels))
    if not 1 <= scale_bits <= MAX_SCALE_BITS or implied >= levels:
        raise DamagedStream(f"frequency table of scale {scale_bits}, implied level {implied}")
    frequencies = [0] * levels
    for level in range(levels):
        if level != implied:
            length = coder.decode_uniform(_LENGTH_FIELD_BITS)
            low_bits = coder.decode_uniform(length - 1) if length > 1 else 0
            frequencies[level] = (1 << length - 1) + low_bits if length else 0
    frequencies[implied] = (1 << scale_bits) - sum(frequencies)
    if frequencies[implied] < 1:
        raise DamagedStream(f"frequencies sum to more than 2**{scale_bits}")
    return frequencies, scale_bits
