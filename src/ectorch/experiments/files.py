"""Networks in files, .ect or .safetensors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ectorch.bitstream import Reader
from ectorch.errors import EctorchError, FormatError, MismatchError, RecipeError
from ectorch.experiments.build import make_network
from ectorch.experiments.networks import identify
from ectorch.storage.files import load_model
from ectorch.storage.state import load_state


def load_into(model: nn.Module, path: Path) -> None:
    """Fill a network whose tensors are those in the file; floats of .safetensors take its dtype.

    Raises:
        MismatchError: when names, shapes or other dtypes differ; the network is left as it was.
        FormatError: when an .ect file is damaged.
        SafetensorError: when a .safetensors file is.
        OSError: when it cannot be read.
    """
    if path.suffix != ".safetensors":
        load_model(model, path)
        return
    stored, own = safetensors.torch.load_file(path), model.state_dict()
    for name in stored.keys() & own.keys():
        if stored[name].is_floating_point() and own[name].is_floating_point():
            stored[name] = stored[name].to(own[name].dtype)
    load_state(model, stored, True, path)


def read_network(path: Path, network: str = "", key: str = "network") -> tuple[str, nn.Module]:
    """The network in a file, and its name.

    Args:
        network: its name, see `make_network`; if empty its tensors say which of `NETWORKS` it is.
        key: of the recipe or command that has it, for errors.

    Raises:
        MismatchError: when it is none of them, or not the one, or of another dtype.
        RecipeError: when there is no network of that name.
        FormatError: when the file is damaged.
    """
    try:
        name = network or identify(_shapes(path))
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from error
    model = make_network(name, key)
    load_into(model, path)
    return name, model


@contextmanager
def asked_for(key: str, path: Path) -> Iterator[None]:
    """Whatever hinders the reading of a file, as a `RecipeError` that names it and its key."""
    try:
        yield
    except (OSError, EctorchError, RuntimeError, ValueError, SafetensorError) as error:
        raise RecipeError(f"{key}: {path}: {_cause(error, path)}") from error


def _cause(error: Exception, path: Path) -> str:
    """What an error says of a file, without the name."""
    if isinstance(error, FileNotFoundError):  # safetensors' has no number
        return os.strerror(errno.ENOENT)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()).removeprefix(f"{path}: ")


def load_checkpoint(path: Path) -> Any:
    """What ``torch.save`` wrote into ``path``: tensors, numbers, strings and containers of these.

    Raises:
        FormatError: when it is damaged, or holds anything else.
        OSError: when it cannot be read.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a pickle that is none may end in any of them
        raise FormatError(
            f"{path}: no checkpoint of tensors, numbers and strings only "
            f"({type(error).__name__}), or it is damaged"
        ) from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix != ".safetensors":
        with Reader(path) as reader:
            return {entry.name: entry.shape for entry in reader}
    try:
        with safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise FormatError(f"{path}: {error}") from error
