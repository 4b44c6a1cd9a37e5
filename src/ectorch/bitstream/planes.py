"""Floats that stay floats, and integers of many values: byte planes, each coded by itself.

The bytes of an item differ in kind: the exponent of a float is skewed, the end of its mantissa is
noise, the upper bytes of an index are constant. So the first bytes of all items are one plane, the
second bytes the next. Before it, an item may give way to its difference to an earlier one, and
the sign may go to the lowest bit, which makes the first plane of a float32 its exponent.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ectorch.bitstream import floats, static
from ectorch.bitstream.tensor import DTYPES, Bits, RawTensor, bits_dtype
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

Plane = npt.NDArray[np.uint8]

_SKETCH_LEVEL = 3  # of zstd, while transforms are compared
_SKETCH_SLACK = 2  # given up past so many times the limit: a higher level will not make it up
_STATIC_HEAD_BYTES = 5  # kind, lowest and highest byte, two bytes of size: what most planes have


class Sign(IntEnum):
    """Where an item's sign bit goes. Ids in the file: never renumber."""

    STAYS = 0
    ROTATED = 1  # to the lowest bit, all others move up by one
    ZIGZAG = 2  # the same, then all others are inverted where it is 1


class PlaneCoding(IntEnum):
    """How one plane is stored. Ids in the file: never renumber."""

    RAW = 0
    CONSTANT = 1
    ZSTD = 2
    STATIC = 3


def encode(tensor: RawTensor, limit: int, level: int | None = None) -> bytes | None:
    """The payload of at least one item, or None where it cannot be shorter than ``limit`` bytes.

    Args:
        level: of zstd, see `ectorch.bitstream.floats.compress`.
    """
    about, distance, sign = min(
        (_sketch_bytes(_transform(tensor.bits, distance, sign)), distance, sign)
        for distance, sign in _transforms(tensor)
    )
    if about >= _SKETCH_SLACK * limit:
        return None
    planes = _split(_transform(tensor.bits, distance, sign))
    plain = [_encode_plain(plane, level) for plane in planes]
    coded_bytes = [_static_bytes(*pair) for pair in zip(planes, plain, strict=True)]
    head = varint(distance << 2 | sign)
    if len(head) + sum(map(min, map(len, plain), coded_bytes)) >= limit:
        return None
    for at, plane in enumerate(planes):
        if coded_bytes[at] < len(plain[at]):
            plain[at] = min(plain[at], _encode_static(plane), key=len)
    return head + b"".join(plain)


def decode(payload: bytes, dtype: str, count: int, what: str) -> Bits:
    """(count,) bit patterns; ``what`` names the tensor in errors.

    Raises:
        FormatError: when the payload does not hold exactly this many items.
    """
    cursor = Cursor(payload, what)
    mode = cursor.varint()
    distance, sign = mode >> 2, mode & 3
    if sign > max(Sign) or distance >= max(count, 1):
        raise FormatError(f"{what}: {count} items by mode {mode}")
    planes = [_decode_plane(cursor, count) for _ in range(DTYPES[dtype])]
    if cursor.remaining:
        raise FormatError(f"{what}: {cursor.remaining} bytes follow the last plane")
    return _restore(_join(planes, count, dtype), distance, Sign(sign))


def _transforms(tensor: RawTensor) -> list[tuple[int, Sign]]:
    """Pairs of distance (0: no difference) and sign that are worth a look."""
    plain = Sign.ZIGZAG if "int" in tensor.dtype else Sign.ROTATED
    row = tensor.shape[-1] if tensor.shape else 1
    distances = [distance for distance in sorted({1, row}) if distance < len(tensor.bits)]
    pairs = [(0, Sign.STAYS), (0, plain)]
    return pairs + [(d, sign) for d in distances for sign in (Sign.STAYS, Sign.ZIGZAG)]


def _transform(bits: Bits, distance: int, sign: Sign) -> Bits:
    if distance:
        bits = np.append(bits[:distance], bits[distance:] - bits[:-distance])
    if sign == Sign.STAYS:
        return bits
    rotated = _rotate(bits, 1)
    return _invert(rotated) if sign == Sign.ZIGZAG else rotated


