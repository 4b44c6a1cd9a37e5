"""Few distinct bit patterns <-> a codebook and integer symbols; a uniform grid is just its step.

A grid value is ``index * step`` rounded once to the tensor's dtype, so any machine with IEEE
arithmetic rebuilds the same bits. Index 0 is +0.0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ectorch.bitstream.kernels import kernels_for
from ectorch.bitstream.native import MAX_LEVELS
from ectorch.bitstream.tensor import DTYPES, Bits, bits_dtype, bits_from_bytes
from ectorch.bitstream.wire import Cursor, unzigzag, varint, zigzag
from ectorch.errors import FormatError

_MAX_WHOLE = 1 << 53  # float64 holds every whole number up to here
_GRID_DTYPES: dict[str, type[np.generic]] = {
    np.dtype(kind).name: kind
    for kind in (np.float16, np.float32, np.float64, np.int8, np.int16, np.int32, np.int64)
} | {
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "bfloat16": np.float32,  # computed in float32, then rounded: NumPy has no bfloat16
}
_MANTISSA_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
_STEP_ULPS = 4  # the step is looked for this close to value / index
_TAKEN_ITEMS = 1 << 20  # at once: what widens them stays small
_FEW_PATTERNS = 512  # so many are compared with all steps at once
_MAX_GAP_STEPS = 8  # the smallest gap between values may span this many steps
_REFINE_BOUNDS = (1.5, 6, 24, 96, 384, 1536, 6144)
_UNUSED_LEVEL_BITS = 5  # what the coder's table spends on a grid value that never occurs
_MOST_LEVELS_AN_ITEM = 16  # more unused ones would cost more than a codebook of those in use


@dataclass(frozen=True, eq=False)
class Codebook:
    """The codebook of one tensor.

    Attributes:
        patterns: (levels,) distinct bit patterns; symbol ``s`` stands for ``patterns[s]``.
        step: bit pattern of the grid's step where ``patterns[s]`` is ``(first + s) * step``.
        first: grid index of symbol 0; 0 without a step.
    """

    patterns: Bits
    step: int | None = None
    first: int = 0

    @property
    def zero(self) -> int:
        """The symbol whose bits are all zero; else 0."""
        return int(np.argmax(self.patterns == 0))

    def encode(self, dtype: str) -> bytes:
        head = varint(len(self.patterns))
        if self.step is None:
            little = self.patterns.dtype.newbyteorder("<")
            return head + b"\0" + self.patterns.astype(little).tobytes()
        kept = self.step.to_bytes(DTYPES[dtype], "big").rstrip(b"\0")
        return head + bytes([len(kept)]) + kept + varint(zigzag(self.first))


@np.errstate(over="ignore", invalid="ignore")  # a damaged step may overflow: refused below
def decode_codebook(cursor: Cursor, dtype: str, items: int) -> Codebook:
    """Read what `Codebook.encode` wrote.

    Args:
        items: of the tensor; they bound the levels, so that a few items cost little to read.

    Raises:
        FormatError: on a codebook of no or too many levels, or a grid that this dtype cannot have.
    """
    count = cursor.varint()
    most = min(MAX_LEVELS, _MOST_LEVELS_AN_ITEM * items)
    if not 1 <= count <= most:
        raise FormatError(f"{cursor.what}: {count} levels, expected 1 to {most}")
    size = DTYPES[dtype]
    kept = cursor.byte()
    if kept == 0:
        return Codebook(bits_from_bytes(cursor.take(count * size), dtype))
    if kept > size or dtype not in _GRID_DTYPES:
        raise FormatError(f"{cursor.what}: no grid with a step of {kept} bytes for {dtype}")
    step = int.from_bytes(cursor.take(kept).ljust(size, b"\0"), "big")
    first = unzigzag(cursor.varint())
    last = first + count - 1
    if max(abs(first), abs(last)) > MAX_LEVELS:
        raise FormatError(f"{cursor.what}: grid indices {first} to {last} out of range")
    values = _grid_values(step, first, count, dtype)
    if not _are_exact(values, dtype):
        raise FormatError(f"{cursor.what}: a grid value is no finite {dtype}")
    return Codebook(_to_bits(values, dtype), step, first)


def find_codebook(bits: Bits, dtype: str) -> tuple[Codebook, np.ndarray] | None:
    """Codebook and symbols of a tensor, or None when it has more than `MAX_LEVELS` values.

    Args:
        bits: (n,) bit patterns, n >= 1.

    Returns:
        the codebook, and (n,) uint16 symbols. A function of the bit patterns alone.
    """
    symbols = np.empty(len(bits), np.uint16)
    found = kernels_for(0).find_distinct(bits, MAX_LEVELS, symbols)
    if found is None:
        return None
    patterns: Bits = np.frombuffer(found, bits.dtype)
    grid = _find_grid(patterns, dtype)
    if grid is None:
        return Codebook(patterns), symbols
    step, index = grid
    first, count = int(index.min()), int(np.ptp(index)) + 1
    if _UNUSED_LEVEL_BITS * (count - len(patterns)) > 8 * patterns.nbytes:
        return Codebook(patterns), symbols
    patterns = _to_bits(_grid_values(step, first, count, dtype), dtype)
    return Codebook(patterns, step, first), take(
        (index - first).astype(np.uint16), symbols, symbols
    )


def take(table: np.ndarray, symbols: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """``table[symbols]``, of unsigned integers and (n,) uint8 or uint16; into ``out``, if any."""
    kernels = kernels_for(0)
    out = np.empty(len(symbols), table.dtype) if out is None else out
    for start in range(0, len(symbols), _TAKEN_ITEMS):
        block = slice(start, start + _TAKEN_ITEMS)
        kernels.take(table, symbols[block].astype(np.uint16, copy=False), out[block])
    return out


@np.errstate(all="ignore")  # extreme values overflow: they are on no grid then
def _find_grid(patterns: Bits, dtype: str) -> tuple[int, np.ndarray] | None:
    """The step's bit pattern and each pattern's grid index, if all lie on one uniform grid."""
    if dtype not in _GRID_DTYPES:
        return None
    values = _to_values(patterns, dtype)
    if not np.isfinite(values).all() or not 0 < np.abs(values).max() <= _MAX_WHOLE:
        return None
    whole = np.issubdtype(_GRID_DTYPES[dtype], np.integer)  # these are exact
    magnitudes = np.unique(np.abs(values))
    smallest_gap = np.diff(np.unique(np.append(values, 0.0))).min()
    for divisor in range(1, _MAX_GAP_STEPS + 1):
        gap = smallest_gap / divisor
        index = np.rint(values / (gap if whole else _refine(gap, magnitudes)))
        largest = np.abs(index).argmax()
        if not (np.abs(index[largest]) <= MAX_LEVELS and np.ptp(index) < MAX_LEVELS):
            return None  # NaN too, where the divided gap underflows
        about = values[largest] / index[largest]
        if not whole and _is_off(values, index, about, dtype):
            continue
        steps = _near_steps(about, dtype)
        together = len(steps) if len(patterns) <= _FEW_PATTERNS else 1
        for start in range(0, len(steps), together):
            some = steps[start : start + together]
            grids = index * _to_values(some, dtype)[:, None]
            for at in np.flatnonzero((_to_bits(grids, dtype) == patterns).all(axis=1)):
                if _are_exact(grids[at], dtype):
                    return int(some[at]), index.astype(np.int64)
    return None


def _refine(step: float, magnitudes: np.ndarray) -> float:
    """``step`` made precise by ever larger multiples: gaps between rounded values mislead."""
    for bound in _REFINE_BOUNDS:
        below = np.searchsorted(magnitudes, bound * step, side="right")
        index = np.rint(magnitudes[below - 1] / step) if below else 0
        step = magnitudes[below - 1] / index if index else step
        if below == len(magnitudes):  # larger bounds would find the same
            break
    return step


def _is_off(values: np.ndarray, index: np.ndarray, step: float, dtype: str) -> bool:
    """Whether no float that is `_STEP_ULPS` from ``step`` at most has such multiples, by far."""
    bits = _MANTISSA_BITS[dtype]
    epsilon, least = 2.0**-bits, _to_values(np.array([1], bits_dtype(dtype)), dtype)[0]
    slack = 4 * _STEP_ULPS * (epsilon * np.abs(values) + least * np.abs(index))
    return bool((np.abs(values - index * step) > slack).any())


def _near_steps(step: float, dtype: str) -> Bits:
    """Patterns of ``step`` and its neighbours, those with the fewest significant bits first."""
    near = int(_to_bits(np.array([step]), dtype)[0])
    if np.issubdtype(_GRID_DTYPES[dtype], np.integer):
        return np.array([near], bits_dtype(dtype))
    steps = np.arange(near - _STEP_ULPS, near + _STEP_ULPS + 1)
    lowest_set_bit = steps & -steps
    return steps[np.argsort(-lowest_set_bit, kind="stable")].astype(bits_dtype(dtype))


def _grid_values(step: int, first: int, count: int, dtype: str) -> np.ndarray:
    """``index * step``: at most 17 by 24 bits, so exact in float64; a float64 is rounded here."""
    value = float(_to_values(np.array([step], bits_dtype(dtype)), dtype)[0])
    return np.arange(first, first + count, dtype=np.float64) * value


def _are_exact(values: np.ndarray, dtype: str) -> bool:
    """Whether all are finite in ``dtype``, integers exact: machines differ on the others."""
    kind = _GRID_DTYPES[dtype]
    if dtype == "bfloat16":  # may be finite as the float32 that it is rounded from
        return bool((_to_bits(values, dtype) & 0x7FFF < 0x7F80).all())
    if not issubclass(kind, np.integer):
        return bool(np.isfinite(values.astype(kind)).all())
    low, high = max(np.iinfo(kind).min, -_MAX_WHOLE), min(np.iinfo(kind).max, _MAX_WHOLE)
    return bool((values >= low).all() and (values <= high).all())


def _to_values(bits: Bits, dtype: str) -> np.ndarray:
    wide: np.ndarray = bits.astype(np.uint32) << 16 if dtype == "bfloat16" else bits
    return wide.view(_GRID_DTYPES[dtype]).astype(np.float64)


def _to_bits(values: np.ndarray, dtype: str) -> Bits:
    kind = _GRID_DTYPES[dtype]
    rounded: np.ndarray = (values + 0.0).astype(kind)  # + 0.0 turns -0.0 into +0.0
    if dtype != "bfloat16":
        return rounded.view(bits_dtype(dtype))
    wide = rounded.view(np.uint32)
    return ((wide + 0x7FFF + (wide >> 16 & 1)) >> 16).astype(np.uint16)  # round to nearest even
