"""How a tensor is coded: of the payloads that a preset tries, the smallest is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

from ectorch.bitstream.codings import context, floats, planes, rans, sample, static
from ectorch.bitstream.codings.codebook import find_codebook
from ectorch.bitstream.codings.context import Alphabet, Layout
from ectorch.bitstream.codings.decode import SYMBOLS, Coding, layout_of
from ectorch.bitstream.parallel import Map
from ectorch.bitstream.tensor import RawTensor

_MANY_ITEMS = 1 << 14  # fewer gain nothing by rANS
_SAMPLE_ITEMS = 1 << 18
_SMALL_ITEMS, _SMALL_SYMBOLS_BYTES = 1 << 19, 1 << 15  # everything is tried on no larger tensors
_LIGHT_SHARE = 0.999  # of static bytes: it takes several times as long, and gains on the way
_QUICK_ZSTD_LEVEL = 3
_CHANGED_SHARE = 0.05  # of order-0 bytes, since it was looked for how to code a tensor
_MANY_SHARE = 1 / 3  # of a tensor's bytes that its symbols take: byte planes may take fewer


class Preset(str, Enum):
    """How much time a file may take to become smaller."""

    SMALL = "small"  # everything is tried, on large tensors what samples let win
    BALANCED = "balanced"  # the light context model, or static
    FAST = "fast"  # static


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

    def fits(self, order0_bytes: float, hints: Mapping[int, np.ndarray]) -> bool:
        """Whether a tensor has changed so little since that the choice is likely to be the same."""
        if self.layout is not None and self.layout.hint not in {None, *hints}:
            return False
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
    if earlier is not None and earlier.fits(order0_bytes, around.hints):
        for coding, payload in _encode_again(tensor, symbols, earlier, around):
            best.offer(coding, payload)
        if best.payload is not None:
            return Coded(best.coding, best.payload, earlier)
    best.offer(Coding.HALF, floats.encode_half(tensor))
    if symbols is None:
        thorough = around.preset is not Preset.SMALL or tensor.bits.nbytes <= floats.SMALL_BYTES
        _encode_bytes(best, tensor, around.preset, False, thorough)
    else:
        _encode_symbols(best, symbols, tensor, around)
        del symbols  # they are large
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
    if symbols is not None and coding in SYMBOLS:
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


def _encode_symbols(
    best: _Best, symbols: _Symbols, tensor: RawTensor, around: Surroundings
) -> None:
    """Offer what few values may be coded in; on large tensors the context coder comes last."""
    if not symbols.are_many:
        for coding, payload in symbols.encode_statically(around):
            best.offer(coding, payload)
    quick = around.preset is Preset.SMALL and not symbols.are_small
    if quick:
        _encode_bytes(best, tensor, around.preset, True, False)
    if not symbols.are_many and symbols.have_contexts and around.preset is not Preset.FAST:
        layout = _find_layout(symbols, around, best.size - len(symbols.head))
        if layout is not None:
            best.offer(Coding.CONTEXT, symbols.encode_in_context(layout, around))
    if not quick:
        _encode_bytes(best, tensor, around.preset, True, True)


def _find_layout(symbols: _Symbols, around: Surroundings, most: int) -> Layout | None:
    """The layout for the context coder; None where it is likely to take ``most`` bytes or more."""
    given = symbols.symbols, symbols.shape, symbols.alphabet
    if around.preset is Preset.BALANCED:
        layout = Layout(live=True, light=True)
        return layout if _is_worth(*given, layout) else None
    if symbols.are_small:
        return context.search(*given, around.hints)[0]
    return sample.find_layout(*given, around.hints, symbols.counts, most) if most > 0 else None


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
