"""Tensors that stay floating point, or integers of many values: exact, smaller where it pays."""

from __future__ import annotations

import numpy as np
import zstandard

from ectorch.bitstream.tensor import DTYPES, Bits, RawTensor, bits_from_bytes
from ectorch.errors import FormatError

_ZSTD_LEVEL = 19
_ZSTD_LEVEL_LARGE = 3
_CHUNK_BYTES = 64  # a block of four bytes may hold 128 KiB: look at the sum this often
_MAX_WINDOW_BYTES = 1 << 23
_LARGE_BYTES = 1 << 22  # past this, level 19 costs minutes and buys nothing on floats


def encode_zstd(tensor: RawTensor) -> bytes:
    return compress(tensor.little_endian())


def compress(data: bytes, level: int | None = None) -> bytes:
    """One zstd frame; ``level`` follows from the size unless it is given."""
    if level is None:
        level = _ZSTD_LEVEL if len(data) <= _LARGE_BYTES else _ZSTD_LEVEL_LARGE
    return zstandard.ZstdCompressor(level=level, write_content_size=False).compress(data)


def decode_zstd(data: bytes, dtype: str, count: int, what: str) -> Bits:
    """(count,) bit patterns; never holds more than them, whatever the frame claims.

    Raises:
        FormatError: when the frame is damaged or holds another number of bytes.
    """
    size, out = count * DTYPES[dtype], bytearray()
    try:
        frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        for start in range(0, len(data), _CHUNK_BYTES):
            out += frame.decompress(data[start : start + _CHUNK_BYTES])
            if len(out) > size:
                break
    except zstandard.ZstdError as error:
        raise FormatError(f"{what}: {error}") from error
    if len(out) != size or not frame.eof or frame.unused_data:
        raise FormatError(f"{what}: zstd frame does not hold {size} bytes")
    return bits_from_bytes(out, dtype)


def encode_half(tensor: RawTensor) -> bytes | None:
    """float32 values that float16 holds exactly, as float16; None where one does not fit."""
    if tensor.dtype != "float32":
        return None
    values = tensor.bits.view(np.float32)
    if np.isnan(values).any():  # what a conversion makes of their bits depends on the machine
        return None
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.array_equal(half.astype(np.float32).view(np.uint32), tensor.bits):
        return None
    return half.tobytes()


def decode_half(data: bytes, what: str) -> Bits:
    """Bit patterns of float32 from float16; ``what`` names the tensor in errors.

    Raises:
        FormatError: on a NaN, whose bits would depend on the machine.
    """
    values = np.frombuffer(data, "<f2").astype(np.float32)
    if np.isnan(values).any():
        raise FormatError(f"{what}: a NaN among the halves")
    return values.view(np.uint32)
