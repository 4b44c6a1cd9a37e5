"""What the benchmark knows of a network that somebody trained: `Trained`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from torch import Tensor, nn

Batch: TypeAlias = Tensor | dict[str, Tensor]
Quality: TypeAlias = Callable[[nn.Module], float]

BATCH = 64
CALIBRATION = 1024
ERROR = "error, percent, lower better"
COSINE = "cosine, higher better"


@dataclass(frozen=True, eq=False)
class Trained:
    """A network, inputs to calibrate on, and how good a network in its place is.

    Attributes:
        model: float32, in eval mode. ``model(batch)`` is its output, or ``model(**batch)``.
        calibration: 16 batches of 64 inputs each, none of which is test data.
        quality: of a network of the same class, on the test data; see `direction`.
        selection: the same on data that is neither test nor calibration data, for whatever is
            chosen by looking.
        direction: `ERROR` or `COSINE`.
        divergence: the loss between the float network's outputs and another's that fits them.
        more: other measures on the test data, by name.
    """

    name: str
    model: nn.Module
    calibration: tuple[Batch, ...]
    quality: Quality
    selection: Quality
    direction: str
    divergence: Literal["kl", "cosine"]
    more: Mapping[str, Quality] = field(default_factory=dict)

    @property
    def lower_is_better(self) -> bool:
        return self.direction == ERROR

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())
