"""Networks <-> ``.ect`` files: the only room that joins torch and the bitstream."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.bitstream.container import encode_file, estimate_file_bits, write_atomic
from ectorch.bitstream.context import Layout
from ectorch.bitstream.index import Entry
from ectorch.bitstream.meter import FileMeter
from ectorch.bitstream.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.bitstream.tensor import DTYPES, RawTensor, bits_dtype
from ectorch.errors import MismatchError, UnsupportedTensorError
from ectorch.network import discrete_state_dict, finalize

_Path = str | os.PathLike[str]
_TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}
_DTYPE_NAMES = {dtype: name for name, dtype in _TORCH_DTYPES.items()}
# Bit patterns travel between torch and NumPy as signed integers: every torch has those.
_CARRIERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def save(
    model: nn.Module | Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> bytes:
    """The bytes that `save_file` writes."""
    state = discrete_state_dict(model) if isinstance(model, nn.Module) else model
    tensors = {name: to_raw(name, value) for name, value in state.items()}
    return encode_file(tensors, metadata, preset, threads)


def save_file(
    model: nn.Module | Mapping[str, Tensor],
    path: _Path,
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> int:
    """Write a network's state dict, or any dict of tensors, losslessly as an ``.ect`` file.

    A tensor of few distinct bit patterns becomes a codebook and coded symbols, anything else exact
    floats. The file is a pure function of the tensors sorted by name, the metadata and the preset,
    for one version of ectorch and of zstandard; it appears whole or not at all.

    Args:
        model: a module (one that is still prepared is stored as `convert` would leave it), or
            tensors by name, of any dtype in `ectorch.bitstream.DTYPES`, any shape, any device.
        metadata: strings by name; they cost their length.
        preset: "small" tries everything and keeps the smallest for each tensor; "balanced" is
            about as small in a fraction of the time; "fast" codes symbols by their frequency alone.
        threads: that code; all cores if None. The bytes do not depend on it.

    Returns:
        the file's size in bytes.

    Raises:
        ConfigError: for another preset.
        UnsupportedTensorError: for a sparse, quantized or other unknown tensor, or what is no
            tensor at all, by its name.
    """
    data = save(model, metadata, preset, threads)
    write_atomic(path, data)
    return len(data)


def load(
    data: bytes, max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES, threads: int | None = None
) -> dict[str, Tensor]:
    """The tensors of an ``.ect`` file's bytes, by name; see `load_file`."""
    return _load(data, max_decoded_bytes, threads)


def load_file(
    path: _Path, max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES, threads: int | None = None
) -> dict[str, Tensor]:
    """The tensors of an ``.ect`` file, by name, bit for bit, on the CPU.

    Tied tensors come as separate copies; `load_model` puts them into a model that ties them.

    Args:
        max_decoded_bytes: refuse files whose tensors and names take more.
        threads: that decode; all cores if None.

    Raises:
        FormatError: when the file is damaged, too new or too large.
        OSError: when it cannot be opened.
    """
    return _load(os.fspath(path), max_decoded_bytes, threads)


def load_model(
    model: nn.Module,
    path: _Path,
    strict: bool = True,
    max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
) -> nn.Module:
    """Load an ``.ect`` file into a plain model of the same architecture.

    Args:
        strict: names have to be the same on both sides; else only what both have is loaded.

    Returns:
        ``model``.

    Raises:
        MismatchError: when names, shapes or dtypes differ; the model is left as it was.
        FormatError: as `load_file`.
    """
    stored = load_file(path, max_decoded_bytes)
    expected = {name: t for name, t in model.state_dict().items() if torch.is_tensor(t)}
    problems = [
        f"{name} is {_describe(stored[name])}, the model has {_describe(expected[name])}"
        for name in sorted(stored.keys() & expected.keys())
        if _describe(stored[name]) != _describe(expected[name])
    ]
    if strict:
        lacking, unknown = expected.keys() - stored.keys(), stored.keys() - expected.keys()
        problems += [f"{name} is missing" for name in sorted(lacking)]
        problems += [f"{name} is not in the model" for name in sorted(unknown)]
    if problems:
        raise MismatchError(f"{os.fspath(path)}: {'; '.join(problems)}")
    model.load_state_dict(stored, strict=False)
    return model


class safe_open:  # noqa: N801 - the name that safetensors' users know
    """Open an ``.ect`` file and decode single tensors; blocks of the others are not read.

    A small tensor may have been coded with what an earlier one tells of it: then that is read too.

    Raises:
        FormatError: when the header is damaged, or a tensor that is asked for is.
    """

    def __init__(
        self,
        path: _Path,
        max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
        threads: int | None = None,
    ) -> None:
        self._reader = Reader(path, max_decoded_bytes, threads)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *error: object) -> None:
        self._reader.__exit__(*error)

    def __iter__(self) -> Iterator[str]:
        return iter(self._reader.entries)

    def keys(self) -> list[str]:
        """Names in the order of the file."""
        return list(self._reader.entries)

    def metadata(self) -> dict[str, str]:
        return dict(self._reader.metadata)

    def get_entry(self, name: str) -> Entry:
        """Shape, dtype, coding and stored bytes of one tensor, from the header alone."""
        return self._reader.entries[name]

    def get_tensor(self, name: str) -> Tensor:
        """Decode one tensor."""
        return _to_torch(self._reader.read(name))

    def get_slice(self, name: str) -> TensorSlice:
        """One tensor to index: ``file.get_slice(name)[10:20]`` decodes the chunks of those rows."""
        return TensorSlice(self._reader, name)


