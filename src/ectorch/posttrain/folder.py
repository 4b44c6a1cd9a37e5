"""What was measured and gathered, kept in a folder: a rounding that was killed goes on from there.

A folder belongs to one network, batches and settings, of which it keeps a digest. Every file in it
appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ectorch.bitstream import write_atomic
from ectorch.errors import ConfigError
from ectorch.posttrain.feedback import Factor
from ectorch.posttrain.statistics import Statistics

_NUMBERS = "measured.json"
_VERSION = "1"


class Folder:
    """A working folder.

    Args:
        path: is made where it is not there.
        digest: of what it is for, see `digest_of`.

    Raises:
        ConfigError: when it holds the work on something else, or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], digest: str) -> None:
        self._path = Path(path)
        self._path.mkdir(parents=True, exist_ok=True)
        self._numbers: dict[str, Any] = {"digest": digest, "sensitivity": {}, "size": {}}
        if (self._path / _NUMBERS).exists():
            self._numbers = self._read()
            if self._numbers["digest"] != digest:
                raise ConfigError(
                    f"{self._path} has the work on another network, other batches or settings: "
                    "give another folder, or delete it"
                )

    @property
    def sensitivities(self) -> dict[str, float]:
        """By name, what was measured."""
        return dict(self._numbers["sensitivity"])

    def note_sensitivity(self, name: str, value: float) -> None:
        self._numbers["sensitivity"][name] = value
        self._write()

    def size(self, slope: float) -> int | None:
        """Bytes of the file at a slope, if it was tried."""
        known: int | None = self._numbers["size"].get(repr(slope))
        return known

    def note_size(self, slope: float, size_bytes: int) -> None:
        self._numbers["size"][repr(slope)] = size_bytes
        self._write()

    def keep(self, name: str, statistics: Statistics) -> None:
        """Keep the statistics of a tensor."""
        tensors, numbers = {}, {"trace": statistics.trace}
        for key in ("mean", "importance"):
            if (value := getattr(statistics, key)) is not None:
                tensors[key] = value.contiguous()
        if (factor := statistics.factor) is not None:
            tensors |= {"upper": factor.upper.contiguous(), "order": factor.order.contiguous()}
            numbers |= {"square": factor.mean, "damping": factor.damping}
        metadata = {key: repr(value) for key, value in numbers.items()}
        write_atomic(self._file(name), [safetensors.torch.save(tensors, metadata)])

    def statistics(self) -> KeptStatistics:
        """Those that were kept, read one by one."""
        return KeptStatistics(self)

    def has(self, name: str) -> bool:
        """Whether statistics of a tensor were kept."""
        return self._file(name).exists()

    def read(self, name: str) -> Statistics:
        """The statistics of a tensor.

        Raises:
            ConfigError: when their file is damaged.
        """
        path = self._file(name)
        try:
            with safetensors.safe_open(path, "pt") as file:
                found = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
                numbers = {key: float(value) for key, value in file.metadata().items()}
        except (OSError, SafetensorError, ValueError) as error:
            raise ConfigError(f"{path}: damaged ({error}): delete it") from error
        factor = None
        if "upper" in found:
            damping = numbers["damping"]
            factor = Factor(found["upper"], found["order"], numbers["square"], damping)
        return Statistics(factor, numbers["trace"], found.get("mean"), found.get("importance"))

    def _file(self, name: str) -> Path:
        return self._path / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.safetensors"

    def _read(self) -> dict[str, Any]:
        path = self._path / _NUMBERS
        try:
            numbers = json.loads(path.read_text())
            if {"digest", "sensitivity", "size"} <= numbers.keys():
                return dict(numbers)
        except (ValueError, AttributeError) as error:
            raise ConfigError(f"{path}: damaged ({error}): delete the folder") from error
        raise ConfigError(f"{path}: no work of quantize: give another folder")

    def _write(self) -> None:
        write_atomic(self._path / _NUMBERS, [json.dumps(self._numbers, indent=1).encode()])


class KeptStatistics(Mapping[str, Statistics]):
    """Statistics by name, in a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def __getitem__(self, name: str) -> Statistics:
        if not self._folder.has(name):
            raise KeyError(name)
        return self._folder.read(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._folder.has(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._folder.sensitivities if self._folder.has(name))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def digest_of(model: nn.Module, batches: object, settings: Iterable[object]) -> str:
    """SHA-256 of a network's tensors, of batches, and of settings by their text."""
    digest = hashlib.sha256(_VERSION.encode())
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            _add(digest, tensor)
    for leaf in pytree.tree_leaves(batches):
        if isinstance(leaf, Tensor):
            _add(digest, leaf)
    digest.update(repr([*settings]).encode())
    return digest.hexdigest()


def _add(digest: Any, tensor: Tensor) -> None:
    digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    digest.update(flat.view(torch.uint8).numpy().data)
