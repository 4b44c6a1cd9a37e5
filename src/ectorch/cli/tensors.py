"""Tensors by name out of .safetensors files, shards of them, and torch's checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ectorch.cli.terminal import readable
from ectorch.errors import FormatError

_STATE_DICTS = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights")
_INDEX = ".safetensors.index.json"
_EXPECTED = "expected one state dict: torch.save(model.state_dict(), path)"


def read_tensors(source: Path) -> tuple[dict[str, Any], dict[str, str], str]:
    """Tensors by name, the metadata, and what a checkpoint holds besides, for the user to read.

    Raises:
        FormatError: when it is damaged, or it is not clear what its tensors are.
        OSError: when it cannot be read.
    """
    if source.is_dir():
        source = _index_in(source)
    readable(source)
    if source.name.endswith(_INDEX):
        return *_read_shards(source), ""
    if source.suffix == ".ect":
        raise FormatError(f"{source}: an .ect file already")
    if source.suffix == ".safetensors":
        return *_read_safetensors(source), ""
    from ectorch.experiments.files import load_checkpoint

    try:
        loaded = load_checkpoint(source)
    except FormatError as error:
        raise FormatError(f"{error}; {_EXPECTED}") from error
    if not isinstance(loaded, dict):
        raise FormatError(f"{source}: a {type(loaded).__name__}; {_EXPECTED}")
    key = _state_dict_key(loaded, source)
    if key is None:
        return loaded, {}, ""
    rest = ", ".join(str(other) for other in loaded if other != key)
    return loaded[key], {}, f"{key!r} of {source}" + (f"; left out: {rest}" if rest else "")


def size_bytes(source: Path) -> int:
    """Bytes of a checkpoint, those of all its shards, which `read_tensors` has read."""
    index = _index_in(source) if source.is_dir() else source
    if not index.name.endswith(_INDEX):
        return index.stat().st_size
    shards = set(_weight_map(index).values())
    return sum((index.parent / shard).stat().st_size for shard in shards)


def _index_in(folder: Path) -> Path:
    found = [*folder.glob(f"*{_INDEX}")] or [*folder.glob("*.safetensors")]
    if len(found) != 1:
        raise FormatError(
            f"{folder}: {len(found)} files that end in .safetensors or {_INDEX}; expected one: "
            "give the file itself"
        )
    return found[0]


def _weight_map(index: Path) -> dict[str, str]:
    """Of an index of shards: the shard of each tensor, by name."""
    try:
        found = json.loads(index.read_bytes())["weight_map"]
        if all(isinstance(each, str) for pair in found.items() for each in pair):
            return dict(found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{index}: no index of shards, with a weight_map") from error
    raise FormatError(f"{index}: weight_map has something else than names")


def _read_shards(index: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """The tensors of all shards: those that the index names, neither more nor fewer."""
    wanted = _weight_map(index)
    tensors: dict[str, Any] = {}
    metadata: dict[str, str] = {}
    for shard in sorted(set(wanted.values())):
        if Path(shard).name != shard:
            raise FormatError(f"{index}: {shard!r} is no name of a file beside it")
        found, own = _read_safetensors(readable(index.parent / shard))
        named = {name for name, where in wanted.items() if where == shard}
        for name in sorted(named ^ found.keys()):
            side = "lacks" if name in named else "has, and the index does not name there,"
            raise FormatError(f"{index.parent / shard} {side} {name}")
        tensors |= found
        metadata |= own
    return tensors, metadata


def _read_safetensors(source: Path) -> tuple[dict[str, Any], dict[str, str]]:
    import safetensors

    try:
        with safetensors.safe_open(source, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise FormatError(f"{source}: {error}") from error


def _state_dict_key(loaded: Mapping[Any, Any], source: Path) -> Any:
    """The key of the one state dict of a training's checkpoint; None where it is one itself."""
    if _is_state_dict(loaded):
        return None
    candidates = [key for key, value in loaded.items() if _is_network(key, value)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        found = f"{len(candidates)} state dicts ({', '.join(map(str, candidates))})"
    else:
        found = f"no state dict under the keys {', '.join(map(str, loaded)) or '(none)'}"
    raise FormatError(f"{source}: {found}; {_EXPECTED}")


def _is_network(key: Any, value: Any) -> bool:
    """Whether it is the state dict of a network, and not of random numbers or of metrics."""
    return _is_state_dict(value) and (
        key in _STATE_DICTS
        or any(tensor.is_floating_point() and tensor.ndim for tensor in value.values())
    )


def _is_state_dict(value: Any) -> bool:
    import torch

    return isinstance(value, Mapping) and all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in value.items()
    )
