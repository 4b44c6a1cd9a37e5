"""What steps lose: read as it comes, or summed up on a device that runs ahead of the program."""

from __future__ import annotations

import torch
from torch import Tensor

from ectorch.experiments.device import Device
from ectorch.experiments.progress import State

MOST_UNREAD = 100  # steps: a read waits for the device, and what diverged is found so late at most


class Losses:
    """The losses of a run's steps, on their way into its `State`.

    Where the device runs ahead no step reads a number: sums of loss and objective stay there until
    `read` fetches both. A sum is not finite from the first term on that is not.

    Attributes:
        unread: steps whose losses the state does not have yet.
    """

    def __init__(self, device: Device) -> None:
        self._runs_ahead, self.unread = device.runs_ahead, 0
        self._sums = torch.zeros(2, dtype=torch.float64, device=device.place)

    def begin(self, state: State) -> None:
        """Go on from the sum of ``state``, at the start of an epoch or amid one."""
        self._sums.zero_()
        self._sums[0] += state.loss_sum
        self.unread = 0

    def add(self, loss: Tensor, objective: Tensor, state: State) -> None:
        """Those of a step, () each."""
        if self._runs_ahead:
            self._sums += torch.stack([loss.detach().double(), objective.detach().double()])
            self.unread += 1
        else:
            state.loss_sum += loss.item()
            state.loss_steps += 1

    def is_due(self, state: State) -> bool:
        """Whether to `read`: often, and at an epoch's start, for there to be a loss to show."""
        return self.unread >= (MOST_UNREAD if state.loss_steps else 1)

    def read(self, state: State) -> float:
        """Bring ``state`` up to date, which waits for a device that runs ahead.

        Returns:
            the sum of the objectives since `begin`, as far as they were not read at once: not
            finite if one of them was not.
        """
        if not self.unread:
            return 0.0
        state.loss_sum, objectives = self._sums.tolist()
        state.loss_steps += self.unread
        self.unread = 0
        return float(objectives)
