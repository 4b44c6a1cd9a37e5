"""Tensors of a file straight into tensors that are there: never two copies of everything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ectorch.arguments import shown
from ectorch.bitstream.file.index import Entry
from ectorch.bitstream.file.reader import Reader
from ectorch.constrain.modules import is_prepared
from ectorch.errors import ConfigError, MismatchError
from ectorch.storage.state import computes_itself, plain_names
from ectorch.storage.tensors import to_torch

_MOST_PROBLEMS = 5


@torch.no_grad()
def fill(
    into: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    max_decoded_bytes: int,
    threads: int | None,
) -> None:
    """Decode each tensor of a file into the tensor of its name, one after the other.

    Everything is checked before the first number changes; a file that is damaged in the middle
    leaves what came before.

    Raises:
        ConfigError: when ``into`` is neither a network nor named tensors, or a prepared network.
        MismatchError: when names, shapes or dtypes differ, or one memory is to hold two values.
        FormatError: when the file is damaged.
    """
    own = _named(into)
    with Reader(os.fspath(path), max_decoded_bytes, threads) as reader:
        problems = [*_problems(own, {entry.name: entry for entry in reader})]
        if problems:
            more = len(problems) - _MOST_PROBLEMS
            listed = "; ".join(problems[:_MOST_PROBLEMS])
            raise MismatchError(
                f"{os.fspath(path)}: {listed}" + (f"; and {more} more" if more > 0 else "")
            )
        for name, tensor in own.items():
            tensor.copy_(to_torch(reader.read(name)))


def _named(into: nn.Module | Mapping[str, Tensor]) -> dict[str, Tensor]:
    if isinstance(into, Mapping):
        return {**into}
    if not isinstance(into, nn.Module):
        raise ConfigError(f"into = {shown(into)}: expected a torch.nn.Module, or tensors by name")
    if is_prepared(into):
        raise ConfigError("into: the network is prepared: use ectorch.load_model")
    state = into.state_dict(keep_vars=True)
    names = plain_names(into, state)
    return {names[name]: value for name, value in state.items() if torch.is_tensor(value)}


def _problems(own: Mapping[str, Any], entries: Mapping[str, Entry]) -> Any:
    for name in sorted(own.keys() - entries.keys()):
        yield f"{name} is missing"
    for name in sorted(entries.keys() - own.keys()):
        yield f"{name} has no tensor to go into"
    memory: dict[tuple[torch.device, int], str] = {}
    for name in sorted(own.keys() & entries.keys()):
        mine, entry = own[name], entries[name]
        if not torch.is_tensor(mine) or is_lazy(mine) or mine.is_meta or computes_itself(mine):
            yield f"{name} is no plain tensor with values: use ectorch.load_model"
            continue
        dtype, shape = str(mine.dtype).removeprefix("torch."), tuple(mine.shape)
        if (dtype, shape) != (entry.dtype, entry.shape):
            yield f"{name} is {entry.dtype} {entry.shape}, there is room for {dtype} {shape}"
            continue
        place = mine.device, mine.untyped_storage().data_ptr()
        first = memory.setdefault(place, name) if mine.numel() else name
        if first != name and _source(entry) != _source(entries[first]):
            yield f"{first} and {name} share memory, and the file has two values"


def _source(entry: Entry) -> str:
    return entry.alias_of or entry.name
