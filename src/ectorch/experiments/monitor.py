"""What a training is judged by at the end of each epoch."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from torch import nn

from ectorch.experiments.build import expected_network
from ectorch.experiments.collapse import collapse
from ectorch.experiments.device import CPU, Device
from ectorch.experiments.evaluation import autocast, evaluate
from ectorch.experiments.inputs import arranged, values
from ectorch.experiments.progress import STAGES, State
from ectorch.experiments.recipe import Recipe
from ectorch.experiments.split import DataSet, Split, hold_out, moved
from ectorch.size.measure import SizeMeter
from ectorch.storage.discrete import discrete_state_dict

_MONITORED = 5000  # training examples that stand in where none are held out
_MEASURED = 5000  # training examples that tell the statistics of batch norms


class Monitor:
    """The examples of a run, and what is measured on them.

    Attributes:
        trained: examples that are trained on.
        judged: those held out, or of ``trained`` where none are.
        held_out: whether they are.
        measured: inputs, as the network is given them, that tell the statistics of batch norms.

    Args:
        plain: the network before anything is done to it, on ``device``.
        device: where all examples that are trained on, and all that are judged by, lie.

    Raises:
        DataError: when they do not fit there.
    """

    def __init__(
        self, recipe: Recipe, data: DataSet, plain: nn.Module, device: Device = CPU
    ) -> None:
        self._autocast = partial(autocast, recipe.precision, device.kind)
        self._plain = copy.deepcopy(plain)
        self._device = device
        self.held_out = bool(recipe.holdout)
        if self.held_out:
            parts = hold_out(data.train, recipe.holdout)
            self.trained, self.judged = (moved(data.name, part, device) for part in parts)
        else:
            self.trained = moved(data.name, data.train, device)
            self.judged = self.trained[:_MONITORED]
        self.measured = arranged(plain, values(self.trained.inputs[:_MEASURED]))

    def unseen(self, data: DataSet) -> Split:
        """What the file is evaluated on: what is held out, or else the test set."""
        return self.judged if self.held_out else moved(data.name, data.test, self._device)

    def record(
        self, model: nn.Module, state: State, epoch: int, meter: SizeMeter
    ) -> dict[str, Any]:
        """What is measured of ``model``, which is put into eval mode, after ``epoch`` epochs."""
        constrained = state.stage > 0
        with self._autocast():
            hard = evaluate(model.eval(), self.judged).error_percent
            gap = None
            if constrained:
                expected = expected_network(self._plain, model, self.measured)
                gap = evaluate(expected, self.judged).error_percent - hard
        size = meter(model) if constrained else None
        return {
            "stage": STAGES[state.stage],
            "epoch": epoch,
            "loss": state.loss_sum / state.loss_steps,
            "held_out": self.held_out,
            "error_percent": hard,
            "size_bytes": size and size.total,
            "tensor_bytes": size and size.tensors,
            "alpha": state.alpha if constrained else None,
            "gap_percent": gap,
            "warning": collapse(discrete_state_dict(model)) if constrained else None,
        }
