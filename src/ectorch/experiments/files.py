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
from ectorch.experiments.networks import NETWORKS, Network, identify
from ectorch.storage.files import load_model


def load_into(model: nn.Module, path: Path) -> None:
    """Fill a network whose tensors are those in the file."""
    if path.suffix == ".safetensors":
        model.load_state_dict(safetensors.torch.load_file(path))
    else:
        load_model(model, path)


def read_network(path: Path) -> tuple[str, Network]:
    """The network in a file: its tensors say which of `NETWORKS` it is, by name.

    Raises:
        MismatchError: when it is none of them, or of another dtype.
        FormatError: when the file is damaged.
    """
    try:
        name = identify(_shapes(path))
    except MismatchError as error:
        raise MismatchError(f"{path}: {error}") from error
    model = NETWORKS[name]()
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
