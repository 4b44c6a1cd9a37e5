"""Networks and tensors <-> ``.ect`` files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ectorch.arguments import check_module
from ectorch.bitstream.file.names import check_metadata
from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.bitstream.file.writer import encode_file, write_file
from ectorch.errors import UnsupportedTensorError
from ectorch.storage.filling import fill
from ectorch.storage.state import load_state
from ectorch.storage.tensors import (
    Device,
    check_is_there,
    parse_device,
    raw_sources,
    raw_tensors,
    to_torch,
)

_Path = str | os.PathLike[str]


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
    tensors: nn.Module | Mapping[str, Tensor] | Iterable[tuple[str, Tensor]],
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

    Not all of them need fit memory: a mapping that reads a tensor when it is asked for one, or an
    iterable of pairs, is read a few tensors at a time, and what they become waits in a temporary
    file beside ``path``.

    Args:
        tensors: by name, of any dtype in `ectorch.bitstream.DTYPES`, any shape, any device; or
            pairs of name and tensor, sorted by name; or a module.
        metadata: strings by name; they cost their length.
        preset: "small" tries everything and keeps the smallest for each tensor; "balanced" is
            about as small in a fraction of the time; "fast" codes symbols by their frequency alone.
        threads: that code; all cores if None. The bytes do not depend on it.

    Returns:
        the file's size in bytes.

    Raises:
        ConfigError: for another preset, metadata that are no text, or pairs that are not sorted.
        MismatchError: when the state dict of a prepared model leaves a constrained parameter out.
        UnsupportedTensorError: for a sparse, quantized, lazy or other unknown tensor, or what is no
            tensor at all (as `get_extra_state` may give), by its name.
    """
    check_metadata(metadata or {})
    return write_file(path, raw_sources(tensors), metadata, preset, threads)


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
    device: Device = "cpu",
    *,
    into: nn.Module | Mapping[str, Tensor] | None = None,
    max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
    threads: int | None = None,
) -> dict[str, Tensor]:
    """The tensors of an ``.ect`` file, by name, bit for bit.

    Tied tensors come as separate copies; `load_model` puts them into a model that ties them.

    Args:
        device: where they go.
        into: a network, or tensors by name, to be filled one after the other, where they are: the
            file's tensors are never in memory together. Names, shapes and dtypes have to be those
            of the file. Nothing is returned then but the empty dict.
        max_decoded_bytes: refuse files whose tensors and names take more.
        threads: that decode; all cores if None.

    Raises:
        ConfigError: for another device, or one that is not there; for another ``into``.
        FormatError: when the file is damaged, too new or too large.
        MismatchError: when ``into`` does not fit; it is left as it was.
        OSError: when it cannot be opened.
    """
    if into is not None:
        fill(into, path, max_decoded_bytes, threads)
        return {}
    place = parse_device(device)
    check_is_there(place)
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


def _load(source: str | bytes, max_decoded_bytes: int, threads: int | None) -> dict[str, Tensor]:
    with Reader(source, max_decoded_bytes, threads) as reader:
        return {name: to_torch(raw) for name, raw in reader.read_all().items()}
