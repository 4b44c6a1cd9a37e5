"""Whether the context coder can win on a large tensor, and how it is laid out: what samples tell.

A sample is whole rows from several places, put below one another: it is coded as a tensor of its
own, and compared with what the same symbols take in the static stream of the whole tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ectorch.bitstream.codings import context, static
from ectorch.bitstream.codings.context import Alphabet, Layout

_ASKED_SHARE, _ASKED_BYTES = 1 / 64, 1 << 13  # of the static stream: can the context coder win?
_SEARCHED_SHARE, _SEARCHED_BYTES = 1 / 16, 1 << 15  # the same: in which layout?
_SPARSE_BITS = 1.0  # an item; below, a model takes long to learn, and a symbol is soon coded
_SPARSE_SHARE, _SPARSE_ASKED_BYTES, _SPARSE_SEARCHED_BYTES = 1 / 4, 1 << 16, 1 << 14
_HOPELESS = 1.03  # of the static bytes, in the first layout: no other makes up for it
_MOST_ITEMS = 1 << 22
_PLACES = 8
_PLACE_ROWS = 4  # at least, where rows are many: a row is predicted from the two above
_GAINING = 0.999  # of the static bytes: the context coder takes many times as long


def find_layout(
    symbols: np.ndarray,
    shape: Sequence[int],
    alphabet: Alphabet,
    hints: Mapping[int, np.ndarray],
    counts: np.ndarray,
    static_bytes: int,
) -> Layout | None:
    """The layout that codes a sample in the fewest bytes; None where none is likely to gain.

    Args:
        symbols, shape, alphabet, hints: as of `ectorch.bitstream.codings.context.encode`.
        counts: (levels,) how often each symbol occurs.
        static_bytes: that they take without a context, or in any other coding.
    """
    table = symbols.reshape(shape[0] if shape else 1, -1)
    live = _has_empty_lines(table, alphabet.zero, counts)
    shares = _shares(counts, static_bytes)
    sparse = 8 * static_bytes < _SPARSE_BITS * len(symbols)
    asked = (
        _rows_of(table, _SPARSE_SHARE, _SPARSE_ASKED_BYTES / static_bytes)
        if sparse
        else _rows_of(table, _ASKED_SHARE, _ASKED_BYTES / static_bytes)
    )

    def share(rows: np.ndarray, size: int) -> float:
        """Of the static bytes of these rows."""
        return size / float(static.count(rows.reshape(-1), len(counts)) @ shares)

    def ask(layout: Layout) -> float:
        of = (len(asked), *shape[1:])
        return share(asked, len(context.encode(asked.reshape(-1), of, alphabet, layout, {})))

    first = ask(Layout(live=live))
    if first >= _GAINING and (first > _HOPELESS or ask(Layout(order=1, live=live)) >= _GAINING):
        return None
    searched = (
        _rows_of(table, _SPARSE_SHARE, _SPARSE_SEARCHED_BYTES / static_bytes)
        if sparse
        else _rows_of(table, _SEARCHED_SHARE, _SEARCHED_BYTES / static_bytes)
    )
    of = (len(searched), *shape[1:])
    layout, found = context.search(searched.reshape(-1), of, alphabet, hints)
    if not sparse and share(searched, found) >= _GAINING:
        return None
    # which rows and columns are empty, the sample does not show
    return layout if len(searched) == len(table) else replace(layout, live=live)


def _shares(counts: np.ndarray, static_bytes: int) -> np.ndarray:
    """(levels,) bytes that each symbol takes of a static stream."""
    lengths = np.log2(counts.sum() / np.maximum(counts, 1).astype(np.float64))
    shares: np.ndarray = lengths * (static_bytes / max(float(counts @ lengths), 1.0))
    return shares


def _rows_of(table: np.ndarray, *shares: float) -> np.ndarray:
    """(some, columns): blocks of rows from evenly spaced places, the largest of some shares."""
    rows, columns = table.shape
    most = max(1, _MOST_ITEMS // columns)
    wanted = min(most, max(1, math.ceil(rows * max(shares))))
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
