import numpy as np
import numpy.typing as npt

_Symbols = npt.NDArray[np.uint16]

class DamagedStream(ValueError): ...

def static_encode(
    symbols: _Symbols, frequencies: npt.NDArray[np.uint32], scale_bits: int
) -> bytes: ...
def static_decode(data: bytes, symbols: _Symbols, levels: int) -> None: ...
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
    data: bytes,
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
