"""A frequency table, for coders that leave it to their caller: one varint a level."""

from __future__ import annotations

import numpy as np

from coder.peers.side import pack, unpack
from ectorch.bitstream.wire import Cursor, varint


def indices(symbols: np.ndarray) -> tuple[int, np.ndarray]:
    """The lowest integer, and (n,) int32 distances from it."""
    lowest = int(symbols.min())
    return lowest, (symbols.ravel().astype(np.int64) - lowest).astype(np.int32)


def pack_table(lowest: int, frequencies: list[int]) -> bytes:
    """Level 0 stands for the integer ``lowest``, level 1 for the next."""
    return pack(lowest) + varint(len(frequencies)) + b"".join(map(varint, frequencies))


def unpack_table(cursor: Cursor) -> tuple[int, list[int]]:
    lowest = unpack(cursor)
    return lowest, [cursor.varint() for _ in range(cursor.varint())]
