"""Torch tensors <-> the bits that the bitstream codes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ectorch.arguments import shown
from ectorch.bitstream.file.index import MAX_DIMENSIONS
from ectorch.bitstream.file.names import check_name
from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES
from ectorch.bitstream.file.writer import Tensors
from ectorch.bitstream.tensor import DTYPES, RawTensor, bits_dtype
from ectorch.constrain.modules import latent_names
from ectorch.errors import ConfigError, UnsupportedTensorError
from ectorch.storage.state import computes_itself, file_state

Device = str | int | torch.device

_TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}
_DTYPE_NAMES = {dtype: name for name, dtype in _TORCH_DTYPES.items()}
# Bit patterns travel between torch and NumPy as signed integers: every torch has those.
_CARRIERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def raw_tensors(model: nn.Module | Mapping[str, Tensor]) -> dict[str, RawTensor]:
    """What a file holds of a network, or of tensors by name.

    Raises:
        UnsupportedTensorError: as `save_file`.
    """
    state = file_state(model) if isinstance(model, nn.Module) else model
    if not isinstance(state, Mapping):
        raise UnsupportedTensorError(f"{type(state).__name__}: expected a module or named tensors")
    _warn_of_latent(state)
    return {name: to_raw(name, value) for name, value in state.items()}


def raw_sources(
    tensors: nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
) -> Tensors:
    """`raw_tensors`, which reads what is no plain dict one by one, when it is written.

    Raises:
        UnsupportedTensorError: as `save_file`.
    """
    if isinstance(tensors, (nn.Module, dict)):
        return raw_tensors(tensors)
    if isinstance(tensors, Mapping):
        _warn_of_latent(tensors)
        return _RawTensors(tensors)
    if isinstance(tensors, Iterable) and not isinstance(tensors, (str, bytes, Tensor)):
        return _pairs(tensors)
    raise UnsupportedTensorError(f"{type(tensors).__name__}: expected a module or named tensors")


def _warn_of_latent(names: Collection[str]) -> None:
    if latent := latent_names(dict.fromkeys(names)):
        warnings.warn(
            f"{latent[0]} is stored as it trains, on no level: these are tensors of a network that "
            "is still prepared; save the network itself, or ectorch.finalize it first",
            stacklevel=4,
        )


class _RawTensors(Mapping[str, RawTensor]):
    """The bits of a mapping's tensors, read when they are asked for."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> RawTensor:
        return to_raw(name, self._tensors[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _pairs(pairs: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, RawTensor]]:
    for pair in pairs:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise UnsupportedTensorError(f"{shown(pair)}: expected pairs of a name and a tensor")
        yield pair[0], to_raw(*pair)


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


def parse_device(device: Device) -> torch.device:
    """The device of a name or index.

    Raises:
        ConfigError: when torch knows none of it.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device {device!r}: {str(error).splitlines()[0]}") from None


def check_is_there(device: torch.device) -> None:
    """Refuse a device that takes no tensor: of a torch built without it, say.

    Raises:
        ConfigError: why.
    """
    try:
        torch.empty(0, device=device)
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"device '{device}': {str(error).splitlines()[0]}") from None


def to_torch(raw: RawTensor) -> Tensor:
    """The tensor of some bits, on the CPU."""
    bits = raw.bits if raw.bits.flags.writeable else raw.bits.copy()
    carried = torch.from_numpy(bits.view(f"i{DTYPES[raw.dtype]}"))
    return carried.view(_TORCH_DTYPES[raw.dtype]).reshape(raw.shape)
