"""What a training says while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STAGES = ("pretrain", "reduce", "constrain", "finetune")


class Interrupted(Exception):  # noqa: N818 - nothing went wrong
    """The caller asked to stop; a checkpoint of this very step is on disk."""


@dataclass
class State:
    """Where a run stands; a checkpoint has it beside the tensors.

    Attributes:
        stage: an index into `STAGES`.
        step: of the stage, that comes next.
        seconds: of training, up to the last checkpoint.
        epochs: records of those that ended, of all stages.
        loss_sum: nats, over the ``loss_steps`` steps of this epoch.
        alpha: of the last step.
    """

    stage: int = 0
    step: int = 0
    seconds: float = 0.0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    loss_sum: float = 0.0
    loss_steps: int = 0
    alpha: float = 0.0


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

    @classmethod
    def of(cls, state: State, steps: int, epochs: int, held_out: bool) -> Progress:
        """That of a run which has done ``state.step`` of the ``steps`` of its stage."""
        last = (state.epochs or [{}])[-1]
        measured = ("error_percent", "size_bytes", "gap_percent", "alpha", "tensor_bytes")
        return cls(
            STAGES[state.stage],
            state.step,
            steps,
            (state.step - 1) * epochs // steps + 1,
            epochs,
            state.loss_sum / state.loss_steps,
            held_out,
            **{key: last.get(key) for key in (*measured, "warning")},
        )

    @property
    def ends_epoch(self) -> bool:
        """Whether what is measured is of this very step."""
        return self.step * self.epochs % self.steps == 0
