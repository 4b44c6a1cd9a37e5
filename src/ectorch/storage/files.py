"""Networks <-> ``.ect`` files: the room that joins torch and the bitstream."""

from __future__ import annotations

import math
import operator
import os
import warnings
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ectorch.arguments import check_module
from ectorch.bitstream.file.index import MAX_DIMENSIONS, Entry
from ectorch.bitstream.file.names import check_metadata, check_name
from ectorch.bitstream.file.numpy_io import to_array
from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.bitstream.file.writer import encode_file, write_file
from ectorch.bitstream.tensor import DTYPES, RawTensor, bits_dtype
from ectorch.constrain.modules import latent_names
from ectorch.errors import ConfigError, UnknownTensorError, UnsupportedTensorError
from ectorch.storage.state import computes_itself, file_state, load_state

_Path = str | os.PathLike[str]
_TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}
_DTYPE_NAMES = {dtype: name for name, dtype in _TORCH_DTYPES.items()}
# Bit patterns travel between torch and NumPy as signed integers: every torch has those.
_CARRIERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_FRAMEWORKS = {"pt": torch, "torch": torch, "pytorch": torch, "np": np, "numpy": np}
_Device = str | int | torch.device


def save(
    model: nn.Module | Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> bytes:
    """The bytes that `save_file` writes."""
    check_metadata(metadata or {})
    return encode_file(raw_tensors(model), metadata, preset, threads)


def save_file(
    tensors: nn.Module | Mapping[str, Tensor],
    path: _Path,
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> int:
    """Write any dict of tensors losslessly as an ``.ect`` file; a network as `save_model` does.

    A tensor of few distinct bit patterns becomes a codebook and coded symbols, anything else exact
    floats. The file is a pure function of the tensors sorted by name, the metadata and the preset,
    for one version of ectorch and of zstandard; it appears whole or not at all, see
    `ectorch.bitstream.write_atomic`.

    Args:
        tensors: by name, of any dtype in `ectorch.bitstream.DTYPES`, any shape, any device; or a
            module.
        metadata: strings by name; they cost their length.
        preset: "small" tries everything and keeps the smallest for each tensor; "balanced" is
            about as small in a fraction of the time; "fast" codes symbols by their frequency alone.
        threads: that code; all cores if None. The bytes do not depend on it.

    Returns:
        the file's size in bytes.

    Raises:
        ConfigError: for another preset, or metadata that are no text.
        MismatchError: when the state dict of a prepared model leaves a constrained parameter out.
        UnsupportedTensorError: for a sparse, quantized, lazy or other unknown tensor, or what is no
            tensor at all (as `get_extra_state` may give), by its name.
    """
    check_metadata(metadata or {})
    return write_file(path, raw_tensors(tensors), metadata, preset, threads)


def save_model(
    model: nn.Module,
    path: _Path,
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> int:
    """Write a network as an ``.ect`` file: `save_file` of its state dict, under plain names.

    Args:
        model: one that is still prepared is stored as `convert` would leave it, one that
            `torch.compile` or ``DataParallel`` wraps under its own names.
        metadata, preset, threads: see `save_file`.

    Returns:
        the file's size in bytes.

    Raises:
        ConfigError: when ``model`` is no module, and as `save_file`.
        MismatchError: when the state dict of a prepared model leaves a constrained parameter out.
        UnsupportedTensorError: as `save_file`.
    """
    check_module("save_model", model)
    return save_file(model, path, metadata, preset, threads)


def load(
    data: bytes,
    max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
    *,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """The tensors of an ``.ect`` file's bytes, by name; see `load_file`."""
    return _load(data, max_decoded_bytes, threads)


def load_file(
    path: _Path,
    device: _Device = "cpu",
    *,
    max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """The tensors of an ``.ect`` file, by name, bit for bit.

    Tied tensors come as separate copies; `load_model` puts them into a model that ties them.

    Args:
        device: where they go.
        max_decoded_bytes: refuse files whose tensors and names take more.
        threads: that decode; all cores if None.

    Raises:
        ConfigError: for another device, or one that is not there.
        FormatError: when the file is damaged, too new or too large.
        OSError: when it cannot be opened.
    """
    place = _parse_device(device)
    _check_is_there(place)
    tensors = _load(os.fspath(path), max_decoded_bytes, threads)
    return {name: tensor.to(place) for name, tensor in tensors.items()}


def load_model(
    model: nn.Module,
    path: _Path,
    strict: bool = True,
    *,
    max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
    threads: int | None = None,
) -> nn.Module:
    """Load an ``.ect`` file into a model of the same architecture, on any device.

    A name that the file lacks is there if the model ties it to one that the file has. What is on
    meta is assigned, on the CPU; what is lazy gets its shape. A model that is still prepared starts
    its codebooks from the weights; wrappers (`torch.compile`, ``DataParallel``) have no names. A
    file has no versions of modules: its tensors are those of the classes as they are now.

    Args:
        strict: names have to be the same on both sides; else what both have is loaded, and the rest
            stays: compare ``safe_open(path).keys()`` to know it.

    Returns:
        ``model``.

    Raises:
        ConfigError: when ``model`` is no module.
        MismatchError: when names, shapes or dtypes differ, the file has two values for what the
            model ties, or no name in common; the model is left as it was.
        FormatError: as `load_file`.
    """
    check_module("load_model", model)
    stored = _load(os.fspath(path), max_decoded_bytes, threads)
    load_state(model, stored, strict, path)
    return model


class safe_open:  # noqa: N801 - the name that safetensors' users know
    """Open an ``.ect`` file and decode single tensors; blocks of the others are not read.

    A small tensor may have been coded with what an earlier one tells of it: then that is read too.

    Threads, and processes over a fork, may share it. It is pickled as its path, and what comes back
    reads the very same file or raises `FormatError`, as reading does once the file has changed.

    Args:
        framework: "pt" gives tensors; "numpy" gives arrays, as `ectorch.bitstream.load_file` does.
        device: where tensors go.
        max_decoded_bytes, threads: as `load_file`.

    Raises:
        ConfigError: for another framework or device, or when it is read after it was closed, or to
            a device that is not there.
        FormatError: when the header is damaged, or a tensor that is asked for is.
        UnknownTensorError: when there is no tensor of a name that is asked for.
    """

    def __init__(
        self,
        path: _Path,
        framework: str = "pt",
        device: _Device = "cpu",
        *,
        max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
        threads: int | None = None,
    ) -> None:
        if framework not in _FRAMEWORKS:
            known = ", ".join(_FRAMEWORKS)
            raise ConfigError(f"framework {framework!r} is unknown, known: {known}")
        self._device = _parse_device(device)
        self._numpy = _FRAMEWORKS[framework] is np
        if self._numpy and self._device.type != "cpu":
            raise ConfigError(f"device {device!r}: arrays of NumPy are on the CPU")
        self._path, self._closed = os.fspath(path), False
        self._reader = Reader(path, max_decoded_bytes, threads)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        self._reader.__exit__(*error)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """Names in the order of the file."""
        return list(self._open().entries)

    def offset_keys(self) -> list[str]:
        """As `keys`."""
        return self.keys()

    def metadata(self) -> dict[str, str]:
        return dict(self._open().metadata)

    def get_entry(self, name: str) -> Entry:
        """Shape, dtype, coding and stored bytes of one tensor, from the header alone."""
        entries = self._open().entries
        if name not in entries:
            near = get_close_matches(str(name), entries, 3)
            hint = f", near: {', '.join(near)}" if near else ""
            raise UnknownTensorError(f"{self._path}: no tensor {name!r}{hint}")
        return entries[name]

    def get_tensor(self, name: str) -> Any:
        """Decode one tensor."""
        return self._read(self.get_entry(name))

    def get_slice(self, name: str) -> TensorSlice:
        """One tensor to index: ``file.get_slice(name)[10:20]`` decodes the chunks of those rows."""
        return TensorSlice(self, name)

    def _read(self, entry: Entry, rows: range | None = None) -> Any:
        reader = self._open()
        _check_is_there(self._device)
        raw = reader.read(entry.name, rows)
        return to_array(raw) if self._numpy else _to_torch(raw).to(self._device)

    def _open(self) -> Reader:
        if self._closed:
            raise ConfigError(f"{self._path} is closed: read it before its with block ends")
        return self._reader


class TensorSlice:
    """A tensor of a file that is decoded as far as it is indexed, as safetensors has it."""

    def __init__(self, file: safe_open, name: str) -> None:
        self._file, self._entry = file, file.get_entry(name)

    def get_shape(self) -> list[int]:
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """A key of `ectorch.bitstream.DTYPES`."""
        return self._entry.dtype

    def __getitem__(self, index: object) -> Any:
        """What ``get_tensor(name)[index]`` is; rows outside of a first integer or slice stay coded.

        Raises:
            IndexError, ValueError: as a tensor does.
        """
        places = index if isinstance(index, tuple) else (index,)
        shape, first = self._entry.shape, places[0] if places else None
        by_rows = isinstance(first, (int, np.integer, slice)) and not isinstance(first, bool)
        if not shape or not by_rows:
            return self._file._read(self._entry)[index]
        if isinstance(first, slice):
            wanted = range(shape[0])[first]
            if wanted.step < 1:
                raise ValueError(f"{self._entry.name}: slices go forward, step is {wanted.step}")
        else:
            at = operator.index(first)  # type: ignore[arg-type]
            if not -shape[0] <= at < shape[0]:
                raise IndexError(f"{self._entry.name}: row {at} of {shape[0]}")
            wanted = range(shape[0])[at:][:1]
        rows = range(wanted.start, wanted[-1] + 1) if wanted else range(0)
        part = self._file._read(self._entry, rows)
        own = slice(None, None, wanted.step) if isinstance(first, slice) else 0
        return part[(own, *places[1:])]


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a ``.safetensors`` file.

    Raises:
        UnsupportedTensorError: for a name that such a file cannot have.
    """
    import safetensors.torch

    if "__metadata__" in tensors:
        raise UnsupportedTensorError(
            "__metadata__ is no name for a tensor in .safetensors, where metadata have it: rename"
        )
    return safetensors.torch.save(dict(tensors), dict(metadata) or None)


def raw_tensors(model: nn.Module | Mapping[str, Tensor]) -> dict[str, RawTensor]:
    """What a file holds of a network, or of tensors by name.

    Raises:
        UnsupportedTensorError: as `save_file`.
    """
    state = file_state(model) if isinstance(model, nn.Module) else model
    if not isinstance(state, Mapping):
        raise UnsupportedTensorError(f"{type(state).__name__}: expected a module or named tensors")
    if latent := latent_names(state):
        warnings.warn(
            f"{latent[0]} is stored as it trains, on no level: these are tensors of a network that "
            "is still prepared; save the network itself, or ectorch.finalize it first",
            stacklevel=3,
        )
    return {name: to_raw(name, value) for name, value in state.items()}


def _load(source: str | bytes, max_decoded_bytes: int, threads: int | None) -> dict[str, Tensor]:
    with Reader(source, max_decoded_bytes, threads) as reader:
        return {name: _to_torch(raw) for name, raw in reader.read_all().items()}


def to_raw(name: str, tensor: Tensor) -> RawTensor:
    """The bits of a tensor, for the bitstream.

    Raises:
        UnsupportedTensorError: when it cannot be stored.
    """
    kind = type(tensor).__name__
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        hint = ": use torch.from_numpy" if isinstance(tensor, np.ndarray) else ""
        raise UnsupportedTensorError(f"{name!r}: {kind}, expected a named tensor{hint}")
    check_name(name)
    if is_lazy(tensor):
        raise UnsupportedTensorError(f"{name}: cannot store a lazy {kind}: run one batch first")
    if computes_itself(tensor):
        raise UnsupportedTensorError(
            f"{name}: cannot store a {kind}, which is more than its plain bits: make it a "
            "torch.Tensor (full_tensor(), dequantize(), as_subclass(torch.Tensor))"
        )
    dtype = _DTYPE_NAMES.get(tensor.dtype)
    if dtype is None or tensor.layout != torch.strided or tensor.is_meta or tensor.is_nested:
        raise UnsupportedTensorError(
            f"{name}: cannot store {tensor.dtype} with layout {tensor.layout} on {tensor.device}; "
            f"known dtypes: {', '.join(DTYPES)}"
        )
    _check_shape(name, tensor.shape, DTYPES[dtype])
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    try:
        has_bits = flat.data_ptr() != 0 or not flat.numel()
    except RuntimeError:  # within torch.func's transforms
        has_bits = False
    if not has_bits:
        raise UnsupportedTensorError(f"{name}: cannot store a tensor of a trace or of torch.func")
    bits = flat.view(_CARRIERS[DTYPES[dtype]]).numpy().view(bits_dtype(dtype))
    return RawTensor(dtype, tuple(tensor.shape), bits)


def _check_shape(name: str, shape: torch.Size, item_bytes: int) -> None:
    """Refuse what `Reader` would: it counts a dimension of size 0 as 1."""
    counted = math.prod(max(size, 1) for size in shape) * item_bytes
    if len(shape) > MAX_DIMENSIONS or (0 in shape and counted > DEFAULT_MAX_DECODED_BYTES):
        raise UnsupportedTensorError(f"{name}: no reader takes the shape {tuple(shape)}")


def _parse_device(device: _Device) -> torch.device:
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device {device!r}: {str(error).splitlines()[0]}") from None


def _check_is_there(device: torch.device) -> None:
    """Refuse a device that takes no tensor: of a torch built without it, say."""
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"device '{device}': {str(error).splitlines()[0]}") from None


def _to_torch(raw: RawTensor) -> Tensor:
    bits = raw.bits if raw.bits.flags.writeable else raw.bits.copy()
    carried = torch.from_numpy(bits.view(f"i{DTYPES[raw.dtype]}"))
    return carried.view(_TORCH_DTYPES[raw.dtype]).reshape(raw.shape)
