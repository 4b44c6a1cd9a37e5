"""Adaptive context coder: how a tensor is laid out for the model, in chunks that threads share.

The kernels, `context_model` in C++ and in Python, predict every symbol from those
before it, of the same row, column and neighbourhood. Which layout is best is a matter of trying.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ectorch.bitstream.kernels import kernels_for, naming
from ectorch.bitstream.native import Shape
from ectorch.bitstream.parallel import Map
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

_CHUNK_ITEMS = 1 << 22  # a chunk is whole rows of so many items at most, or one row
_MAX_LINES = 1 << 18  # rows of a chunk, and columns: bounds what a decoder has to remember
_ORDERS = 4
_LIVE, _LIGHT, _MAPS, _HINT = 4, 8, 16, 32
_LEAST_IMAGE_SIDE = 8

Counts = Callable[[int], np.ndarray]  # nonzeros of each row of an earlier tensor, by its index


def no_counts(index: int) -> np.ndarray:
    """For tensors that need no other."""
    raise LookupError(index)


@dataclass(frozen=True)
class Layout:
    """How the items are read, and what is said of them.

    Attributes:
        order: 0 rows outermost, 1 rows innermost, 2 channels outermost, 3 positions outermost.
        live: rows and columns that hold nothing but zeros are said first, and left out.
        light: the fast model, which takes the mean of two contexts.
        maps: height and width of the maps that a row consists of, if not those of the shape.
        hint: index of an earlier tensor whose rows feed the columns of this one, if any.
    """

    order: int = 0
    live: bool = False
    light: bool = False
    maps: tuple[int, int] | None = None
    hint: int | None = None

    def encode(self) -> bytes:
        how = self.order | _LIVE * self.live | _LIGHT * self.light
        how |= _MAPS * (self.maps is not None) | _HINT * (self.hint is not None)
        numbers = (*(self.maps or ()), *(() if self.hint is None else (self.hint,)))
        return bytes([how]) + b"".join(map(varint, numbers))


@dataclass(frozen=True)
class Alphabet:
    """Symbols from 0 to ``levels`` - 1, two at least, of which ``zero`` stands for nothing."""

    levels: int
    zero: int


class ContextStream:
    """A stream whose chunks can be decoded alone.

    Attributes:
        chunk_items: symbols of a chunk; the last one may have fewer.

    Raises:
        FormatError: from the constructor or from the chunk that is damaged.
    """

    def __init__(
        self, cursor: Cursor, shape: Sequence[int], alphabet: Alphabet, counts: Counts
    ) -> None:
        layout = decode_layout(cursor)
        self._what = cursor.what
        self._coder = _ChunkCoder(shape, layout, alphabet)
        self._coder.check(cursor.what)
        if layout.hint is not None:
            self._coder.hint = _check_hint(counts(layout.hint), self._coder.columns, cursor.what)
        self.chunk_items = self._coder.chunk_rows * self._coder.columns
        sizes = [cursor.varint() for _ in range(len(self) - 1)]
        self._chunks = [*map(cursor.view, sizes), cursor.view(cursor.remaining)]

    def __len__(self) -> int:
        return len(self._coder)

    def decode_into(self, index: int, out: np.ndarray) -> None:
        """Fill ``out``, uint16 of the length of chunk ``index``, contiguous."""
        self._coder.decode(self._chunks[index], index, out, self._what)


def can_encode(shape: Sequence[int]) -> bool:
    """Whether a tensor has items, and rows that are not too long."""
    return math.prod(shape) > 0 and math.prod(shape[1:]) <= _MAX_LINES


def can_hint(rows: int, columns: int) -> bool:
    """Whether an earlier tensor of so many rows may feed this one's columns."""
    return 1 < rows <= columns and columns % rows == 0


def encode(
    symbols: np.ndarray,
    shape: Sequence[int],
    alphabet: Alphabet,
    layout: Layout,
    hints: Mapping[int, np.ndarray],
    map: Map = map,
) -> bytes:
    """Code (n,) uint16 symbols of a tensor of ``shape``.

    Args:
        hints: (rows,) uint32 nonzeros of each row of earlier tensors, by index.
    """
    coder = _ChunkCoder(shape, layout, alphabet)
    if layout.hint is not None:
        coder.hint = hints[layout.hint]
    chunks: list[bytes] = list(map(lambda at: coder.encode(symbols, at), range(len(coder))))
    return layout.encode() + b"".join(varint(len(c)) for c in chunks[:-1]) + b"".join(chunks)


