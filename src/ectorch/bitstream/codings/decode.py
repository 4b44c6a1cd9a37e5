"""The ways a tensor's bits may be stored, by the id that the file carries, and back to bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np

from ectorch.bitstream.codings import context, floats, planes
from ectorch.bitstream.codings.codebook import decode_codebook, take
from ectorch.bitstream.codings.context import Alphabet, ContextStream, Counts, Layout, no_counts
from ectorch.bitstream.codings.rans import RansStream
from ectorch.bitstream.codings.static import StaticStream
from ectorch.bitstream.parallel import Map
from ectorch.bitstream.tensor import DTYPES, Bits, bits_from_bytes
from ectorch.bitstream.wire import Cursor
from ectorch.errors import FormatError

_TOGETHER_ITEMS = 1 << 20  # chunks of fewer are decoded by one task


class Coding(IntEnum):
    """Ids in the file: never renumber."""

    RAW = 0  # little-endian items
    ZSTD = 1  # one zstd frame of the same
    HALF = 2  # float32 that float16 holds exactly, as little-endian float16
    ALIAS = 3  # the same bits as an earlier tensor
    STATIC = 4  # codebook, then the static order-0 coder
    CONTEXT = 5  # codebook, then the adaptive context coder
    RANS = 6  # codebook, then static rANS in chunks
    PLANES = 7  # byte planes, each coded by itself


SYMBOLS = frozenset({Coding.STATIC, Coding.CONTEXT, Coding.RANS})


def decode_tensor(
    coding: Coding,
    payload: bytes | memoryview,
    dtype: str,
    shape: Sequence[int],
    what: str,
    counts: Counts = no_counts,
    items: range | None = None,
    map: Map = map,
) -> Bits:
    """Bit patterns of a tensor; ``what`` names it in errors.

    Args:
        counts: nonzeros of each row of an earlier tensor, (rows,) uint32, by its index.
        items: which of the ``prod(shape)`` items, all if None; chunks of none are not decoded.

    Raises:
        FormatError: when the payload does not hold exactly this tensor.
    """
    count = math.prod(shape)
    items = range(count) if items is None else items
    if coding in SYMBOLS:
        return _decode_symbols(coding, Cursor(payload, what), dtype, shape, counts, items, map)
    return _decode_items(coding, payload, dtype, count, what, items)


def layout_of(
    coding: Coding, payload: bytes | memoryview, dtype: str, shape: Sequence[int], what: str
) -> Layout | None:
    """The context coder's layout; its hint is the earlier tensor that `decode_tensor` asks for."""
    if coding != Coding.CONTEXT:
        return None
    cursor = Cursor(payload, what)
    decode_codebook(cursor, dtype, math.prod(shape))
    return context.decode_layout(cursor)


def _decode_symbols(
    coding: Coding,
    cursor: Cursor,
    dtype: str,
    shape: Sequence[int],
    counts: Counts,
    items: range,
    map: Map,
) -> Bits:
    count = math.prod(shape)
    if not count:
        raise FormatError(f"{cursor.what}: symbols of a tensor without items")
    book = decode_codebook(cursor, dtype, count)
    many = len(book.patterns)
    if many == 1:
        if coding != Coding.STATIC or cursor.remaining:
            raise FormatError(f"{cursor.what}: a codebook of one level, and more after it")
        return np.full(len(items), book.patterns[0])
    stream: _Stream
    if coding == Coding.CONTEXT:
        stream = ContextStream(cursor, shape, Alphabet(many, book.zero), counts)
    elif coding == Coding.RANS:
        stream = RansStream(cursor.view(cursor.remaining), count, many, cursor.what)
    else:
        stream = StaticStream(cursor.view(cursor.remaining), count, many, cursor.what)
    step = stream.chunk_items
    kind = np.uint8 if coding == Coding.STATIC and many <= 1 << 8 else np.uint16
    chunks = range(items.start // step, -(-items.stop // step)) if items else range(0)
    bits = np.empty(len(items), book.patterns.dtype)

    def decode(some: range) -> None:
        first, last = some.start * step, min(some.stop * step, count)
        start, stop = max(first, items.start), min(last, items.stop)
        out = bits[start - items.start : stop - items.start]
        in_place = bits.itemsize == 2 and len(out) == last - first
        symbols = out if in_place else np.empty(last - first, kind)
        for at in some:
            stream.decode_into(at, symbols[at * step - first :][:step])
        take(book.patterns, symbols[start - first : stop - first], out)

    together = max(1, _TOGETHER_ITEMS // step)
    for _ in map(decode, [chunks[at : at + together] for at in range(0, len(chunks), together)]):
        pass
    return bits


def _decode_items(
    coding: Coding, payload: bytes | memoryview, dtype: str, count: int, what: str, items: range
) -> Bits:
    if coding == Coding.ZSTD:
        return floats.decode_zstd(payload, dtype, count, what)[items.start : items.stop]
    if coding == Coding.PLANES:
        return planes.decode(payload, dtype, count, what, items)
    half = coding == Coding.HALF
    if half and dtype != "float32":
        raise FormatError(f"{what}: stored as halves of {dtype}, expected float32")
    width = 2 if half else DTYPES[dtype]
    if len(payload) != count * width:
        raise FormatError(f"{what}: {count * width} bytes expected, {len(payload)} stored")
    part = memoryview(payload)[items.start * width : items.stop * width]
    return floats.decode_half(part, what) if half else bits_from_bytes(part, dtype)


class _Stream(Protocol):
    @property
    def chunk_items(self) -> int: ...

    def __len__(self) -> int: ...

    def decode_into(self, index: int, out: np.ndarray) -> None: ...


def count_nonzeros(bits: Bits, shape: Sequence[int]) -> np.ndarray:
    """(rows,) uint32: items of each row of the first dimension whose bits are not all zero."""
    rows = shape[0] if shape else 1
    row_items = math.prod(shape[1:])  # NumPy finds none for no rows
    counts: np.ndarray = np.count_nonzero(bits.reshape(rows, row_items), axis=1)
    return counts.astype(np.uint32)
