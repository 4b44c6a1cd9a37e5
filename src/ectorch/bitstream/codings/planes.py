"""Floats that stay floats, and integers of many values: byte planes, each coded by itself.

The bytes of an item differ in kind: the exponent of a float is skewed, the end of its mantissa is
noise, the upper bytes of an index are constant. So the first bytes of all items are one plane, the
second bytes the next. Before it, an item may give way to its difference to an earlier one, and
the sign may go to the lowest bit, which makes the first plane of a float32 its exponent.
"""

from __future__ import annotations

import io
import sys
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ectorch.bitstream.codings import floats, static
from ectorch.bitstream.tensor import Bits, RawTensor, bits_dtype
from ectorch.bitstream.wire import Cursor, varint
from ectorch.errors import FormatError

Plane = npt.NDArray[np.uint8]
_Coded = tuple[bytes, bytes | memoryview]  # the head of a plane, what follows it

_SKETCH_LEVEL = 3  # of zstd, while transforms are compared
_SKETCH_SLACK = 2  # given up past so many times the limit: a higher level will not make it up
_SKETCH_ITEMS = 1 << 20  # of the middle, that transforms are compared by
_QUICK_SKETCH_SLACK, _QUICK_SKETCH_ITEMS = 1.25, 1 << 16  # the same where time counts
_BLOCK_ITEMS = 1 << 18  # that are worked on at once: temporaries stay small
_LEAST_PLANE_BYTES = 2  # of a constant one
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


