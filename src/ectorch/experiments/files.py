"""Networks in files, .ect or .safetensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors.torch
from torch import nn

from ectorch.errors import EctorchError, RecipeError
from ectorch.experiments.networks import NETWORKS, Network, identify
from ectorch.storage import load_file, load_model


def load_into(model: nn.Module, path: Path) -> None:
    """Fill a network whose tensors are those in the file."""
    if path.suffix == ".safetensors":
        model.load_state_dict(safetensors.torch.load_file(path))
    else:
        load_model(model, path)


def read_network(path: Path) -> tuple[str, Network]:
    """The network in a file: its tensors say which of `NETWORKS` it is, by name.

    Raises:
        MismatchError: when it is none of them.
    """
    is_safetensors = path.suffix == ".safetensors"
    tensors = safetensors.torch.load_file(path) if is_safetensors else load_file(path)
    name = identify({key: tuple(tensor.shape) for key, tensor in tensors.items()})
    model = NETWORKS[name]()
    model.load_state_dict(tensors)
    return name, model


@contextmanager
def asked_for(key: str, path: Path) -> Iterator[None]:
    """Whatever hinders the reading of a file, as a `RecipeError` that names it and its key."""
    try:
        yield
    except (OSError, EctorchError, RuntimeError, safetensors.SafetensorError) as error:
        raise RecipeError(f"{key}: {path}: {' '.join(str(error).split())}") from error
