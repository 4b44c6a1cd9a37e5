"""A side from a general compressor of bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from coder.peers.side import Side, narrow, pack, pack_shape, unpack, unpack_shape
from ectorch.bitstream.wire import Cursor

_Decoded = tuple[tuple[int, ...], int, bytes]


def byte_side(
    compress: Callable[[bytes], bytes], decompress: Callable[[bytes], bytes], version: str
) -> Side:
    def encode(prepared: tuple[bytes, bytes], threads: int) -> bytes:
        head, items = prepared
        return head + compress(items)

    def decode(data: bytes, threads: int) -> _Decoded:
        cursor = Cursor(data, "stream")
        return unpack_shape(cursor), unpack(cursor), decompress(cursor.rest())

    return Side(_prepare, encode, decode, _restore, version)


def _prepare(symbols: np.ndarray) -> tuple[bytes, bytes]:
    items = narrow(symbols)
    little = items.astype(items.dtype.newbyteorder("<"), copy=False)
    return pack_shape(symbols) + pack(items.itemsize), little.tobytes()


def _restore(decoded: _Decoded) -> np.ndarray:
    shape, width, items = decoded
    return np.frombuffer(items, f"<i{width}").reshape(shape)
