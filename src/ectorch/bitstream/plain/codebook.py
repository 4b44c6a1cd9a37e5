"""Distinct bit patterns of a tensor, and where each item stands among them."""

from __future__ import annotations

import numpy as np

from ectorch.bitstream.native import MAX_LEVELS


def find_distinct(bits: np.ndarray, most: int, symbols: np.ndarray) -> bytes | None:
    """Sorted distinct patterns of (n,) ``bits``, whose places (n,) uint16 ``symbols`` become.

    Returns:
        the patterns' bytes, or None where there are more than ``most``: symbols mean nothing then.
    """
    if len(symbols) != len(bits):
        raise ValueError("bits and symbols differ")
    if not 1 <= most <= MAX_LEVELS:
        raise ValueError("most other than 1 to 65536")
    if len(np.unique(bits[: 4 * most])) > most:  # spares a sort of all of them
        return None
    patterns, places = np.unique(bits, return_inverse=True)
    if len(patterns) > most:
        return None
    symbols[:] = places
    return patterns.tobytes()


def take(table: np.ndarray, symbols: np.ndarray, out: np.ndarray) -> None:
    """Fill (n,) ``out``, which may be ``symbols``, with ``table[symbols]``."""
    if len(symbols) != len(out):
        raise ValueError("symbols and out differ")
    try:
        out[:] = table[symbols]
    except IndexError:
        raise ValueError("a symbol beyond the table") from None
