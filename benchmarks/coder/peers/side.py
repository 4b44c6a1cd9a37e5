"""What the benchmark asks of a coder, and the few bytes that make a bare payload a whole stream."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ectorch.bitstream.wire import Cursor, unzigzag, varint, zigzag

ONE_THREAD = (1,)


class UnavailableError(Exception):
    """A side that is installed, but cannot do what is asked."""


@dataclass(frozen=True)
class Side:
    """One coder with one setting; only `encode` and `decode` are timed.

    Attributes:
        prepare: integers of any shape -> the input in the form that the coder takes best, with
            the settings that are best for it.
        encode: (that input, threads) -> a whole stream.
        decode: (stream, threads) -> what the coder gives; nothing else is handed over.
        restore: what it gives -> integers in their shape.
        threads: the numbers of threads that it can be run on.
        version: of what is wrapped.
    """

    prepare: Callable[[np.ndarray], Any]
    encode: Callable[[Any, int], bytes]
    decode: Callable[[bytes, int], Any]
    restore: Callable[[Any], np.ndarray]
    version: str
    threads: tuple[int, ...] = ONE_THREAD


def narrow(symbols: np.ndarray) -> np.ndarray:
    """The same integers as int8 where they fit, else int16."""
    if not symbols.size or (symbols.min() >= -(1 << 7) and symbols.max() < 1 << 7):
        return np.ascontiguousarray(symbols, np.int8)
    if symbols.min() < -(1 << 15) or symbols.max() >= 1 << 15:
        raise ValueError("symbols wider than 16 bits")
    return np.ascontiguousarray(symbols, np.int16)


def versions(*packages: str) -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)


def pack(*numbers: int) -> bytes:
    """Signed integers in as few bytes as they need."""
    return b"".join(varint(zigzag(number)) for number in numbers)


def pack_shape(symbols: np.ndarray) -> bytes:
    return pack(symbols.ndim, *symbols.shape)


def unpack(cursor: Cursor) -> int:
    return unzigzag(cursor.varint())


def unpack_shape(cursor: Cursor) -> tuple[int, ...]:
    return tuple(unpack(cursor) for _ in range(unpack(cursor)))
