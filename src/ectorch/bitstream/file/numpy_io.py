"""Load a file with NumPy alone, for devices and scripts that have no torch."""

from __future__ import annotations

import os

import numpy as np

from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.bitstream.tensor import RawTensor


def load_file(
    path: str | os.PathLike[str], max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES
) -> dict[str, np.ndarray]:
    """Every tensor of ``path`` by name.

    bfloat16, which NumPy lacks, comes as float32 of the same values; the 8-bit floats come as
    uint8 bit patterns.

    Raises:
        FormatError: when the file is damaged, too new, or decodes to more than
            ``max_decoded_bytes``.
    """
    with Reader(path, max_decoded_bytes) as reader:
        return {name: to_array(tensor) for name, tensor in reader.read_all().items()}


def to_array(tensor: RawTensor) -> np.ndarray:
    """The values of one tensor, as `load_file` gives them."""
    bits: np.ndarray = tensor.bits
    if tensor.dtype == "bfloat16":
        bits = (bits.astype(np.uint32) << 16).view(np.float32)
    elif not tensor.dtype.startswith("float8"):
        bits = bits.view(tensor.dtype)
    return bits.reshape(tensor.shape)