def search(
    symbols: np.ndarray,
    shape: Sequence[int],
    alphabet: Alphabet,
    hints: Mapping[int, np.ndarray],
) -> tuple[Layout, int]:
    """The layout of the smallest first chunk, one thing after the other; bytes of that chunk."""
    sizes: dict[Layout, int] = {}

    def size(layout: Layout) -> int:
        if layout not in sizes:
            coder = _ChunkCoder(shape, layout, alphabet)
            if layout.hint is not None:
                coder.hint = hints[layout.hint]
            sizes[layout] = len(coder.encode(symbols, 0)) + len(layout.encode())
        return sizes[layout]

    fitting = _fitting_hints(shape, hints)
    plain = Layout()
    maps = [replace(plain, maps=maps) for maps in _possible_maps(shape, hints, fitting)]
    best = min([plain, *maps], key=size)
    best = min([best, *(replace(best, hint=hint) for hint in fitting)], key=size)
    orders = _ORDERS if math.prod(best.maps or _shape_maps(shape)) > 1 else 2
    best = min([replace(best, order=order) for order in range(orders)], key=size)
    best = min([best, replace(best, live=True)], key=size)
    return best, size(best)


class _ChunkCoder:
    """Codes the chunks of one tensor."""

    def __init__(self, shape: Sequence[int], layout: Layout, alphabet: Alphabet) -> None:
        self.layout, self.alphabet = layout, alphabet
        self.rows = shape[0] if shape else 1
        self.columns = math.prod(shape[1:])
        self.maps = layout.maps or _shape_maps(shape)
        self.chunk_rows = min(_MAX_LINES, max(1, _CHUNK_ITEMS // max(1, self.columns)))
        self.hint = np.empty(0, np.uint32)

    def __len__(self) -> int:
        return -(-self.rows // self.chunk_rows)

    def check(self, what: str) -> None:
        height, width = self.maps
        if not height * width or self.columns % (height * width):
            raise FormatError(f"{what}: maps of {height}x{width} in rows of {self.columns}")
        if not can_encode((self.rows, self.columns)):
            raise FormatError(f"{what}: {self.rows} rows of {self.columns} items")

    def encode(self, symbols: np.ndarray, at: int) -> bytes:
        items = self.chunk_rows * self.columns
        part = symbols[at * items : (at + 1) * items]
        return kernels_for(len(part)).context_encode(part, *self._arguments(at))

    def decode(self, data: memoryview, at: int, out: np.ndarray, what: str) -> None:
        with naming(what):
            kernels_for(len(out)).context_decode(data, out, *self._arguments(at))

    def _arguments(self, at: int) -> tuple[Shape, int, bool, bool, int, int, np.ndarray]:
        height, width = self.maps
        rows = min(self.chunk_rows, self.rows - at * self.chunk_rows)
        shape = (rows, self.columns // (height * width), height, width)
        layout, alphabet = self.layout, self.alphabet
        return (
            shape,
            layout.order,
            layout.live,
            layout.light,
            alphabet.levels,
            alphabet.zero,
            self.hint,
        )


def _shape_maps(shape: Sequence[int]) -> tuple[int, int]:
    """Height and width: the last two of four dimensions or more, the last of three."""
    if len(shape) < 3:
        return 1, 1
    return (1 if len(shape) == 3 else shape[-2]), shape[-1]


def _possible_maps(
    shape: Sequence[int], hints: Mapping[int, np.ndarray], fitting: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Rows as they are, as a square image, as square maps of the channels of an earlier tensor."""
    columns = math.prod(shape[1:])
    if _shape_maps(shape) != (1, 1):
        yield 1, 1
        return
    sides = {math.isqrt(columns // len(hints[at])) for at in fitting}
    sides |= {math.isqrt(columns)} if columns >= _LEAST_IMAGE_SIDE**2 else set()
    for side in sorted(sides - {1}):
        if columns % side**2 == 0:
            yield side, side


def _fitting_hints(shape: Sequence[int], hints: Mapping[int, np.ndarray]) -> list[int]:
    columns = math.prod(shape[1:])
    return [at for at, counts in hints.items() if can_hint(len(counts), columns)]


def _check_hint(counts: np.ndarray, columns: int, what: str) -> np.ndarray:
    if not can_hint(len(counts), columns):
        raise FormatError(f"{what}: {len(counts)} rows of another tensor for {columns} columns")
    return counts


def decode_layout(cursor: Cursor) -> Layout:
    """The layout of a payload, from what follows its codebook."""
    how = cursor.byte()
    if how >> 6:
        raise FormatError(f"{cursor.what}: unknown layout {how}")
    maps = (cursor.varint(), cursor.varint()) if how & _MAPS else None
    hint = cursor.varint() if how & _HINT else None
    return Layout(how % _ORDERS, bool(how & _LIVE), bool(how & _LIGHT), maps, hint)
