"""What `ectorch.quantize` did: each tensor's bits, bytes and error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ectorch.constrain.config import Config


@dataclass(frozen=True)
class Layer:
    """One tensor.

    Attributes:
        name, shape: of the tensor.
        road: "feedback" where inputs of the layer told how errors offset one another, "measured"
            where only the tensor's own sensitivity was measured, "data-free" where nothing was,
            else why it stays float.
        size_bytes: of its codebook and symbols in the file.
        step: of the grid; 0 for a float.
        levels: distinct values.
        reach: steps from zero to the farthest of them.
        noise: relative error, ``|w - q|**2 / |w|**2``.
    """

    name: str
    shape: tuple[int, ...]
    road: str
    size_bytes: int
    step: float = 0.0
    levels: int = 0
    reach: int = 0
    noise: float = 0.0

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.size_bytes / max(self.numbers, 1)


@dataclass(frozen=True)
class Report:
    """What a network became.

    Attributes:
        size_bytes: of the file that `ectorch.save_model` writes.
        float_bytes: of all numbers in the network, four bytes each.
        divergence: mean distance of its outputs from the float network's on the batches; None
            without.
        quality: what the callable that was asked said of it; None without.
        slope: divergence that a bit was worth.
        layers: in the network's order.
    """

    size_bytes: int
    float_bytes: int
    divergence: float | None
    quality: float | None
    slope: float
    layers: tuple[Layer, ...]

    @property
    def ratio(self) -> float:
        return self.float_bytes / self.size_bytes

    @property
    def roads(self) -> Mapping[str, int]:
        """Numbers a road."""
        found: dict[str, int] = {}
        for layer in self.layers:
            found[layer.road] = found.get(layer.road, 0) + layer.numbers
        return found

    def config(self, **settings: Any) -> Config:
        """Settings with which `ectorch.prepare` keeps every grid, to train on from here.

        Args:
            settings: others, see `ectorch.Config`.
        """
        weights = [layer.reach for layer in self.layers if len(layer.shape) > 1]
        biases = [layer.reach for layer in self.layers if len(layer.shape) == 1]
        levels, bias_levels = (2 * max(each, default=0) + 1 for each in (weights, biases))
        kept: dict[str, Any] = {"levels": max(levels, 3), "keep_grid": True}
        if bias_levels > 1:
            kept |= {"bias": "grid", "bias_levels": bias_levels}
        return Config(**(kept | settings))

    def __str__(self) -> str:
        wide = max((len(layer.name) for layer in self.layers), default=4)
        lines = [f"{'name':{wide}}  {'numbers':>11}  {'bytes':>10}  bits each  error  road"]
        for layer in self.layers:
            lines.append(
                f"{layer.name:{wide}}  {layer.numbers:>11,}  {layer.size_bytes:>10,}  "
                f"{layer.bits_per_weight:9.2f}  {100 * layer.noise:4.1f}%  {layer.road}"
            )
        said = f"{self.size_bytes:,} bytes (x{self.ratio:.1f} below float32)"
        if self.divergence is not None:
            said += f", divergence {self.divergence:.3g}"
        return "\n".join([*lines, said])
