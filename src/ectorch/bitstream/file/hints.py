"""Which earlier tensors may say something of a later one: rows that feed its columns."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ectorch.bitstream.codings.context import can_hint
from ectorch.bitstream.codings.decode import count_nonzeros
from ectorch.bitstream.tensor import RawTensor

_MOST = 4


class Hints:
    """The tensors of a file so far, each given once, in their order.

    A tensor's time does not depend on how many there were before it.
    """

    def __init__(self) -> None:
        # By number of rows: the latest few, (index, tensor or its counts)
        self._latest: dict[int, list[_Earlier]] = {}

    def give(self, index: int, tensor: RawTensor) -> dict[int, np.ndarray]:
        """(rows,) uint32 nonzeros of each row, by index, of the nearest earlier tensors whose
        rows may feed this one's columns; it is an earlier one from then on."""
        if len(tensor.shape) < 2:
            return {}
        near = [
            earlier
            for rows in _divisors(math.prod(tensor.shape[1:]))
            for earlier in self._latest.get(rows, ())
        ]
        near.sort(key=lambda earlier: -earlier.index)
        hints = {earlier.index: earlier.counts() for earlier in near[:_MOST]}
        latest = self._latest.setdefault(tensor.shape[0], [])
        latest.append(_Earlier(index, tensor))
        del latest[:-_MOST]
        return hints


class _Earlier:
    def __init__(self, index: int, tensor: RawTensor) -> None:
        self.index, self._tensor = index, tensor
        self._counts: np.ndarray | None = None

    def counts(self) -> np.ndarray:
        if self._counts is None:
            self._counts = count_nonzeros(self._tensor.bits, self._tensor.shape)
        return self._counts


def _divisors(columns: int) -> Iterator[int]:
    """Numbers of rows that fit ``columns``."""
    for small in range(1, math.isqrt(columns) + 1):
        if columns % small == 0:
            for rows in {small, columns // small}:
                if can_hint(rows, columns):
                    yield rows
