"""What a training says while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The caller asked to stop; a checkpoint of this very step is on disk."""


@dataclass(frozen=True)
class Progress:
    """Where the training stands; the measurements are of the end of the last epoch.

    Attributes:
        loss: mean of the epoch so far, nats, without the penalty.
        error_percent: of the hard network on held-out images (``held_out``), or else on training
            images; None before the first epoch has ended.
        size_bytes: what the file would take now; None while the network is float.
        tensor_bytes: what each tensor takes of it, by name.
        warning: what looks lost, and what to do; None where all is well.
        alpha: of the last step; None while the network is float.
        gap_percent: error of the soft network (expected weights) minus that of the hard one.
    """

    stage: str
    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    held_out: bool
    error_percent: float | None = None
    size_bytes: float | None = None
    gap_percent: float | None = None
    alpha: float | None = None
    tensor_bytes: Mapping[str, int] | None = None
    warning: str | None = None

    @property
    def ends_epoch(self) -> bool:
        """Whether what is measured is of this very step."""
        return self.step * self.epochs % self.steps == 0
