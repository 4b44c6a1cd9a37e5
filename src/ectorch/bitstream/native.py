"""The compiled module where it was built, and what it has in common with its plain twin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

try:
    from ectorch.bitstream import _native  # type: ignore[attr-defined, unused-ignore]

    module: Kernels | None = _native
except ImportError:
    module = None

MAX_LEVELS = 1 << 16  # that symbols of 16 bits tell apart
MAX_SCALE_BITS = 24  # of the range coder: leaves 16 bits of precision in range >> scale_bits
MAX_RANS_SCALE_BITS = 16
RUN_CLASSES = 128

Shape = tuple[int, int, int, int]  # rows, channels, height, width
_Bits = npt.NDArray[np.unsignedinteger]
_Symbols = npt.NDArray[np.uint16]
_Frequencies = npt.NDArray[np.uint32]
_Slots = npt.NDArray[np.uint64]
_Counts = npt.NDArray[np.uint64]


class Kernels(Protocol):
    """Coders of symbols that know nothing of files: the functions of both twins.

    Arrays have one dimension, are contiguous and of the dtypes that stand here; outputs lie in no
    input. The compiled module, which works in place, raises `TypeError` or `ValueError` for others.
    What each does is said in `ectorch.bitstream.plain`.

    Raises:
        ValueError: for numbers that the functions cannot serve.
        DamagedStream: from those that decode.
    """

    def static_encode(
        self, symbols: _Bits, frequencies: _Frequencies, scale_bits: int
    ) -> bytes: ...

    def static_decode(
        self, data: bytes | memoryview, symbols: _Bits, levels: int, whole: bool = True
    ) -> None: ...

    def decode_table(self, data: bytes | memoryview, frequencies: _Frequencies) -> int: ...

    def count_symbols(self, symbols: _Symbols, counts: _Counts) -> None: ...

    def count_runs(self, symbols: _Symbols, zero: int, counts: _Counts) -> None: ...

    def rans_encode_dense(
        self, symbols: _Symbols, frequencies: _Frequencies, scale_bits: int
    ) -> bytes: ...

    def rans_decode_dense(
        self, data: bytes | memoryview, slots: _Slots, symbols: _Symbols
    ) -> None: ...

    def rans_encode_runs(
        self,
        symbols: _Symbols,
        zero: int,
        run_frequencies: _Frequencies,
        run_scale_bits: int,
        symbol_frequencies: _Frequencies,
        symbol_scale_bits: int,
    ) -> tuple[int, bytes]: ...

    def rans_decode_runs(
        self,
        data: bytes | memoryview,
        tokens: int,
        zero: int,
        run_slots: _Slots,
        symbol_slots: _Slots,
        symbols: _Symbols,
    ) -> None: ...

    def context_encode(
        self,
        symbols: _Symbols,
        shape: Shape,
        order: int,
        live: bool,
        light: bool,
        levels: int,
        zero: int,
        hint: npt.NDArray[np.uint32],
    ) -> bytes: ...

    def context_decode(
        self,
        data: bytes | memoryview,
        symbols: _Symbols,
        shape: Shape,
        order: int,
        live: bool,
        light: bool,
        levels: int,
        zero: int,
        hint: npt.NDArray[np.uint32],
    ) -> None: ...

    def find_distinct(self, bits: _Bits, most: int, symbols: _Symbols) -> bytes | None: ...

    def take(self, table: _Bits, symbols: _Symbols, out: _Bits) -> None: ...


if TYPE_CHECKING or module is None:

    class DamagedStream(ValueError):  # noqa: N818 - the compiled module's name
        """Bytes that no encoder writes."""

    class Stop:
        """Ends what the threads that watch it code; plain Python goes on to the task's end."""

        def watch(self) -> None: ...

        def set(self) -> None: ...

else:
    DamagedStream, Stop = _native.DamagedStream, _native.Stop
