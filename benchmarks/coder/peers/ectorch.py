"""ectorch itself, as it comes from this repository: ``pip install .`` in its root.

A side is a preset of the coder. The input is one int8 or int16 tensor in its shape, the stream a
whole ``.ect`` file of that tensor. Timed: `encode_file`, with all that it does to choose the
coding; opening the file with `Reader`, and reading the tensor.
"""

from __future__ import annotations

import importlib.util
import inspect

import numpy as np

import ectorch
from coder.peers.side import Side, UnavailableError, narrow
from ectorch.bitstream import RawTensor, Reader, encode_file

NAMES = ("small", "balanced", "fast")
INSTALL = "pip install ."
_THREADS = (1, 2)
_TENSOR = "w"


def load() -> dict[str, Side]:
    for function in (encode_file, Reader):
        if "threads" not in inspect.signature(function).parameters:
            raise UnavailableError(f"this ectorch has no threads in {function.__name__}")
    return {preset: _side(preset) for preset in NAMES}


def _side(preset: str) -> Side:
    def encode(tensor: RawTensor, threads: int) -> bytes:
        return encode_file({_TENSOR: tensor}, preset=preset, threads=threads)

    return Side(_prepare, encode, _decode, _restore, _version(), _THREADS)


def _prepare(symbols: np.ndarray) -> RawTensor:
    items = narrow(symbols)
    bits = items.ravel().view(f"u{items.itemsize}")
    return RawTensor(items.dtype.name, items.shape, bits)


def _decode(data: bytes, threads: int) -> RawTensor:
    with Reader(data, threads=threads) as reader:
        return reader.read(_TENSOR)


def _restore(tensor: RawTensor) -> np.ndarray:
    return tensor.bits.view(tensor.dtype).reshape(tensor.shape)


def _version() -> str:
    built = importlib.util.find_spec("ectorch.bitstream._native")
    return f"ectorch {ectorch.__version__}, {'compiled' if built else 'PLAIN PYTHON'}"