def _restore(bits: Bits, distance: int, sign: Sign) -> Bits:
    """Inverse of `_transform`."""
    if sign == Sign.ZIGZAG:
        bits = _invert(bits)
    if sign != Sign.STAYS:
        bits = _rotate(bits, 8 * bits.itemsize - 1)
    if distance:
        whole = len(bits) // distance * distance
        rows = bits[:whole].reshape(-1, distance)
        np.cumsum(rows, axis=0, dtype=bits.dtype, out=rows)  # modulo 2^bits
        bits[whole:] += rows[-1, : len(bits) - whole]
    return bits


def _rotate(bits: Bits, places: int) -> Bits:
    """To the left."""
    rotated = bits << places | bits >> (8 * bits.itemsize - places)
    return rotated.astype(bits.dtype, copy=False)


def _invert(bits: np.ndarray) -> Bits:
    """All bits but the lowest are inverted where that is 1; twice is nothing."""
    others = np.array(-2).astype(bits.dtype)
    inverted: Bits = bits ^ (bits & 1) * others
    return inverted


def _split(bits: Bits) -> list[Plane]:
    """Planes of (n,) bytes each, the most significant first."""
    big_endian = bits.astype(bits.dtype.newbyteorder(">"), copy=False)
    return list(np.ascontiguousarray(big_endian.view(np.uint8).reshape(len(bits), -1).T))


def _join(planes: list[Plane], count: int, dtype: str) -> Bits:
    """Inverse of `_split`; always a copy."""
    items = np.empty((count, len(planes)), np.uint8)
    for at, plane in enumerate(planes):
        items[:, at] = plane
    native = bits_dtype(dtype)
    return items.reshape(-1).view(native.newbyteorder(">")).astype(native)


def _sketch_bytes(bits: Bits) -> float:
    """About what `encode` spends on these items."""
    planes = [(plane, _encode_plain(plane, _SKETCH_LEVEL)) for plane in _split(bits)]
    return sum(min(len(plain), _static_bytes(plane, plain)) for plane, plain in planes)


def _encode_plain(plane: Plane, level: int | None) -> bytes:
    """The smallest of all but the static coder."""
    if plane.min() == plane.max():
        return bytes([PlaneCoding.CONSTANT, plane[0]])
    raw = plane.tobytes()
    frame = floats.compress(raw, level)
    raw = bytes([PlaneCoding.RAW]) + raw
    return min(raw, bytes([PlaneCoding.ZSTD]) + varint(len(frame)) + frame, key=len)


def _static_bytes(plane: Plane, plain: bytes) -> float:
    """Estimated bytes of `_encode_static`, at once infinite where ``plain`` is shorter."""
    counts = np.bincount(plane - plane.min())
    if np.count_nonzero(counts) == 1 or static.entropy_bits(counts) >= 8 * len(plain):
        return float("inf")
    return _STATIC_HEAD_BYTES + static.estimate_bits(counts) / 8


def _encode_static(plane: Plane) -> bytes:
    low, high = int(plane.min()), int(plane.max())
    stream = static.encode(plane - low, high - low + 1)
    return bytes([PlaneCoding.STATIC, low, high]) + varint(len(stream)) + stream


def _decode_plane(cursor: Cursor, count: int) -> Plane:
    """(count,) bytes, or (1,) of a constant plane: it takes no memory of its own."""
    coding = cursor.byte()
    if coding == PlaneCoding.RAW:
        return np.frombuffer(cursor.take(count), np.uint8)
    if coding == PlaneCoding.CONSTANT:
        return np.frombuffer(cursor.take(1), np.uint8)
    if coding == PlaneCoding.ZSTD:
        frame = cursor.take(cursor.varint())
        return floats.decode_zstd(frame, "uint8", count, cursor.what).astype(np.uint8, copy=False)
    if coding != PlaneCoding.STATIC:
        raise FormatError(f"{cursor.what}: plane of the unknown coding {coding}")
    low, high = cursor.take(2)
    if low >= high:
        raise FormatError(f"{cursor.what}: plane of the bytes {low} to {high}")
    stream = cursor.take(cursor.varint())
    symbols = static.decode(stream, count, high - low + 1, cursor.what).astype(np.uint8)
    return symbols + np.uint8(low)
