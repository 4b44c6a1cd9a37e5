import numpy as np
import numpy.typing as npt

_Symbols = npt.NDArray[np.uint16]
_Frequencies = npt.NDArray[np.uint32]
_Slots = npt.NDArray[np.uint64]
_Counts = npt.NDArray[np.uint64]

class DamagedStream(ValueError): ...  # noqa: N818
class Stopped(RuntimeError): ...  # noqa: N818

class Stop:
    """Ends what the threads that watch it code, soon, by `Stopped`."""

    def watch(self) -> None: ...
    def set(self) -> None: ...

def static_encode(
    symbols: npt.NDArray[np.unsignedinteger], frequencies: _Frequencies, scale_bits: int
) -> bytes: ...
def static_decode(
    data: bytes | memoryview,
    symbols: npt.NDArray[np.unsignedinteger],
    levels: int,
    whole: bool = True,
) -> None: ...
def decode_table(data: bytes | memoryview, frequencies: _Frequencies) -> int: ...
def count_symbols(symbols: _Symbols, counts: _Counts) -> None: ...
def count_runs(symbols: _Symbols, zero: int, counts: _Counts) -> None: ...
def rans_encode_dense(symbols: _Symbols, frequencies: _Frequencies, scale_bits: int) -> bytes: ...
def rans_decode_dense(data: bytes | memoryview, slots: _Slots, symbols: _Symbols) -> None: ...
def rans_encode_runs(
    symbols: _Symbols,
    zero: int,
    run_frequencies: _Frequencies,
    run_scale_bits: int,
    symbol_frequencies: _Frequencies,
    symbol_scale_bits: int,
) -> tuple[int, bytes]: ...
def rans_decode_runs(
    data: bytes | memoryview,
    tokens: int,
    zero: int,
    run_slots: _Slots,
    symbol_slots: _Slots,
    symbols: _Symbols,
) -> None: ...
def context_encode(
    symbols: _Symbols,
    shape: tuple[int, int, int, int],
    order: int,
    live: bool,
    light: bool,
    levels: int,
    zero: int,
    hint: npt.NDArray[np.uint32],
) -> bytes: ...
def context_decode(
    data: bytes | memoryview,
    symbols: _Symbols,
    shape: tuple[int, int, int, int],
    order: int,
    live: bool,
    light: bool,
    levels: int,
    zero: int,
    hint: npt.NDArray[np.uint32],
) -> None: ...
def find_distinct(
    bits: npt.NDArray[np.unsignedinteger], most: int, symbols: _Symbols
) -> bytes | None: ...
def take(
    table: npt.NDArray[np.unsignedinteger],
    symbols: _Symbols,
    out: npt.NDArray[np.unsignedinteger],
) -> None: ...
