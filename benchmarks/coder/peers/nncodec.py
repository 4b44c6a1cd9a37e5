"""NNCodec 2.1.3, the reference software of ISO/IEC 15938-17 (DeepCABAC).

    pip install torch==2.13.0
    pip install --no-deps nncodec==2.1.3     # compiles for two minutes
    pip install pandas opencv-python-headless scikit-learn tqdm h5py

``--no-deps`` because it asks for numpy below 2 and torchvision; it runs without either, with
torchvision replaced by a stub while it is imported. Two sides, both lossless without a quantiser:
int32 tensors are coded as the integers that they are, in their shape. Each tensor has those
settings of `_SETTINGS` that give the fewest bytes on its first rows, tried before the clock runs.
Other scan orders than row by row were never smaller in trials;
codebooks saved 0.2 % on ternary tensors, nothing on others, and cost its encoder a pass a level.

**nncodec** is `nncodec.nnc.compress` and `decompress`, what `nncodec.nn.encode` and
`nncodec.tensor.encode` call, with no file written. Timed is the whole call: with it the search for
initial context states (``param_opt``, on by its default, for the smaller stream) and the decoding
pass by which the encoder looks for entry points.

**deepcabac** is its compiled coder alone, called as `compress` calls it, but without that search
and that pass: the quickest that this software codes. The stream is its payload behind the shape.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import MagicMock

import numpy as np

from coder.peers.side import Side, pack, pack_shape, unpack, unpack_shape, versions
from ectorch.bitstream.wire import Cursor

NAMES = ("nncodec", "deepcabac")
INSTALL = "pip install --no-deps nncodec==2.1.3, then what benchmarks/coder/peers/nncodec.py says"
_TENSOR = "w"
_STUBS = ("torchvision", "torchvision.datasets", "torchvision.models", "torchvision.transforms")
_TRIED_SYMBOLS = 1 << 19
_PROFILE = 1  # general_profile_idc of the standard's second edition: rows of zeros are skipped
_PADDING = bytes(8)  # its decoder reads ahead


@dataclass(frozen=True)
class _Settings:
    unary_length_minus1: int
    row_skipping: bool


@dataclass(frozen=True)
class _Prepared:
    symbols: np.ndarray
    settings: _Settings


_Encode = Callable[[_Prepared, int], bytes]
_SETTINGS = [_Settings(*pair) for pair in itertools.product((1, 10, 20, 40), (True, False))]


def load() -> dict[str, Side]:
    whole = _nncodec()
    return {"nncodec": whole, "deepcabac": _deepcabac()}


def _nncodec() -> Side:
    with _stubs():
        from nncodec import nnc

    def encode(prepared: _Prepared, threads: int) -> bytes:
        stream = nnc.compress(
            {_TENSOR: prepared.symbols},
            bitstream_path=None,
            return_bitstream=True,
            cabac_unary_length_minus1=prepared.settings.unary_length_minus1,
            row_skipping=prepared.settings.row_skipping,
        )
        return bytes(stream)

    def decode(data: bytes, threads: int) -> np.ndarray:
        return nnc.decompress(bytearray(data))[_TENSOR]  # bytes would be taken for a path

    return Side(
        lambda symbols: _best(symbols, encode),
        encode,
        decode,
        lambda decoded: decoded,
        versions("nncodec", "torch"),
    )


def _deepcabac() -> Side:
    from nncodec.extensions import deepCABAC

    off = deepCABAC.HdspMode.AlwaysOff, np.zeros(2, np.int8)

    def encode(prepared: _Prepared, threads: int) -> bytes:
        symbols, settings = prepared.symbols, prepared.settings
        coder = deepCABAC.Encoder()
        coder.initCtxModels(settings.unary_length_minus1 + 1, 0)
        skipped = _zero_rows(symbols)
        coder.encodeLayer(symbols, 0, 0, _PROFILE, 0, settings.row_skipping, skipped, *off, 0, 0)
        head = pack_shape(symbols) + pack(settings.unary_length_minus1)
        return head + coder.finish().tobytes()

    def decode(data: bytes, threads: int) -> np.ndarray:
        cursor = Cursor(data, "stream")
        symbols = np.zeros(unpack_shape(cursor), np.int32)
        coder = deepCABAC.Decoder()
        unary_length_minus1 = unpack(cursor)
        coder.setStream(np.frombuffer(cursor.rest() + _PADDING, np.uint8))
        coder.initCtxModels(unary_length_minus1 + 1)
        coder.decodeLayer(symbols, 0, 0, _PROFILE, 0, *off, 0, 0)
        return symbols

    return Side(
        lambda symbols: _best(symbols, encode),
        encode,
        decode,
        lambda decoded: decoded,
        versions("nncodec"),
    )


def _best(symbols: np.ndarray, encode: _Encode) -> _Prepared:
    """The tensor as int32, and the settings that are smallest on its first rows."""
    items = np.ascontiguousarray(symbols, np.int32)
    rows = items[: max(1, _TRIED_SYMBOLS // max(1, math.prod(items.shape[1:])))]
    sizes = [len(encode(_Prepared(rows, settings), 1)) for settings in _SETTINGS]
    return _Prepared(items, _SETTINGS[sizes.index(min(sizes))])


def _zero_rows(symbols: np.ndarray) -> np.ndarray:
    if symbols.ndim < 2:
        return np.zeros(len(symbols), np.int32)
    return (~symbols.reshape(len(symbols), -1).any(axis=1)).astype(np.int32)


@contextmanager
def _stubs() -> Iterator[None]:
    """A stand-in for torchvision, which is imported but not used, where there is none."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    sys.modules.update({name: MagicMock() for name in _STUBS})
    try:
        yield
    finally:
        for name in _STUBS:
            del sys.modules[name]
