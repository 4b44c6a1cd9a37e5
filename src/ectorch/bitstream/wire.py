"""Bytes of the header: variable-length integers, and a cursor that never reads past its end."""

from __future__ import annotations

from ectorch.errors import FormatError

_MAX_VARINT_BYTES = 9  # 63 bits: every length, dimension and count fits an int64


def varint(value: int) -> bytes:
    """LEB128: seven bits a byte, least significant first, the high bit says that more follow.

    >>> varint(300).hex()
    'ac02'
    """
    if not 0 <= value < 1 << 63:
        raise ValueError(f"varint takes 0 <= value < 2**63, got {value}")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def zigzag(value: int) -> int:
    """Map 0, -1, 1, -2, ... to 0, 1, 2, 3, ...

    >>> [zigzag(v) for v in (0, -1, 1, -2)]
    [0, 1, 2, 3]
    """
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(value: int) -> int:
    """Inverse of `zigzag`."""
    return value >> 1 if value & 1 == 0 else -((value + 1) >> 1)


class Cursor:
    """Reads `data` from front to back; ``what`` names the thing in errors.

    Raises:
        FormatError: on any read past the end and on a varint that is too long or not minimal.
    """

    def __init__(self, data: bytes | memoryview, what: str) -> None:
        self._data = memoryview(data)
        self._at = 0
        self.what = what

    @property
    def remaining(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        return bytes(self.view(count))

    def view(self, count: int) -> memoryview:
        """What `take` copies."""
        if count > self.remaining:
            raise FormatError(
                f"{self.what}: {count} bytes expected at byte {self._at}, {self.remaining} left"
            )
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        if not self.remaining:
            self.take(1)  # says so
        self._at += 1
        return self._data[self._at - 1]

    def varint(self) -> int:
        value = self.byte()
        if value < 0x80:  # most are
            return value
        value &= 0x7F
        for position in range(1, _MAX_VARINT_BYTES):
            byte = self.byte()
            value |= (byte & 0x7F) << (7 * position)
            if byte < 0x80:
                if byte == 0:
                    raise FormatError(f"{self.what}: integer with a needless last byte")
                return value
        raise FormatError(f"{self.what}: integer longer than {_MAX_VARINT_BYTES} bytes")

    def rest(self) -> bytes:
        return self.take(self.remaining)
