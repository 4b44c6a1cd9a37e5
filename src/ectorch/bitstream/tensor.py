"""A tensor as the container sees it: dtype name, shape, bit patterns; no float arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.unsignedinteger]

# The position of a name is its code in the file: append only.
DTYPES: dict[str, int] = {  # name -> bytes an item
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "float64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "bool": 1,
    "complex64": 8,
}


@dataclass(frozen=True, eq=False)
class RawTensor:
    """Bit patterns of a tensor.

    Attributes:
        dtype: a key of `DTYPES`.
        shape: any number of dimensions, zeros allowed.
        bits: (prod(shape),) unsigned integers of the dtype's width, row-major.
    """

    dtype: str
    shape: tuple[int, ...]
    bits: Bits

    def __post_init__(self) -> None:
        if self.bits.shape != (math.prod(self.shape),) or self.bits.dtype != bits_dtype(self.dtype):
            raise ValueError(
                f"bits {self.bits.dtype}{self.bits.shape} do not fit {self.dtype} {self.shape}"
            )

    def little_endian(self) -> bytes:
        return self.bits.astype(self.bits.dtype.newbyteorder("<"), copy=False).tobytes()


def bits_dtype(dtype: str) -> np.dtype[np.unsignedinteger]:
    """The unsigned integer type that holds one item of ``dtype``."""
    return np.dtype(f"u{DTYPES[dtype]}")


def bits_from_bytes(data: bytes | memoryview, dtype: str) -> Bits:
    """Inverse of `RawTensor.little_endian`, in native byte order."""
    native = bits_dtype(dtype)
    return np.frombuffer(data, native.newbyteorder("<")).astype(native)
