"""Values of a file's tensors, to draw."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import safetensors

from ectorch.errors import FormatError
from ectorch.storage.opening import safe_open

_MOST = 6


def largest_matrices(path: Path, most: int = _MOST) -> dict[str, np.ndarray]:
    """The largest real tensors of two or more dimensions in an ``.ect`` file, as float64.

    Raises:
        FormatError: when it is damaged.
        OSError: when it cannot be read.
    """
    with safe_open(path) as file:
        items = {
            name: math.prod(entry.shape)
            for name, entry in ((name, file.get_entry(name)) for name in file.keys())  # noqa: SIM118
            if len(entry.shape) > 1 and "complex" not in entry.dtype
        }
        kept = {name for name in sorted(items, key=lambda name: -items[name])[:most] if items[name]}
        return {name: file.get_tensor(name).double().numpy() for name in items if name in kept}


def float_tensors(path: Path | None, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of the tensors in a .safetensors file that it has, float64; none where there is none.

    Raises:
        FormatError: when it is damaged.
    """
    if path is None:
        return {}
    try:
        with safetensors.safe_open(path, "pt") as file:
            own = set(file.keys())
            found = {name: file.get_tensor(name) for name in names if name in own}
    except safetensors.SafetensorError as error:
        raise FormatError(f"{path}: {error}") from error
    return {name: t.double().numpy() for name, t in found.items() if not t.is_complex()}
