"""CompressAI's rANS: ``pip install --no-deps compressai==1.2.8``.

``--no-deps`` because it asks for torchvision, which its two extension modules do not need: they
are loaded alone. `RansEncoder.encode_with_indexes` with one quantised CDF of 16 bits, made by
`pmf_to_quantized_cdf` from the tensor's counts, which goes before the payload, a varint a level.
It takes lists of python integers, made before the clock runs; timed are CDF, table and coding,
with the copies of these lists that its binding makes.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import math
from types import ModuleType

import numpy as np

from coder.peers.side import Side, pack_shape, unpack_shape, versions
from coder.peers.table import indices, pack_table, unpack_table
from ectorch.bitstream.wire import Cursor

NAMES = ("compressai rans",)
INSTALL = "pip install --no-deps compressai==1.2.8"
_PRECISION_BITS = 16
_FEWEST_SYMBOLS = 4  # its encoder writes past its buffer, a word a symbol, where there are fewer
_ESCAPE = 1e-9  # the last entry of its CDFs is for integers out of range: there are none


def load() -> dict[str, Side]:
    package = importlib.util.find_spec("compressai")
    if package is None:
        raise ModuleNotFoundError("No module named 'compressai'")
    places = list(package.submodule_search_locations or [])
    rans, helpers = _extension("ans", places), _extension("_CXX", places)

    def encode(prepared: tuple[bytes, int, np.ndarray, list[int], list[int]], _: int) -> bytes:
        shape, lowest, symbols, listed, which = prepared
        chances = np.bincount(symbols) / len(symbols)
        cdf = helpers.pmf_to_quantized_cdf([*chances.tolist(), _ESCAPE], _PRECISION_BITS)
        head = shape + pack_table(lowest, np.diff(cdf).tolist())
        return head + rans.RansEncoder().encode_with_indexes(listed, which, [cdf], [len(cdf)], [0])

    def decode(data: bytes, _: int) -> tuple[tuple[int, ...], int, list[int]]:
        cursor = Cursor(data, "stream")
        shape = unpack_shape(cursor)
        lowest, frequencies = unpack_table(cursor)
        cdf = [0, *np.cumsum(frequencies).tolist()]
        which = [0] * math.prod(shape)
        coder, sizes = rans.RansDecoder(), [len(cdf)]
        return shape, lowest, coder.decode_with_indexes(cursor.rest(), which, [cdf], sizes, [0])

    return {NAMES[0]: Side(_prepare, encode, decode, _restore, versions("compressai"))}


def _extension(name: str, places: list[str]) -> ModuleType:
    """A compiled module of the package, without the package's own imports."""
    spec = importlib.machinery.PathFinder.find_spec(name, places)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named 'compressai.{name}'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _prepare(symbols: np.ndarray) -> tuple[bytes, int, np.ndarray, list[int], list[int]]:
    if symbols.size < _FEWEST_SYMBOLS:
        raise ValueError(f"its encoder writes past its buffer below {_FEWEST_SYMBOLS} symbols")
    lowest, distances = indices(symbols)
    return pack_shape(symbols), lowest, distances, distances.tolist(), [0] * symbols.size


def _restore(decoded: tuple[tuple[int, ...], int, list[int]]) -> np.ndarray:
    shape, lowest, symbols = decoded
    return (np.array(symbols, np.int64) + lowest).reshape(shape)
