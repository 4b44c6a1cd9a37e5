"""Tensors that stay floating point, or integers of many values: exact, smaller where it pays."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from ectorch.bitstream.codings import static
from ectorch.bitstream.tensor import DTYPES, Bits, RawTensor, bits_dtype
from ectorch.errors import ConfigError, FormatError

_ZSTD_LEVEL = 19
_ZSTD_LEVEL_LARGE = 3
SMALL_BYTES = 1 << 17  # up to here level 19 is simply tried
_SAMPLE_SHARE, _SAMPLE_BYTES = 1 / 64, 1 << 14  # of more, by which the levels are compared
_SAMPLE_PLACES = 2
_COUNTED_BYTES = 1 << 16
_REPEATED_SHARE = 0.9  # of others' bytes that the quick level leaves: what no sample shows repeats
_LEAST_GAIN = 1 / 200
_BLOCK_BYTES = 1 << 17  # that one block of a frame holds at most, in 4 bytes at least
LEAST_FRAME_BYTES = 10  # magic number, two bytes of the header, a block of one byte
_FED_BYTES = 64  # small blocks are decoded together
_MAX_WINDOW_BYTES = 1 << 23
_LARGE_BYTES = 1 << 22  # past this, level 19 costs minutes and buys nothing on floats
_HALF_ITEMS = 1 << 18  # that are converted at once


def encode_zstd(
    tensor: RawTensor,
    limit: int | None = None,
    level: int | None = None,
    thorough: bool = True,
) -> bytes | None:
    """One frame of the items, or None where it is no shorter than ``limit`` bytes.

    Args:
        level, thorough: see `compress`.
    """
    data = tensor.bits.astype(tensor.bits.dtype.newbyteorder("<"), copy=False).data.cast("B")
    if limit is not None and (limit <= LEAST_FRAME_BYTES or _exceeds(data, limit)):
        return None
    frame = compress(data, level, thorough, limit)
    return frame if limit is None or len(frame) < limit else None


def compress(
    data: bytes | memoryview,
    level: int | None = None,
    thorough: bool = True,
    limit: int | None = None,
) -> bytes:
    """One zstd frame.

    Args:
        level: follows from the data unless it is given: 19, or 3 for more than 4 MiB.
        thorough: else 3, and 19 after it where repetitions or a sample let it be shorter.
        limit: only a frame that is shorter is of use; by default, one that beats the entropy.
    """
    data = memoryview(data).cast("B")
    if level is not None:
        return _frame(data, level)
    if data.nbytes > _LARGE_BYTES:
        return _frame(data, _ZSTD_LEVEL_LARGE)
    if thorough or data.nbytes <= SMALL_BYTES:
        return _frame(data, _ZSTD_LEVEL)
    quick = _frame(data, _ZSTD_LEVEL_LARGE)
    others = _entropy_bytes(data) if limit is None else limit
    repeats = len(quick) <= _REPEATED_SHARE * others
    most = (1 - _LEAST_GAIN) * min(len(quick), others)
    if not repeats and len(quick) * _share_of_level(data) > most:
        return quick
    return min(quick, _frame(data, _ZSTD_LEVEL), key=len)


def _entropy_bytes(data: memoryview) -> float:
    """About what single bytes take by how frequent they are."""
    every = np.frombuffer(data, np.uint8)
    some = every[:: -(-len(every) // _COUNTED_BYTES)]
    return static.entropy_bits(static.count(some, 256)) / 8 * len(every) / len(some)


def _share_of_level(data: memoryview) -> float:
    """Bytes at level 19 over bytes at level 3, of pieces of the data."""
    size = max(_SAMPLE_BYTES, int(_SAMPLE_SHARE * data.nbytes)) // _SAMPLE_PLACES
    starts = [
        (data.nbytes - size) * (2 * i + 1) // (2 * _SAMPLE_PLACES) for i in range(_SAMPLE_PLACES)
    ]
    pieces = [data[start : start + size] for start in starts]
    best, quick = (
        sum(len(_frame(piece, level)) for piece in pieces)
        for level in (_ZSTD_LEVEL, _ZSTD_LEVEL_LARGE)
    )
    return best / quick


def _frame(data: memoryview, level: int) -> bytes:
    frame: bytes = _zstandard().ZstdCompressor(level=level, write_content_size=False).compress(data)
    return frame


def _exceeds(data: memoryview, limit: int) -> bool:
    """Whether a frame of much data passes the limit, found without holding it."""
    if data.nbytes <= _LARGE_BYTES:
        return False
    compressor = _zstandard().ZstdCompressor(level=_ZSTD_LEVEL_LARGE)
    frame, size = compressor.compressobj(size=data.nbytes), 0
    for start in range(0, data.nbytes, _LARGE_BYTES):
        size += len(frame.compress(data[start : start + _LARGE_BYTES]))
        if size >= limit:
            return True
    return False


def decode_zstd(data: bytes | memoryview, dtype: str, count: int, what: str) -> Bits:
    """(count,) bit patterns; never holds more than them, whatever the frame claims.

    Raises:
        FormatError: when the frame is damaged or holds another number of bytes.
        ConfigError: without the package zstandard.
    """
    size = count * DTYPES[dtype]
    if size > _BLOCK_BYTES // 4 * len(data):
        raise FormatError(f"{what}: zstd frame does not hold {size} bytes")
    items = np.empty(count, bits_dtype(dtype).newbyteorder("<"))
    decode_zstd_into(data, items.view(np.uint8), what)
    return items.astype(bits_dtype(dtype), copy=False)


def decode_zstd_into(
    data: bytes | memoryview, out: np.ndarray, what: str, whole: bool = True
) -> None:
    """Fill ``out``, uint8 of any stride; raises as `decode_zstd` does.

    Args:
        whole: the frame holds no more bytes; else what follows is not looked at.
    """
    zstandard = _zstandard()
    at = 0
    try:
        frame = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
        for start, end in _blocks(data, zstandard):
            part = np.frombuffer(frame.decompress(data[start:end]), np.uint8)
            kept = part[: len(out) - at]
            out[at : at + len(kept)] = kept
            at += len(part)
            if at > len(out) or (at == len(out) and not whole):
                break
    except zstandard.ZstdError as error:
        raise FormatError(f"{what}: zstd: {error}") from error
    if at < len(out) or (whole and (at > len(out) or not frame.eof or frame.unused_data)):
        raise FormatError(f"{what}: zstd frame does not hold {len(out)} bytes")


def _blocks(data: bytes | memoryview, zstandard: ModuleType) -> Iterator[tuple[int, int]]:
    """Where parts of ``data`` start and end that hold few blocks of a frame, as these say it."""
    start, at = 0, zstandard.frame_header_size(data)
    while at < len(data):
        head = int.from_bytes(data[at : at + 3], "little")
        at += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)  # one byte that is repeated, or so many
        if at - start >= _FED_BYTES or head & 1:
            yield start, at
            start = at
        if head & 1:
            break
    if start < len(data):
        yield start, len(data)  # a checksum, or what does not belong there


def _zstandard() -> ModuleType:
    try:
        import zstandard
    except ImportError as error:
        raise ConfigError(
            "floats, and integers of many values, are coded with the package zstandard, which is "
            "not installed: pip install zstandard"
        ) from error
    return zstandard


def encode_half(tensor: RawTensor) -> bytes | None:
    """float32 values that float16 holds exactly, as float16; None where one does not fit."""
    if tensor.dtype != "float32":
        return None
    values = tensor.bits.view(np.float32)
    halves = np.empty(len(values), "<f2")
    for start in range(0, len(values), _HALF_ITEMS):
        part, half = values[start : start + _HALF_ITEMS], halves[start : start + _HALF_ITEMS]
        if np.isnan(part).any():  # what a conversion makes of their bits depends on the machine
            return None
        with np.errstate(over="ignore"):
            half[:] = part
        if not np.array_equal(half.astype(np.float32).view(np.uint32), part.view(np.uint32)):
            return None
    return halves.tobytes()


def decode_half(data: bytes | memoryview, what: str) -> Bits:
    """Bit patterns of float32 from float16; ``what`` names the tensor in errors.

    Raises:
        FormatError: on a NaN, whose bits would depend on the machine.
    """
    values = np.frombuffer(data, "<f2").astype(np.float32)
    if np.isnan(values).any():
        raise FormatError(f"{what}: a NaN among the halves")
    return values.view(np.uint32)
