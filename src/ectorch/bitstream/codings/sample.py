"""Whether the context coder can win on a large tensor, and how it is laid out: what samples tell.

A sample is whole rows from several places, put below one another: it is coded as a tensor of its
own, and compared with what the same symbols take in the static stream of the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ectorch.bitstream.codings import context
from ectorch.bitstream.codings.context import Alphabet, Layout

_ASKED_SHARE, _ASKED_BYTES = 1 / 64, 1 << 14  # of the static stream: can the context coder win?
_SEARCHED_SHARE, _SEARCHED_BYTES = 1 / 16, 1 << 16  # the same: in which layout?
_MOST_ITEMS = 1 << 22
_PLACES = 8
_PLACE_ROWS = 4  # at least, where rows are many: a row is predicted from the two above
_ASKED_LAYOUTS = Layout(), Layout(order=1)


def find_layout(
    symbols: np.ndarray,
    shape: Sequence[int],
    alphabet: Alphabet,
    hints: Mapping[int, np.ndarray],
    counts: np.ndarray,
    static_bytes: int,
) -> Layout | None:
    """The layout that codes a sample in the fewest bytes; None where none gains on a smaller one.

    Args:
        symbols, shape, alphabet, hints: as of `ectorch.bitstream.codings.context.encode`.
        counts: (levels,) how often each symbol occurs.
        static_bytes: that they take without a context.
    """
    table = symbols.reshape(shape[0] if shape else 1, -1)
    live = _has_empty_lines(table, alphabet.zero, counts)
    with np.errstate(divide="ignore"):
        lengths = np.log2(len(symbols) / counts.astype(np.float64))  # inf where nothing is
    scale = 8 * static_bytes / float(counts[counts > 0] @ lengths[counts > 0])

    def gains(layout: Layout) -> bool:
        coded = context.encode(sample.reshape(-1), of, alphabet, replace(layout, live=live), {})
        return len(coded) < static

    sample = _rows_of(table, static_bytes, _ASKED_SHARE, _ASKED_BYTES)
    of = (len(sample), *shape[1:])
    static = scale * float(lengths[sample].sum()) / 8
    if not any(map(gains, _ASKED_LAYOUTS)):
        return None
    sample = _rows_of(table, static_bytes, _SEARCHED_SHARE, _SEARCHED_BYTES)
    of = (len(sample), *shape[1:])
    return replace(context.search(sample.reshape(-1), of, alphabet, hints), live=live)


def _rows_of(table: np.ndarray, size: int, share: float, least: int) -> np.ndarray:
    """(some, columns): blocks of rows from evenly spaced places, ``least`` bytes or a ``share``."""
    rows, columns = table.shape
    most = max(1, _MOST_ITEMS // columns)
    wanted = min(most, max(1, math.ceil(rows * max(share, least / max(size, 1)))))
    if 2 * wanted >= rows:
        return table[:most]
    places = max(1, min(_PLACES, wanted // _PLACE_ROWS))
    block = -(-wanted // places)
    starts = [(rows - block) * (2 * i + 1) // (2 * places) for i in range(places)]
    return np.concatenate([table[start : start + block] for start in starts])


def _has_empty_lines(table: np.ndarray, zero: int, counts: np.ndarray) -> bool:
    """Whether a row or a column holds nothing but zeros."""
    if counts[zero] < min(table.shape):
        return False
    nonzero = table != zero
    return not (nonzero.any(1).all() and nonzero.any(0).all())
