"""Byte-wise range coder on integer frequencies: plain Python, integers only.

A range coder (G. N. N. Martin, 1979) narrows an interval of 48 bits by the share of each coded
symbol and ships its leading byte whenever that byte is settled. Frequencies sum to a power of
two, so nothing floating point decides what a decoder does and every machine reads the same bytes.
FORMAT.md gives the decoder in eight lines.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from ectorch.bitstream.native import DamagedStream

STATE_BITS = 48
_STATE_MASK = (1 << STATE_BITS) - 1
_SETTLED_SHIFT = STATE_BITS - 8
_MIN_RANGE = 1 << _SETTLED_SHIFT
_PROBABILITY_BITS = 16  # of a binary decision


class RangeEncoder:
    """Codes symbols front to back; `finish` returns the bytes without trailing zeros."""

    def __init__(self) -> None:
        self._low = 0
        self._range = _STATE_MASK
        self._out = bytearray()

    def encode(self, start: int, frequency: int, scale_bits: int) -> None:
        """Code the symbol that owns ``[start, start + frequency)`` of ``2**scale_bits``."""
        unit = self._range >> scale_bits
        self._low += start * unit
        self._range = frequency * unit
        while self._range < _MIN_RANGE:
            self._ship()

    def encode_uniform(self, value: int, bits: int) -> None:
        """Code an integer of ``bits`` bits, all values equally likely."""
        self.encode(value, 1, bits)

    def code(self, bit: bool, one: int) -> bool:
        """Code a decision that is 1 with probability ``one``, 1 to 2**16 - 1, and return it."""
        bound = (self._range >> _PROBABILITY_BITS) * one
        if bit:
            self._range = bound
        else:
            self._low += bound
            self._range -= bound
        while self._range < _MIN_RANGE:
            self._ship()
        return bit

    def encode_symbols(
        self, symbols: Sequence[int], frequencies: Sequence[int], scale_bits: int
    ) -> None:
        """Code ``symbols`` (indices into ``frequencies``, which sum to ``2**scale_bits``)."""
        starts = [0, *accumulate(frequencies)]
        low, width = self._low, self._range
        for symbol in symbols:
            unit = width >> scale_bits
            low += starts[symbol] * unit
            width = frequencies[symbol] * unit
            if width < _MIN_RANGE:
                self._low, self._range = low, width
                while self._range < _MIN_RANGE:
                    self._ship()
                low, width = self._low, self._range
        self._low, self._range = low, width

    def finish(self) -> bytes:
        """The shortest bytes that decode to what was coded; a decoder reads zeros after them."""
        end = self._low + self._range
        for kept in range(STATE_BITS, -1, -8):  # as many trailing zero bytes as the interval allows
            value = -(-self._low >> kept) << kept
            if value < end:
                break
        self._low, self._range = value, 1
        for _ in range(STATE_BITS // 8):
            self._ship()
        return bytes(self._out.rstrip(b"\0"))

    def _ship(self) -> None:
        if self._low > _STATE_MASK:
            self._carry()
        self._out.append(self._low >> _SETTLED_SHIFT)
        self._low = (self._low << 8) & _STATE_MASK
        self._range <<= 8

    def _carry(self) -> None:
        at = len(self._out) - 1
        while self._out[at] == 0xFF:
            self._out[at] = 0
            at -= 1
        self._out[at] += 1
        self._low &= _STATE_MASK


class RangeDecoder:
    """Mirror of `RangeEncoder`; past the end of ``data`` it reads zeros.

    Raises:
        DamagedStream: when the stream cannot come from a `RangeEncoder`.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = data = bytes(data)
        self._at = STATE_BITS // 8
        self._code = int.from_bytes(data[: self._at].ljust(self._at, b"\0"), "big")
        self._range = _STATE_MASK
        if self._code >= self._range:
            raise _outside()

    @property
    def exhausted(self) -> bool:
        """Whether every byte was needed; a longer stream holds bytes that nobody coded."""
        return self._at >= len(self._data)

    def decode_uniform(self, bits: int) -> int:
        """Read an integer of ``bits`` bits."""
        unit = self._range >> bits
        value = self._code // unit
        if value >> bits:
            raise _outside()
        self._code -= value * unit
        self._range = unit
        self._refill()
        return value

    def code(self, bit: bool, one: int) -> bool:
        """Read a decision as the encoder's method of this name wrote it, whatever ``bit`` is."""
        bound = (self._range >> _PROBABILITY_BITS) * one
        bit = self._code < bound
        if bit:
            self._range = bound
        else:
            self._code -= bound
            self._range -= bound
        self._refill()
        return bit

    def decode_symbols(self, count: int, frequencies: Sequence[int], scale_bits: int) -> array[int]:
        """Read ``count`` symbols coded with ``frequencies``, which sum to ``2**scale_bits``.

        Two bytes a symbol: hostile counts take no more memory than the tensor they declare.
        """
        starts = [0, *accumulate(frequencies)]
        last = (1 << scale_bits) - 1
        data, at, code, width = self._data, self._at, self._code, self._range
        end = len(data)
        out = array("H")
        for _ in range(count):
            unit = width >> scale_bits
            target = code // unit
            if target > last:
                raise _outside()
            symbol = bisect_right(starts, target) - 1
            out.append(symbol)
            code -= starts[symbol] * unit
            width = frequencies[symbol] * unit
            while width < _MIN_RANGE:
                code = (code << 8) | (data[at] if at < end else 0)
                width <<= 8
                at += 1
        self._at, self._code, self._range = at, code, width
        return out

    def _refill(self) -> None:
        while self._range < _MIN_RANGE:
            byte = self._data[self._at] if self._at < len(self._data) else 0
            self._code = (self._code << 8) | byte
            self._range <<= 8
            self._at += 1


def _outside() -> DamagedStream:
    return DamagedStream("range-coded stream is outside of the coded interval")
