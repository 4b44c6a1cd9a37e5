"""constriction: ``pip install constriction==0.5.0``.

Its range coder and its ANS coder with a `Categorical` model of the tensor's counts, which go
before the payload, a varint a level. The input is (n,) int32 indices from 0. Timed: counting,
table, model and coding; reading the table, model and decoding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from coder.peers.side import Side, pack_shape, unpack_shape, versions
from coder.peers.table import indices, pack_table, unpack_table
from ectorch.bitstream.wire import Cursor

NAMES = ("constriction range", "constriction ans")
INSTALL = "pip install constriction==0.5.0"
_WORD = np.dtype("<u4")
_Prepared = tuple[bytes, int, np.ndarray]
_Decoded = tuple[tuple[int, ...], int, np.ndarray]
_Coder = Callable[[np.ndarray, Any], np.ndarray]


def load() -> dict[str, Side]:
    import constriction

    stream = constriction.stream
    model, queue, stack = stream.model, stream.queue, stream.stack

    def range_encode(symbols: np.ndarray, chances: Any) -> np.ndarray:
        coder = queue.RangeEncoder()
        coder.encode(symbols, chances)
        return coder.get_compressed()

    def ans_encode(symbols: np.ndarray, chances: Any) -> np.ndarray:
        coder = stack.AnsCoder()
        coder.encode_reverse(symbols, chances)
        return coder.get_compressed()

    def side(code: _Coder, decoder: type) -> Side:
        def encode(prepared: _Prepared, threads: int) -> bytes:
            shape, lowest, symbols = prepared
            counts = np.bincount(symbols).tolist()
            head = shape + pack_table(lowest, counts)
            if len(counts) == 1:
                return head
            words = code(symbols, model.Categorical(np.array(counts, float), perfect=False))
            return head + words.astype(_WORD).tobytes()

        def decode(data: bytes, threads: int) -> _Decoded:
            cursor = Cursor(data, "stream")
            shape = unpack_shape(cursor)
            lowest, counts = unpack_table(cursor)
            size = math.prod(shape)
            if len(counts) == 1:
                return shape, lowest, np.zeros(size, np.int32)
            words = np.frombuffer(cursor.rest(), _WORD).astype(np.uint32)
            chances = model.Categorical(np.array(counts, float), perfect=False)
            return shape, lowest, decoder(words).decode(chances, size)

        return Side(_prepare, encode, decode, _restore, versions("constriction"))

    sides = side(range_encode, queue.RangeDecoder), side(ans_encode, stack.AnsCoder)
    return dict(zip(NAMES, sides, strict=True))


def _prepare(symbols: np.ndarray) -> _Prepared:
    return pack_shape(symbols), *indices(symbols)


def _restore(decoded: _Decoded) -> np.ndarray:
    shape, lowest, symbols = decoded
    return (symbols + lowest).reshape(shape)