class TensorSlice:
    """A tensor of a file that is decoded as far as it is indexed, as safetensors has it."""

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader, self._name = reader, name
        self._entry = reader.entries[name]

    def get_shape(self) -> list[int]:
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """A key of `ectorch.bitstream.DTYPES`."""
        return self._entry.dtype

    def __getitem__(self, index: object) -> Tensor:
        """What ``get_tensor(name)[index]`` is; rows outside of a first integer or slice stay coded.

        Raises:
            IndexError: as a tensor does.
        """
        first, *rest = index if isinstance(index, tuple) else (index,)
        shape = self._entry.shape
        if not shape or not isinstance(first, (int, slice)) or isinstance(first, bool):
            return _to_torch(self._reader.read(self._name))[index]  # type: ignore[index]
        if isinstance(first, slice):
            wanted = range(shape[0])[first]
            if wanted.step < 1:
                raise IndexError(f"{self._name}: slices go forward, the step is {wanted.step}")
        else:
            if not -shape[0] <= first < shape[0]:
                raise IndexError(f"{self._name}: row {first} of {shape[0]}")
            wanted = range(shape[0])[first:][:1]
        rows = range(wanted.start, wanted[-1] + 1) if wanted else range(0)
        part = _to_torch(self._reader.read(self._name, rows))
        own = slice(None, None, wanted.step) if isinstance(first, slice) else 0
        return part[(own, *rest)]


def rate_bits(model: nn.Module | Mapping[str, Tensor]) -> float:
    """Estimated size in bits of the file that `save_file` would write: no coder runs.

    Symbols at their entropy under the stored frequencies, codebooks, tables, floats as they are,
    names, index and checksums: within 1 % plus 64 bytes of a file of the preset "fast", except
    that what zstd or byte planes shrink is estimated without them. The context coder of the other
    presets gets below. An estimate: what is reported are sizes of files.
    """
    state = discrete_state_dict(model) if isinstance(model, nn.Module) else model
    return estimate_file_bits({name: to_raw(name, value) for name, value in state.items()})


@dataclass(frozen=True)
class FileSize:
    """Bytes of a file.

    Attributes:
        total: of the whole file.
        tensors: of each tensor's codebook and symbols, by name; an equal earlier tensor costs
            nothing again.
    """

    total: int
    tensors: dict[str, int]


class SizeMeter:
    """Measures a network while it trains: the file that `save_file` would write, by its own coder.

    The network is copied, finalized as it will be in the end, and coded; the search for the
    coder's layouts is repeated only where a tensor has changed much. So the size is that of the
    file, or slightly more, at a fraction of the time.

    Args:
        finalize: what will be done to the network before it is saved; it may change the copy.
        threads: that code; all cores if None.

    >>> net, meter = nn.Linear(8, 4), SizeMeter()
    >>> meter(net).total == len(save(net))
    True
    >>> sorted(meter(net).tensors)
    ['bias', 'weight']
    """

    def __init__(
        self,
        finalize: Callable[[nn.Module], nn.Module] = finalize,
        threads: int | None = None,
    ) -> None:
        self._finalize, self._threads = finalize, threads
        self._meter = FileMeter()

    def __call__(self, model: nn.Module) -> FileSize:
        """Measure ``model``, which is left as it is.

        Raises:
            UnsupportedTensorError: as `save_file`.
        """
        final = self._finalize(copy.deepcopy(model))
        tensors = {name: to_raw(name, value) for name, value in final.state_dict().items()}
        return FileSize(*self._meter.measure(tensors, self._threads))

    def state_dict(self) -> dict[str, tuple[int, dict[str, Any]]]:
        """What a checkpoint keeps, for sizes not to depend on where training was interrupted."""
        return {
            name: (count, asdict(layout)) for name, (count, layout) in self._meter.found.items()
        }

    def load_state_dict(self, state: Mapping[str, tuple[int, dict[str, Any]]]) -> None:
        self._meter.found = {name: (count, Layout(**how)) for name, (count, how) in state.items()}


def _load(source: str | bytes, max_decoded_bytes: int, threads: int | None) -> dict[str, Tensor]:
    with Reader(source, max_decoded_bytes, threads) as reader:
        return {name: _to_torch(raw) for name, raw in reader.read_all().items()}


def to_raw(name: str, tensor: Tensor) -> RawTensor:
    """The bits of a tensor, for the bitstream.

    Raises:
        UnsupportedTensorError: when it cannot be stored.
    """
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise UnsupportedTensorError(f"{name!r}: {type(tensor).__name__}, expected a named tensor")
    dtype = _DTYPE_NAMES.get(tensor.dtype)
    if dtype is None or tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        raise UnsupportedTensorError(
            f"{name}: cannot store {tensor.dtype} with layout {tensor.layout} on {tensor.device}; "
            f"known dtypes: {', '.join(DTYPES)}"
        )
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    bits = flat.view(_CARRIERS[DTYPES[dtype]]).numpy().view(bits_dtype(dtype))
    return RawTensor(dtype, tuple(tensor.shape), bits)


def _to_torch(raw: RawTensor) -> Tensor:
    size = DTYPES[raw.dtype]
    carried = torch.from_numpy(raw.bits.view(f"i{size}").copy())
    return carried.view(_TORCH_DTYPES[raw.dtype]).reshape(raw.shape)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
