"""Tensors by name out of .safetensors files and torch's checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ectorch.cli.terminal import readable
from ectorch.errors import FormatError

_STATE_DICTS = ("state_dict", "model_state_dict", "model", "module", "network", "net", "weights")
_EXPECTED = "expected one state dict: torch.save(model.state_dict(), path)"


def read_tensors(source: Path) -> tuple[dict[str, Any], dict[str, str], str]:
    """Tensors by name, the metadata, and what a checkpoint holds besides, for the user to read.

    Raises:
        FormatError: when it is damaged, or it is not clear what its tensors are.
        OSError: when it cannot be read.
    """
    readable(source)
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
