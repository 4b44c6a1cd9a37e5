"""Binary decisions, each predicted from several contexts: how `context_model` codes a symbol.

Each context has an adaptive probability. They are mixed, as logarithms of odds, by weights that
learn, as in the PAQ compressors (M. Mahoney, 2005); the mix is refined by what came of such mixes
before, and `range_coder` codes the decision. Integers only; a decoder learns as its encoder did.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from operator import mul

from ectorch.bitstream.plain.range_coder import RangeDecoder, RangeEncoder

_MAX_STRETCH = 3071  # 256 a nat
_CELLS = 25  # of a refinement, 256 apart
_MOST_MET = 1023  # of a slot
_MAX_INPUTS = 6
_MAX_WEIGHT = 1 << 24

# 65536 / (1 + exp(12 - k / 2)); the other half by symmetry
_HALF = [0, 1, 1, 2, 3, 5, 8, 13, 22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921]
_HALF += [3108, 4971, 7812, 11955, 17625, 24743, 32768]
_KNOTS = _HALF + [65536 - p for p in reversed(_HALF[:-1])]


def clamp(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def _between_knots(x: int) -> int:
    k, rest = divmod(x + _MAX_STRETCH + 1, 128)
    return clamp(_KNOTS[k] * (128 - rest) + _KNOTS[k + 1] * rest + 64 >> 7, 1, 65535)


_SQUASH = [_between_knots(x) for x in range(-_MAX_STRETCH, _MAX_STRETCH + 1)]


def _squash(x: int) -> int:
    """The probability, of 2**16, that has ``x`` as the logarithm of its odds."""
    return _SQUASH[clamp(x, -_MAX_STRETCH, _MAX_STRETCH) + _MAX_STRETCH]


def _stretch(p: int) -> int:
    """Inverse of `_squash`."""
    return bisect_left(_SQUASH, p) - _MAX_STRETCH


@dataclass(slots=True)
class Slot:
    """An adaptive probability of a 1, of 2**32, and how often it was met."""

    p: int = 0
    n: int = 0

    def update(self, bit: bool) -> None:
        way = (0xFFFFFFFF if bit else 0) - self.p
        self.p += way * (131072 // (2 * self.n + 3)) >> 16  # the floor of a negative way, too
        self.n = min(self.n + 1, _MOST_MET)


class Kind:
    """One kind of decision: its own probability, and the mixers and refinements to select from."""

    def __init__(self, p: int, weight: int) -> None:
        starts = [_squash(256 * i - _MAX_STRETCH - 1) << 16 for i in range(_CELLS)]
        self.own = Slot(p, 2)
        self.mixers: dict[Hashable, list[int]] = defaultdict(  # weights of 2**16, own's first
            lambda: [weight] * (1 + _MAX_INPUTS)
        )
        self.refinements: dict[Hashable, list[Slot]] = defaultdict(
            lambda: [Slot(start, 2) for start in starts]
        )


class Decisions:
    """Codes decisions with an encoder, or reads them with a decoder.

    A light one takes the mean of the first two contexts instead of the mix.
    """

    def __init__(self, coder: RangeEncoder | RangeDecoder, light: bool) -> None:
        self._coder = coder
        self._light = light

    def code(
        self, bit: bool, kind: Kind, slots: list[Slot], first: int = 0, second: int = 0
    ) -> bool:
        """Code ``bit``, of which a decoder takes no notice, and return it.

        Args:
            slots: of the contexts, at most six; a slot that was never met starts like its kind.
            first, second: each selects a mixer and a refinement; the mean of both counts.
        """
        if self._light:
            slots = slots[:2]
        for slot in slots:
            if slot.n == 0:
                slot.p = kind.own.p
        if self._light:
            p = sum(slot.p >> 17 for slot in slots)
            bit = self._coder.code(bit, clamp(p, 1, 65535))
        else:
            bit = self._mix(bit, kind, slots, [(0, first), (1, second)])
        for slot in (kind.own, *slots):
            slot.update(bit)
        return bit

    def _mix(
        self, bit: bool, kind: Kind, slots: list[Slot], selected: list[tuple[int, int]]
    ) -> bool:
        mixers = [kind.mixers[context] for context in selected]
        refinements = [kind.refinements[context] for context in selected]
        stretched = [_stretch(slot.p >> 16) for slot in (kind.own, *slots)]
        mixed = [sum(map(mul, weights, stretched)) >> 16 for weights in mixers]
        x = clamp(sum(mixed) >> 1, -_MAX_STRETCH, _MAX_STRETCH)
        cell, rest = divmod(x + _MAX_STRETCH + 1, 256)
        p = 2 * _squash(x)
        for cells in refinements:  # half of the mean is the mix itself
            low, high = cells[cell].p >> 16, cells[cell + 1].p >> 16
            p += low * (256 - rest) + high * rest >> 8
        bit = self._coder.code(bit, clamp(p + 2 >> 2, 1, 65535))
        for weights, guess in zip(mixers, mixed, strict=True):
            missed = (65536 if bit else 0) - _squash(guess)
            step = missed * (256 + 65536 // (kind.own.n + 64))
            for i, s in enumerate(stretched):
                weights[i] = clamp(weights[i] + (s * step >> 24), -_MAX_WEIGHT, _MAX_WEIGHT)
        for cells in refinements:
            cells[cell + (rest >= 128)].update(bit)
        return bit
