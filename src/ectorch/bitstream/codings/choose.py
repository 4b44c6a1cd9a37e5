"""The ways a tensor's bits may be stored, by the id that the file carries; the smallest is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Protocol

import numpy as np

from ectorch.bitstream.codings import context, floats, planes, rans, static
from ectorch.bitstream.codings.codebook import Codebook, decode_codebook, find_codebook, take
from ectorch.bitstream.codings.context import Alphabet, ContextStream, Counts, Layout, no_counts
from ectorch.bitstream.codings.rans import RansStream
from ectorch.bitstream.codings.static import StaticStream
from ectorch.bitstream.parallel import Map
from ectorch.bitstream.tensor import DTYPES, Bits, RawTensor, bits_from_bytes
from ectorch.bitstream.wire import Cursor
from ectorch.errors import FormatError

_MANY_ITEMS = 1 << 14  # fewer gain nothing by rANS
_TOGETHER_ITEMS = 1 << 20  # chunks of fewer are decoded by one task
_SAMPLE_ITEMS = 1 << 18
_SEARCHED_ITEMS = 1 << 21  # the context coder is tried on the whole of no larger tensors
_LIGHT_SHARE = 0.999  # of static bytes: it takes several times as long, and gains on the way
_QUICK_ZSTD_LEVEL = 3
_MANY_SHARE = 1 / 3  # of a tensor's bytes that its symbols take: byte planes may take fewer


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


class Preset(str, Enum):
    """How much time a file may take to become smaller."""

    SMALL = "small"  # everything is tried, the smallest is kept
    BALANCED = "balanced"  # the light context model, or static
    FAST = "fast"  # static


_SYMBOLS = frozenset({Coding.STATIC, Coding.CONTEXT, Coding.RANS})


@dataclass(frozen=True)
class Surroundings:
    """What the file around a tensor offers to code it.

    Attributes:
        preset: what to try.
        hints: of a few earlier tensors, by index: (rows,) uint32 nonzeros of each row.
        layout: of the context coder, which is searched for otherwise; then floats are tried for
            nothing that has a codebook.
        map: runs the chunks of a tensor, see `ectorch.bitstream.parallel`.
    """

    preset: Preset = Preset.SMALL
    hints: Mapping[int, np.ndarray] = field(default_factory=dict)
    layout: Layout | None = None
    map: Map = map


def encode_tensor(tensor: RawTensor, around: Surroundings | None = None) -> tuple[Coding, bytes]:
    """The smallest payload of those that the preset tries; a tie goes to the lower id."""
    around = around or Surroundings()
    found = find_codebook(tensor.bits, tensor.dtype) if len(tensor.bits) else None
    best = _Best(tensor.bits.nbytes)
    if len(tensor.bits):
        best.offer(Coding.HALF, floats.encode_half(tensor))
    if found is not None:
        for coding, payload in _encode_symbols(*found, tensor, around):
            best.offer(coding, payload)
    few = found is not None
    del found  # the symbols are large
    small = around.preset is Preset.SMALL and (around.layout is None or not few)
    level = None if small else _QUICK_ZSTD_LEVEL
    balanced = around.preset is Preset.BALANCED
    many = balanced and best.size > _MANY_SHARE * tensor.bits.nbytes
    if len(tensor.bits) and (small or many or not few):
        best.offer(Coding.PLANES, planes.encode(tensor, best.size, level))
    if len(tensor.bits) and (small or balanced):
        limit = best.size + (best.coding > Coding.ZSTD)
        best.offer(Coding.ZSTD, floats.encode_zstd(tensor, limit, level))
    if best.payload is None:
        return Coding.RAW, tensor.little_endian()
    return best.coding, best.payload


@dataclass
class _Best:
    """The smallest payload so far, if it is smaller than ``size``; others are not kept."""

    size: int
    coding: Coding = Coding.RAW
    payload: bytes | None = None

    def offer(self, coding: Coding, payload: bytes | None) -> None:
        if payload is not None and (len(payload), coding) < (self.size, self.coding):
            self.size, self.coding, self.payload = len(payload), coding, payload


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
    if coding in _SYMBOLS:
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


def count_nonzeros(bits: Bits, shape: Sequence[int]) -> np.ndarray:
    """(rows,) uint32: items of each row of the first dimension whose bits are not all zero."""
    rows = shape[0] if shape else 1
    row_items = math.prod(shape[1:])  # NumPy finds none for no rows
    counts: np.ndarray = np.count_nonzero(bits.reshape(rows, row_items), axis=1)
    return counts.astype(np.uint32)


def estimate_bits(tensor: RawTensor) -> float:
    """Bits of the payload that `encode_tensor` writes at most, from counts: no coder runs.

    An estimate of the static coder: the context coder gets below it. Floats are taken as they are
    or as halves (zstd and planes are not tried).
    """
    plain = 8 * len(floats.encode_half(tensor) or tensor.little_endian())
    found = find_codebook(tensor.bits, tensor.dtype) if plain else None
    if found is None:
        return plain
    book, symbols = found
    counts = rans.count_symbols(symbols, len(book.patterns))
    book_bits = 8 * len(book.encode(tensor.dtype))
    if book_bits + static.entropy_bits(counts) >= plain:
        return plain
    return min(plain, book_bits + static.estimate_bits(counts))


def _encode_symbols(
    book: Codebook, symbols: np.ndarray, tensor: RawTensor, around: Surroundings
) -> Iterator[tuple[Coding, bytes]]:
    """Payloads of codebook and symbols, as far as they may be the smallest."""
    head = book.encode(tensor.dtype)
    many = len(book.patterns)
    if many == 1:
        yield Coding.STATIC, head
        return
    if len(head) >= tensor.bits.nbytes:
        return
    counts = rans.count_symbols(symbols, many, around.map)
    entropy_bytes = static.entropy_bits(counts) / 8
    if len(head) + entropy_bytes < tensor.bits.nbytes:
        coding, stream = _encode_static(symbols, many, around.map)
        yield coding, head + stream
        if coding == Coding.RANS and around.preset is Preset.SMALL:
            yield Coding.STATIC, head + static.encode(symbols, many)
    if around.preset is Preset.FAST or not context.can_encode(tensor.shape):
        return
    alphabet = Alphabet(many, book.zero)
    if around.preset is Preset.SMALL:
        if around.layout is None and not _may_gain(symbols, tensor.shape, alphabet):
            return
        layout = around.layout or context.search(symbols, tensor.shape, alphabet, around.hints)
    else:
        layout = Layout(live=True, light=True)
        if not _is_worth(symbols, tensor.shape, alphabet, layout):
            return
    yield (
        Coding.CONTEXT,
        head + context.encode(symbols, tensor.shape, alphabet, layout, around.hints, around.map),
    )


def _encode_static(symbols: np.ndarray, levels: int, map: Map = map) -> tuple[Coding, bytes]:
    if len(symbols) >= _MANY_ITEMS:
        stream = rans.encode(symbols, levels, map)
        if stream is not None:
            return Coding.RANS, stream
    return Coding.STATIC, static.encode(symbols, levels)


def _is_worth(
    symbols: np.ndarray, shape: Sequence[int], alphabet: Alphabet, layout: Layout
) -> bool:
    """Whether some rows in the middle take clearly fewer bytes than statically."""
    return len(symbols) <= _SAMPLE_ITEMS or _gains(symbols, shape, alphabet, layout, 1 / 2)


def _may_gain(symbols: np.ndarray, shape: Sequence[int], alphabet: Alphabet) -> bool:
    """Whether a search is due: in one of the simple layouts, some rows take fewer bytes."""
    live, down = Layout(live=True), Layout(order=1)
    return len(symbols) <= _SEARCHED_ITEMS or any(
        _gains(symbols, shape, alphabet, layout, place)
        for layout, place in ((live, 1 / 2), (down, 1 / 2), (live, 0), (live, 1))
    )


def _gains(
    symbols: np.ndarray,
    shape: Sequence[int],
    alphabet: Alphabet,
    layout: Layout,
    place: float,
) -> bool:
    """Whether some rows take clearly fewer bytes than statically; ``place`` from 0 to 1."""
    columns = math.prod(shape[1:])
    rows = len(symbols) // columns
    some = min(rows, -(-_SAMPLE_ITEMS // columns))
    start = int((rows - some) * place)
    sample = symbols[start * columns : (start + some) * columns]
    size = len(context.encode(sample, (some, *shape[1:]), alphabet, layout, {}))
    return size < _LIGHT_SHARE * len(_encode_static(sample, alphabet.levels)[1])


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
