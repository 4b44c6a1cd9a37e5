"""Calls one function of the compiled module with arguments that nobody should give; run by a test.

``python hostile_calls.py FUNCTION CALLS``: ends badly on a crash, on another exception than those
that callers expect, and where an array was taken that the function cannot read or write in place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from ectorch.bitstream import native

Rng = np.random.Generator
SIZES = (0, 1, 2, 3, 7, 128, 129, 300)
NUMBERS = (-1, 0, 1, 2, 3, 5, 16, 17, 24, 25, 255, 65535, 65536, 65537, 1 << 31, (1 << 64) - 1)
DTYPES = ("u1", "u2", "u4", "u8", "i2", "i4", "i8", "f4", ">u2", ">u4", "?", "O")
ARRAYS = {
    "symbols": "u2",
    "frequencies": "u4",
    "counts": "u8",
    "slots": "u8",
    "hint": "u4",
    "out": "u2",
    "bits": "u2",
    "table": "u2",
}
SEVERAL_WIDTHS = ("static_decode", "find_distinct", "take")
FUNCTIONS = {
    "static_encode": ("symbols", "frequencies", "number"),
    "static_decode": ("data", "symbols", "number", "flag"),
    "decode_table": ("data", "frequencies"),
    "count_symbols": ("symbols", "counts"),
    "count_runs": ("symbols", "number", "counts"),
    "rans_encode_dense": ("symbols", "frequencies", "number"),
    "rans_decode_dense": ("data", "slots", "symbols"),
    "rans_encode_runs": ("symbols", "number", "frequencies", "number", "frequencies", "number"),
    "rans_decode_runs": ("data", "number", "number", "slots", "slots", "symbols"),
    "context_encode": ("symbols", "shape", "number", "flag", "flag", "number", "number", "hint"),
    "context_decode": (
        *("data", "symbols", "shape", "number", "flag", "flag", "number", "number", "hint"),
    ),
    "find_distinct": ("bits", "number", "symbols"),
    "take": ("table", "symbols", "out"),
}


def frequencies_of(rng: Rng, size: int) -> np.ndarray:
    """Most sum to a power of two, some of them are 0."""
    found = rng.integers(0, 4, size)
    rest = (1 << int(found.sum()).bit_length()) - int(found.sum())
    found[:1] += rest if rng.random() < 0.8 else 0
    return found


def array(rng: Rng, kind: str) -> np.ndarray:
    """Three of four have the right dtype and stride."""
    size = int(rng.choice(SIZES))
    values = frequencies_of(rng, size) if kind == "frequencies" else rng.integers(0, 5, size)
    if rng.random() < 0.2:
        values = rng.integers(0, 1 << 62, size)
    odd = rng.random()
    if odd < 0.75:
        return values.astype(ARRAYS[kind])
    if odd < 0.85:
        return values.astype(str(rng.choice(DTYPES)))
    found = np.repeat(values.astype(ARRAYS[kind]), 2)[::2]
    return found if odd < 0.92 else np.broadcast_to(found[:1], (size,)) if size else found[::-1]


def number(rng: Rng) -> object:
    few = int(rng.integers(0, 9))
    return few if rng.random() < 0.6 else int(NUMBERS[rng.integers(len(NUMBERS))])


def argument(rng: Rng, kind: str, before: list[object]) -> object:
    if kind == "data":
        return rng.bytes(int(rng.choice(SIZES)))
    if kind == "flag":
        return bool(rng.integers(2))
    if kind == "number":
        return number(rng)
    if kind == "shape":
        fitting = (len(before[-1]), 1, 1, 1)  # the symbols came before
        return fitting if rng.random() < 0.7 else tuple(number(rng) for _ in range(4))
    again = [one for one in before if isinstance(one, np.ndarray) and one.dtype == ARRAYS[kind]]
    if again and rng.random() < 0.1:
        return again[0][int(rng.integers(2)) :]
    return array(rng, kind)


def main(name: str, calls: int) -> None:
    function: Callable[..., object] = getattr(native.module, name)
    rng = np.random.default_rng(sum(name.encode()))
    for _ in range(calls):
        given: list[object] = []
        for kind in FUNCTIONS[name]:
            given.append(argument(rng, kind, given))
        try:
            function(*given)
        except (TypeError, ValueError):  # a damaged stream is a ValueError
            continue
        for kind, one in zip(FUNCTIONS[name], given, strict=True):
            if kind in ARRAYS:
                widths = name in SEVERAL_WIDTHS and one.dtype.kind == "u"
                assert one.dtype == ARRAYS[kind] or widths, (name, kind, one.dtype)
                assert one.flags.c_contiguous, (name, kind, one.strides)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
