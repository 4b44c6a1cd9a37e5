"""The ways a tensor's bits may be stored, by the id that the file carries; the smallest is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum, IntEnum
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ectorch.bitstream.codings import context, floats, planes, rans, sample, static
from ectorch.bitstream.codings.codebook import decode_codebook, find_codebook, take
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
_SMALL_ITEMS, _SMALL_SYMBOLS_BYTES = 1 << 19, 1 << 15  # everything is tried on no larger tensors
_LIGHT_SHARE = 0.999  # of static bytes: it takes several times as long, and gains on the way
_QUICK_ZSTD_LEVEL = 3
_CHANGED_SHARE = 0.05  # of order-0 bytes, since it was looked for how to code a tensor
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

    SMALL = "small"  # everything is tried, on large tensors what samples let win
    BALANCED = "balanced"  # the light context model, or static
    FAST = "fast"  # static


_SYMBOLS = frozenset({Coding.STATIC, Coding.CONTEXT, Coding.RANS})


@dataclass(frozen=True)
class Surroundings:
    """What the file around a tensor offers to code it.

    Attributes:
        preset: what to try.
        hints: of a few earlier tensors, by index: (rows,) uint32 nonzeros of each row.
        earlier: how a tensor of this name was coded before, when it had other values: it is coded
            so again, and nothing else is tried, unless it has changed much.
        map: runs the chunks of a tensor, see `ectorch.bitstream.parallel`.
    """

    preset: Preset = Preset.SMALL
    hints: Mapping[int, np.ndarray] = field(default_factory=dict)
    earlier: Choice | None = None
    map: Map = map


@dataclass(frozen=True)
class Choice:
    """What was found best for a tensor.

    Attributes:
        coding: of the smallest payload.
        layout: of the context coder, if that is it.
        order0_bytes: entropy of the symbols when it was looked for; -1 without a codebook.
    """

    coding: Coding
    layout: Layout | None = None
    order0_bytes: float = -1.0

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for a checkpoint."""
        return asdict(self) | {"coding": int(self.coding)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Choice:
        """Inverse of `as_dict`."""
        layout = fields["layout"]
        return cls(
            Coding(fields["coding"]),
            None if layout is None else Layout(**layout),
            float(fields["order0_bytes"]),
        )

    def fits(self, order0_bytes: float) -> bool:
        """Whether a tensor has changed so little since that the choice is likely to be the same."""
        if min(order0_bytes, self.order0_bytes) < 0:
            return order0_bytes == self.order0_bytes
        return abs(order0_bytes - self.order0_bytes) <= _CHANGED_SHARE * self.order0_bytes


@dataclass(frozen=True)
class Coded:
    """A tensor's payload, and the choice of how to code it, which may be an earlier one."""

    coding: Coding
    payload: bytes
    choice: Choice


def encode_tensor(tensor: RawTensor, around: Surroundings | None = None) -> tuple[Coding, bytes]:
    """The smallest payload of those that the preset tries; a tie goes to the lower id."""
    coded = code_tensor(tensor, around or Surroundings())
    return coded.coding, coded.payload


def code_tensor(tensor: RawTensor, around: Surroundings) -> Coded:
    """`encode_tensor`, and what is to be known of it when the tensor has changed a little."""
    if not len(tensor.bits):
        return Coded(Coding.RAW, b"", Choice(Coding.RAW))
    symbols = _Symbols.find(tensor, around.map)
    order0_bytes = -1.0 if symbols is None else symbols.order0_bytes
    best = _Best(tensor.bits.nbytes)
    earlier = around.earlier
    if earlier is not None and earlier.fits(order0_bytes):
        for coding, payload in _encode_again(tensor, symbols, earlier, around):
            best.offer(coding, payload)
        if best.payload is not None:
            return Coded(best.coding, best.payload, earlier)
    best.offer(Coding.HALF, floats.encode_half(tensor))
    if symbols is not None:
        for coding, payload in _encode_symbols(symbols, around):
            best.offer(coding, payload)
    few = symbols is not None
    thorough = tensor.bits.nbytes <= floats.SMALL_BYTES if symbols is None else symbols.are_small
    del symbols  # they are large
    _encode_bytes(best, tensor, around.preset, few, thorough)
    if best.payload is None:
        return Coded(Coding.RAW, tensor.little_endian(), Choice(Coding.RAW, None, order0_bytes))
    layout = layout_of(best.coding, best.payload, tensor.dtype, tensor.shape, "what was coded")
    return Coded(best.coding, best.payload, Choice(best.coding, layout, order0_bytes))


def _encode_bytes(
    best: _Best, tensor: RawTensor, preset: Preset, few: bool, thorough: bool
) -> None:
    """Offer what needs no codebook; ``few`` values have one."""
    small, balanced = preset is Preset.SMALL, preset is Preset.BALANCED
    level = None if small else _QUICK_ZSTD_LEVEL
    many = balanced and best.size > _MANY_SHARE * tensor.bits.nbytes
    if small or many or not few:
        best.offer(Coding.PLANES, planes.encode(tensor, best.size, level, thorough))
    if small or balanced:
        limit = best.size + (best.coding > Coding.ZSTD)
        best.offer(Coding.ZSTD, floats.encode_zstd(tensor, limit, level, thorough))


def _encode_again(
    tensor: RawTensor, symbols: _Symbols | None, earlier: Choice, around: Surroundings
) -> Iterator[tuple[Coding, bytes | None]]:
    """Payloads as the one before: none where the tensor is too small for that to save time."""
    coding, size = earlier.coding, tensor.bits.nbytes
    if symbols is not None and coding in _SYMBOLS:
        yield from symbols.encode_statically(around, only=coding)
        layout = earlier.layout or (Layout() if symbols.are_small else None)
        if layout is not None and symbols.have_contexts:
            yield Coding.CONTEXT, symbols.encode_in_context(layout, around)
    elif symbols is None and coding is Coding.PLANES:
        yield coding, planes.encode(tensor, size, None, size <= floats.SMALL_BYTES)
    elif symbols is None and coding is Coding.HALF:
        yield coding, floats.encode_half(tensor)


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


@dataclass(frozen=True, eq=False)
class _Symbols:
    """A tensor of few values.

    Attributes:
        head: of the payload, the codebook.
        symbols: (n,) uint16.
        shape: of the tensor.
        counts: (levels,) how often each level occurs.
    """

    head: bytes
    symbols: np.ndarray
    shape: tuple[int, ...]
    alphabet: Alphabet
    counts: np.ndarray
    raw_bytes: int

    @classmethod
    def find(cls, tensor: RawTensor, map: Map) -> _Symbols | None:
        found = find_codebook(tensor.bits, tensor.dtype)
        if found is None:
            return None
        book, symbols = found
        levels, size = len(book.patterns), tensor.bits.nbytes
        counts = rans.count_symbols(symbols, levels, map)
        alphabet = Alphabet(levels, book.zero)
        return cls(book.encode(tensor.dtype), symbols, tensor.shape, alphabet, counts, size)

    @cached_property
    def order0_bytes(self) -> float:
        """The least that their counts let hope for."""
        return static.entropy_bits(self.counts) / 8

    @property
    def are_small(self) -> bool:
        return len(self.symbols) <= _SMALL_ITEMS and self.order0_bytes <= _SMALL_SYMBOLS_BYTES

    @property
    def are_many(self) -> bool:
        """Whether the codebook alone takes what the tensor does."""
        return self.alphabet.levels > 1 and len(self.head) >= self.raw_bytes

    @property
    def have_contexts(self) -> bool:
        return self.alphabet.levels > 1 and context.can_encode(self.shape)

    def encode_statically(
        self, around: Surroundings, only: Coding | None = None
    ) -> Iterator[tuple[Coding, bytes]]:
        """The static payloads, or one of them, as far as they may be smaller than the tensor."""
        levels = self.alphabet.levels
        if levels == 1:
            yield Coding.STATIC, self.head
        elif len(self.head) + self.order0_bytes < self.raw_bytes:
            if only is not Coding.STATIC:
                coding, stream = _encode_static(self.symbols, levels, around.map)
                yield coding, self.head + stream
                if coding is Coding.STATIC:
                    return
            if only is Coding.STATIC or (only is None and around.preset is Preset.SMALL):
                yield Coding.STATIC, self.head + static.encode(self.symbols, levels, self.counts)

    def encode_in_context(self, layout: Layout, around: Surroundings) -> bytes:
        return self.head + context.encode(
            self.symbols, self.shape, self.alphabet, layout, around.hints, around.map
        )


def _encode_symbols(symbols: _Symbols, around: Surroundings) -> Iterator[tuple[Coding, bytes]]:
    """Payloads of codebook and symbols, as far as they may be the smallest."""
    if symbols.are_many:
        return
    smallest = symbols.raw_bytes
    for coding, payload in symbols.encode_statically(around):
        smallest = min(smallest, len(payload))
        yield coding, payload
    if around.preset is Preset.FAST or not symbols.have_contexts:
        return
    layout = _find_layout(symbols, around, smallest)
    if layout is not None:
        yield Coding.CONTEXT, symbols.encode_in_context(layout, around)


def _find_layout(symbols: _Symbols, around: Surroundings, static_bytes: int) -> Layout | None:
    """The layout for the context coder; None where it is not worth to be tried."""
    given = symbols.symbols, symbols.shape, symbols.alphabet
    if around.preset is Preset.BALANCED:
        layout = Layout(live=True, light=True)
        return layout if _is_worth(*given, layout) else None
    if symbols.are_small:
        return context.search(*given, around.hints)[0]
    static_bytes -= len(symbols.head)
    return sample.find_layout(*given, around.hints, symbols.counts, static_bytes)


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
    if len(symbols) <= _SAMPLE_ITEMS:
        return True
    columns = math.prod(shape[1:])
    rows = len(symbols) // columns
    some = min(rows, -(-_SAMPLE_ITEMS // columns))
    start = (rows - some) // 2
    middle = symbols[start * columns : (start + some) * columns]
    size = len(context.encode(middle, (some, *shape[1:]), alphabet, layout, {}))
    return size < _LIGHT_SHARE * len(_encode_static(middle, alphabet.levels)[1])


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
