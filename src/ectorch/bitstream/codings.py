"""The ways a tensor's bits may be stored, by the id that the file carries; the smallest is kept."""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np

from ectorch.bitstream import floats, planes, static
from ectorch.bitstream.levels import decode_levels, find_levels
from ectorch.bitstream.tensor import DTYPES, Bits, RawTensor, bits_from_bytes
from ectorch.bitstream.wire import Cursor
from ectorch.errors import FormatError


class Coding(IntEnum):
    """Ids in the file: never renumber."""

    RAW = 0  # little-endian items
    ZSTD = 1  # one zstd frame of the same
    HALF = 2  # float32 that float16 holds exactly, as little-endian float16
    ALIAS = 3  # the same bits as an earlier tensor
    STATIC = 4  # codebook, then the static order-0 coder
    PLANES = 7  # byte planes, each coded by itself


def encode_tensor(tensor: RawTensor) -> tuple[Coding, bytes]:
    """The smallest payload; a tie goes to the lower id."""
    candidates = [(Coding.RAW, tensor.little_endian())]
    if len(tensor.bits):
        candidates.append((Coding.ZSTD, floats.encode_zstd(tensor)))
        if (half := floats.encode_half(tensor)) is not None:
            candidates.append((Coding.HALF, half))
        limit = min(len(payload) for _, payload in candidates)
        if (coded := _encode_static(tensor, limit)) is not None:
            candidates.append((Coding.STATIC, coded))
        limit = min(len(payload) for _, payload in candidates)
        if (coded := planes.encode(tensor, limit)) is not None:
            candidates.append((Coding.PLANES, coded))
    return min(candidates, key=lambda candidate: (len(candidate[1]), candidate[0]))


def decode_tensor(
    coding: Coding, payload: bytes, dtype: str, shape: tuple[int, ...], what: str
) -> Bits:
    """(prod(shape),) bit patterns; ``what`` names the tensor in errors.

    Raises:
        FormatError: when the payload does not hold exactly this tensor.
    """
    count = math.prod(shape)
    if coding == Coding.ZSTD:
        return floats.decode_zstd(payload, dtype, count, what)
    if coding == Coding.STATIC:
        cursor = Cursor(payload, what)
        levels = decode_levels(cursor, dtype)
        symbols = static.decode(cursor.rest(), count, len(levels.patterns), what)
        bits: Bits = levels.patterns[symbols]
        return bits
    if coding == Coding.PLANES:
        return planes.decode(payload, dtype, count, what)
    half = coding == Coding.HALF
    if half and dtype != "float32":
        raise FormatError(f"{what}: stored as halves of {dtype}, expected float32")
    size = count * (2 if half else DTYPES[dtype])
    if len(payload) != size:
        raise FormatError(f"{what}: {size} bytes expected, {len(payload)} stored")
    return floats.decode_half(payload) if half else bits_from_bytes(payload, dtype)


def estimate_bits(tensor: RawTensor) -> float:
    """Bits of the payload that `encode_tensor` writes, from counts: no coder runs.

    An estimate: floats are taken as they are or as halves (zstd and byte planes are not tried).
    """
    plain = 8 * len(floats.encode_half(tensor) or tensor.little_endian())
    found = find_levels(tensor.bits, tensor.dtype) if plain else None
    if found is None:
        return plain
    levels, symbols = found
    book = 8 * len(levels.encode(tensor.dtype))
    if book + _entropy_bits(symbols) >= plain:
        return plain
    counts = np.bincount(symbols, minlength=len(levels.patterns))
    return min(plain, book + static.estimate_bits(counts))


def _encode_static(tensor: RawTensor, limit: int) -> bytes | None:
    """Codebook and symbols, or None where they cannot be shorter than ``limit`` bytes."""
    found = find_levels(tensor.bits, tensor.dtype)
    if found is None:
        return None
    levels, symbols = found
    book = levels.encode(tensor.dtype)
    if 8 * len(book) + _entropy_bits(symbols) >= 8 * limit:
        return None
    return book + static.encode(symbols, len(levels.patterns))


def _entropy_bits(symbols: np.ndarray) -> float:
    counts = np.bincount(symbols)
    counts = counts[counts > 0]
    return float(counts @ np.log2(counts.sum() / counts))
