"""Networks in files, .ect or .safetensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from torch import nn

from ectorch.bitstream import Reader
from ectorch.errors import EctorchError, FormatError, RecipeError
from ectorch.experiments.networks import NETWORKS, Network, identify
from ectorch.storage import load_model


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
    name = identify(_shapes(path))
    model = NETWORKS[name]()
    load_into(model, path)
    return name, model


@contextmanager
def asked_for(key: str, path: Path) -> Iterator[None]:
    """Whatever hinders the reading of a file, as a `RecipeError` that names it and its key."""
    try:
        yield
    except (OSError, EctorchError, RuntimeError, safetensors.SafetensorError) as error:
        raise RecipeError(f"{key}: {path}: {' '.join(str(error).split())}") from error


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix != ".safetensors":
        with Reader(path) as reader:
            return {entry.name: entry.shape for entry in reader}
    try:
        with safetensors.safe_open(path, "pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path}: {error}") from error