def encode(
    tensor: RawTensor, limit: int, level: int | None = None, thorough: bool = True
) -> bytes | None:
    """The payload of at least one item, or None where it cannot be shorter than ``limit`` bytes.

    Args:
        level, thorough: of zstd, see `ectorch.bitstream.codings.floats.compress`; what is not
            thorough compares transforms by fewer items, too.
    """
    bits = tensor.bits
    if limit <= 1 + _LEAST_PLANE_BYTES * bits.itemsize:
        return None
    items = _SKETCH_ITEMS if thorough else _QUICK_SKETCH_ITEMS
    first = max(0, (len(bits) - items) // 2)
    sample = bits[first : first + items]
    about, distance, sign = min(
        (_sketch_bytes(sample, distance, sign, thorough), distance, sign)
        for distance, sign in _transforms(tensor)
    )
    slack = _SKETCH_SLACK if thorough else _QUICK_SKETCH_SLACK
    if about * len(bits) / len(sample) >= slack * limit:
        return None
    out = io.BytesIO()
    size: float = out.write(varint(distance << 2 | sign))
    for place in reversed(range(bits.itemsize)):
        plane = _plane(bits, distance, sign, place)
        coded = _encode_plain(plane, level, thorough)
        static_bytes = _static_bytes(plane, _size(coded))
        size += min(_size(coded), static_bytes)
        if size >= limit:
            return None
        if static_bytes < _size(coded):
            coded = min(coded, _encode_static(plane), key=_size)
        out.writelines(coded)
    return out.getvalue()


def decode(
    payload: bytes | memoryview, dtype: str, count: int, what: str, items: range | None = None
) -> Bits:
    """(count,) bit patterns, or those of ``items``; ``what`` names the tensor in errors.

    Nothing after ``items`` is decoded; what is before them only where differences add up, or a
    plane is one stream.

    Raises:
        FormatError: when the payload does not hold exactly this many items.
    """
    items = range(count) if items is None else items
    cursor = Cursor(payload, what)
    mode = cursor.varint()
    distance, sign = mode >> 2, mode & 3
    if sign > max(Sign) or distance >= max(count, 1):
        raise FormatError(f"{what}: {count} items by mode {mode}")
    first = 0 if distance else items.start
    bits = np.empty(items.stop - first, bits_dtype(dtype))
    columns = bits.view(np.uint8).reshape(len(bits), bits.itemsize)
    for column in columns.T[:: -1 if sys.byteorder == "little" else 1]:
        _decode_plane(cursor, count, range(first, items.stop), column)
    if cursor.remaining:
        raise FormatError(f"{what}: {cursor.remaining} bytes follow the last plane")
    return _restore(bits, distance, Sign(sign))[items.start - first :]


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
    """Inverse of `_transform`, in place."""
    for start in range(0, len(bits) if sign != Sign.STAYS else 0, _BLOCK_ITEMS):
        part = bits[start : start + _BLOCK_ITEMS]
        part[:] = _rotate(_invert(part) if sign == Sign.ZIGZAG else part, 8 * bits.itemsize - 1)
    if 0 < distance < len(bits):
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


def _plane(bits: Bits, distance: int, sign: Sign, place: int) -> Plane:
    """(n,) bytes of the transformed items, 0 the least significant."""
    plane = np.empty(len(bits), np.uint8)
    for start in range(0, len(bits), _BLOCK_ITEMS):
        before = max(0, start - distance)
        part = _transform(bits[before : start + _BLOCK_ITEMS], distance, sign)[start - before :]
        plane[start : start + _BLOCK_ITEMS] = (part >> 8 * place).astype(np.uint8)
    return plane


def _sketch_bytes(bits: Bits, distance: int, sign: Sign, thorough: bool) -> float:
    """About what `encode` spends on these items."""
    price = _static_bytes if thorough else _about_static_bytes
    transformed = _transform(bits, distance, sign)
    planes = [_plane(transformed, 0, Sign.STAYS, place) for place in range(bits.itemsize)]
    plain = [_size(_encode_plain(plane, _SKETCH_LEVEL, True)) for plane in planes]
    return sum(min(size, price(plane, size)) for plane, size in zip(planes, plain, strict=True))


def _size(coded: _Coded) -> int:
    return len(coded[0]) + len(coded[1])


def _encode_plain(plane: Plane, level: int | None, thorough: bool) -> _Coded:
    """The smallest of all but the static coder."""
    if plane.min() == plane.max():
        return bytes([PlaneCoding.CONSTANT]), bytes([plane[0]])
    raw: _Coded = bytes([PlaneCoding.RAW]), plane.data
    if _size(raw) <= floats.LEAST_FRAME_BYTES:
        return raw
    frame = floats.compress(plane.data, level, thorough)
    return min(raw, (bytes([PlaneCoding.ZSTD]) + varint(len(frame)), frame), key=_size)


def _static_bytes(plane: Plane, most: int) -> float:
    """Estimated bytes of `_encode_static`, at once infinite where they are ``most`` or more."""
    table_bits = static.least_table_bits(int(plane.max()) - int(plane.min()) + 1)
    if _STATIC_HEAD_BYTES + table_bits / 8 >= most:
        return float("inf")
    counts = np.trim_zeros(static.count(plane, 256))
    if np.count_nonzero(counts) == 1 or static.entropy_bits(counts) >= 8 * most:
        return float("inf")
    return _STATIC_HEAD_BYTES + static.estimate_bits(counts) / 8


def _about_static_bytes(plane: Plane, most: int) -> float:
    """The same without a look for the best table."""
    counts = static.count(plane, 256)
    table_bits = static.least_table_bits(int(plane.max()) - int(plane.min()) + 1)
    return _STATIC_HEAD_BYTES + (table_bits + static.entropy_bits(counts)) / 8


def _encode_static(plane: Plane) -> _Coded:
    low, high = int(plane.min()), int(plane.max())
    stream = static.encode(plane - np.uint8(low), high - low + 1)
    return bytes([PlaneCoding.STATIC, low, high]) + varint(len(stream)), stream


def _decode_plane(cursor: Cursor, count: int, items: range, out: Plane) -> None:
    """Fill ``out`` with ``items`` of the ``count`` bytes of the next plane."""
    coding = cursor.byte()
    whole = items.stop == count
    if coding == PlaneCoding.RAW:
        out[:] = np.frombuffer(cursor.view(count), np.uint8)[items.start : items.stop]
    elif coding == PlaneCoding.CONSTANT:
        out[:] = cursor.byte()
    elif coding == PlaneCoding.ZSTD:
        frame = cursor.view(cursor.varint())
        plane = np.empty(items.stop, np.uint8) if items.start else out
        floats.decode_zstd_into(frame, plane, cursor.what, whole)
        out[:] = plane[items.start :]
    elif coding == PlaneCoding.STATIC:
        low, high = cursor.take(2)
        if low >= high:
            raise FormatError(f"{cursor.what}: plane of the bytes {low} to {high}")
        stream = cursor.view(cursor.varint())
        plane = np.empty(items.stop, np.uint8)
        static.decode_into(stream, plane, high - low + 1, cursor.what, whole)
        np.add(plane[items.start :], np.uint8(low), out=out)
    else:
        raise FormatError(f"{cursor.what}: plane of the unknown coding {coding}")
