"""Adaptive context model, integers only: the compiled kernels in plain Python, same bytes.

A tensor is rows x channels x height x width; a column is one of channels x height x width. Each
symbol becomes binary decisions: whether it is the zero, its sign, the length of its magnitude,
then the bits below the first. This room says from which contexts each one is predicted, `decisions`
how.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypeVar

import numpy as np

from ectorch.bitstream.native import MAX_LEVELS, DamagedStream, Shape
from ectorch.bitstream.plain.decisions import Decisions, Kind, Slot, clamp
from ectorch.bitstream.plain.range_coder import RangeDecoder, RangeEncoder

_Column = tuple[int, int, int]  # which of channels, height, width
_Item = tuple[int, _Column]
_Key = TypeVar("_Key", int, _Column)  # of a row or a column

_MOST_ITEMS = (1 << 31) - 1  # that the compiled model counts


def context_encode(
    symbols: np.ndarray,
    shape: Shape,
    order: int,
    live: bool,
    light: bool,
    levels: int,
    zero: int,
    hint: np.ndarray,
) -> bytes:
    """Code (n,) uint16 symbols in ``[0, levels)``; ``shape`` has n items.

    Args:
        order: of the items: 0 rows outermost, 1 rows innermost, 2 channels outermost, 3 positions
            outermost.
        live: say first which rows and columns hold nothing but zeros, and leave them out.
        light: take the mean of the first two contexts instead of the mix: faster.
        zero: the symbol that means zero; others are coded as distances to it.
        hint: (any number,) uint32, one for so many columns each: large where these matter.
    """
    _check(symbols, shape, order, levels, zero)
    values = [symbol - zero for symbol in symbols.tolist()]
    if any(value >= levels - zero for value in values):
        raise ValueError("a symbol beyond the codebook")
    coder = RangeEncoder()
    _run_model(coder, values, shape, order, live, light, levels, zero, hint)
    return coder.finish()


def context_decode(
    data: bytes | memoryview,
    symbols: np.ndarray,
    shape: Shape,
    order: int,
    live: bool,
    light: bool,
    levels: int,
    zero: int,
    hint: np.ndarray,
) -> None:
    """Fill (n,) ``symbols`` with what `context_encode` coded, given the same arguments.

    Raises:
        DamagedStream: on bytes that no encoder writes, as far as that can be told.
    """
    _check(symbols, shape, order, levels, zero)
    coder = RangeDecoder(data)
    values = _run_model(coder, (), shape, order, live, light, levels, zero, hint)
    if not coder.exhausted:
        raise DamagedStream("bytes left after the last symbol")
    if any(not 0 <= value + zero < levels for value in values):
        raise DamagedStream("a symbol beyond the codebook")
    symbols[:] = [value + zero for value in values]


def _check(symbols: np.ndarray, shape: Shape, order: int, levels: int, zero: int) -> None:
    items = math.prod(shape)
    if min(shape) < 0 or items > _MOST_ITEMS or items != len(symbols):
        raise ValueError("shape and symbols differ, or there are too many")
    if not 0 <= order <= 3:
        raise ValueError("order other than 0 to 3")
    if not 0 <= zero < levels <= MAX_LEVELS:
        raise ValueError("zero is none of 1 to 65536 levels")


def _run_model(
    coder: RangeEncoder | RangeDecoder,
    given: Sequence[int],
    shape: Shape,
    order: int,
    live: bool,
    light: bool,
    levels: int,
    zero: int,
    hint: np.ndarray,
) -> list[int]:
    if 0 in shape:
        return []
    longest = max(zero, levels - 1 - zero).bit_length()
    return _ContextModel(coder, shape, light, longest, hint.tolist()).run(given, order, live)


@dataclass(slots=True)
class _Line:
    """What was seen of a row or a column."""

    items: int = 0
    nonzeros: int = 0
    value: int = 0  # the last nonzero one
    zero: Slot = field(default_factory=Slot)
    sign: Slot = field(default_factory=Slot)
    magnitude: Slot = field(default_factory=Slot)


def _density(nonzeros: int, items: int) -> int:
    """0 to 3 while all are zero; then 5 + log2(2 items / nonzeros), at most 15."""
    if not nonzeros:
        return min(3, items.bit_length() // 3)
    return 5 + clamp((2 * items // nonzeros).bit_length() - 1, 0, 10)


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _size(value: int, most: int) -> int:
    return min(abs(value), most)


class _ContextModel:
    """Codes values (symbols less ``zero``) with an encoder, or reads them with a decoder.

    A context is the key of a slot, which starts when it is first met.
    """

    def __init__(
        self,
        coder: RangeEncoder | RangeDecoder,
        shape: Shape,
        light: bool,
        longest: int,
        hint: list[int],
    ) -> None:
        rows, channels, height, width = shape
        columns = list(product(range(channels), range(height), range(width)))
        self._decide = Decisions(coder, light).code
        self._flat = height * width == 1
        self._longest = longest  # bits of a magnitude
        self._hint_of: dict[Hashable, int] = {}  # of a column, 0 to 7
        for i, at in enumerate(columns if hint else ()):
            self._hint_of[at] = min(7, hint[i * len(hint) // len(columns)].bit_length())
        self._rows = {r: _Line() for r in range(rows)}
        self._columns = {at: _Line() for at in columns}
        self._values: dict[_Item, int] = {}  # nonzeros coded so far
        self._slots: dict[Hashable, Slot] = defaultdict(Slot)
        self._zero = Kind(98784247, 2048)
        self._sign = Kind(1 << 31, 8192)
        self._nodes: dict[Hashable, Kind] = defaultdict(lambda: Kind(1 << 31, 8192))

    def run(self, given: Sequence[int], order: int, live: bool) -> list[int]:
        """Code ``given``, row by row; a decoder is given none. Returns all values, row by row."""
        items = zip(product(self._rows, self._columns), given, strict=False)
        nonzeros = {item: value for item, value in items if value}
        rows, columns = list(self._rows), list(self._columns)
        if live:
            rows = self._code_live(rows, {r for r, _ in nonzeros}, lambda r: [r - 1, r - 2])
            columns = self._code_live(columns, {at for _, at in nonzeros}, self._columns_before)
        groups = defaultdict(list)  # of columns that are visited row by row
        for c, h, w in columns:
            groups[(0, (c, h, w), c, (h, w))[order]].append((c, h, w))
        for _, group in sorted(groups.items()):
            for item in product(rows, group):
                value = self._visit(nonzeros.get(item, 0), *item)
                if value:
                    self._values[item] = value
        return [self._values.get(item, 0) for item in product(self._rows, self._columns)]

    def _code_live(
        self, lines: list[_Key], given: set[_Key], before: Callable[[_Key], list[_Key]]
    ) -> list[_Key]:
        """Rows or columns without those that hold nothing but zeros, which the stream says."""
        kind = Kind(1 << 31, 16384)
        slots: dict[Hashable, Slot] = defaultdict(Slot)
        live: set[_Key] = set()
        for at in lines:
            around = tuple(near in live for near in before(at))
            hint = self._hint_of.get(at)
            if self._decide(at in given, kind, [slots["around", around], slots["hint", hint]]):
                live.add(at)
        return [at for at in lines if at in live]

    def _columns_before(self, at: _Column) -> list[_Column]:
        c, h, w = at
        if self._flat:
            return [(c - 1, h, w), (c - 2, h, w)]
        return [(c, h, w - 1), (c, h - 1, w), (c, h - 1, w - 1), (c, h - 1, w + 1)]

    def _known(self, items: Iterable[_Item]) -> list[int]:
        """Values so far; 0 where not yet, and outside."""
        return [self._values.get(item, 0) for item in items]

    def _density_around(self, at: _Column) -> int:
        """Nonzeros of the columns around, eight times as many items as the column has."""
        c, h, w = at
        nonzeros = 0
        for down, right in product((-1, 0, 1), repeat=2):
            if near := self._columns.get((c, h + down, w + right)):
                nonzeros += near.nonzeros if down and right else 2 * near.nonzeros
        return _density(nonzeros, 8 * self._columns[at].items)

    def _visit(self, given: int, r: int, at: _Column) -> int:
        c, h, w = at
        row, column = self._rows[r], self._columns[at]
        row_density = _density(row.nonzeros, row.items)
        column_density = near_density = _density(column.nonzeros, column.items)
        before = [(r, near) for near in self._columns_before(at)]
        beyond = 0
        if self._flat:
            before[1:1] = [(r - 1, at), (r - 2, at)]
        else:
            beyond = sum(v != 0 for v in self._known([(r, (c, h, w - 2)), (r, (c, h - 2, w))]))
            near_density = self._density_around(at)
        near = self._known(before)
        touching = min(3, sum(v != 0 for v in near))
        slots = [
            self._slots["zero around", beyond, tuple(_size(v, 2) for v in near)],
            self._slots["zero density", near_density, row_density],
            row.zero,
            column.zero,
        ]
        if self._hint_of:
            hint = self._hint_of[at]
            slots.append(self._slots["zero hint, row", hint, row_density])
            slots.append(self._slots["zero hint, column", hint, column_density])
        row.items += 1
        column.items += 1
        if not self._decide(given != 0, self._zero, slots, touching, row_density):
            return 0
        slots = [
            self._slots["sign around", tuple(_sign(v) for v in near)],
            row.sign,
            column.sign,
            self._slots["sign last", _sign(row.value), _sign(column.value)],
        ]
        negative = self._decide(given < 0, self._sign, slots, touching, row_density // 4)
        contexts: list[Hashable] = [
            ("around", negative, _size(near[0], 3), _size(near[1], 3)),
            ("row value", negative, _size(row.value, 15)),
            ("row density", negative, row_density),
            ("column density", negative, column_density),
        ]
        magnitude = self._code_magnitude(abs(given), contexts, row.magnitude, row_density // 4)
        value = row.value = column.value = -magnitude if negative else magnitude
        row.nonzeros += 1
        column.nonzeros += 1
        return value

    def _code_magnitude(
        self, given: int, contexts: list[Hashable], first: Slot, density: int
    ) -> int:
        def bit(given: bool, *node: Hashable) -> bool:
            slots = [self._slots[node, context] for context in contexts]
            if node == ("longer than", 1):
                slots.append(first)
            return self._decide(given, self._nodes[node], slots, 0, density)

        length = 1
        while length < self._longest and bit(given.bit_length() > length, "longer than", length):
            length += 1
        magnitude = 1
        for low in reversed(range(length - 1)):
            above = magnitude if magnitude < 4 else None  # known to the first two bits only
            magnitude = 2 * magnitude + bit(given >> low & 1 == 1, "bit", length, low, above)
        return magnitude
