"""Distillation: what another network says of the training inputs, beside their labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from ectorch.experiments.build import check_network
from ectorch.experiments.device import CPU, Device
from ectorch.experiments.evaluation import autocast
from ectorch.experiments.files import asked_for, read_network
from ectorch.experiments.inputs import arranged
from ectorch.experiments.split import DataSet


@dataclass(frozen=True)
class Distill:
    """How a teacher takes part in the loss of every stage (Hinton et al., 2015).

    Attributes:
        teacher: file (.ect or .safetensors, from the folder where the command runs) of a network,
            of the same or another architecture; empty for labels alone.
        network: its name, where it is a user's own: ``package.module:function``.
        share: of the teacher in the loss; the rest is the labels'.
        temperature: that both distributions are softened by.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    teacher: str = ""
    network: str = ""
    share: Annotated[float, Field(ge=0, le=1)] = 0.7
    temperature: Annotated[float, Field(gt=0)] = 2.0


class Teacher:
    """The network of a `Distill`, ready to be asked.

    Attributes:
        classes: how many logits it gives.

    Args:
        precision: of a recipe, for the teacher's products.
        data: that it will be asked about.
        device: where it is asked.

    Raises:
        RecipeError: when the file holds no network for such data.
    """

    def __init__(self, how: Distill, precision: str, data: DataSet, device: Device = CPU) -> None:
        self._how = how
        self._autocast = partial(autocast, precision, device.kind)
        with asked_for("distill.teacher", Path(how.teacher)):
            name, model = read_network(Path(how.teacher), how.network, "distill.network")
            self.classes = check_network(
                name, model, data, "distill.network", trains=False, device=device
            )
        self._model = model.eval().to(device.place)

    def mix(self, loss: Tensor, logits: Tensor, given: Tensor) -> Tensor:
        """``(1 - share) loss + share T^2 KL(teacher || network)``, both softened by T; nats.

        Args:
            loss: of the labels.
            logits: (n, classes) float32 of the network that learns.
            given: (n, ...) inputs, as networks get them, that gave the logits.
        """
        how = self._how
        with torch.no_grad(), self._autocast():
            taught = self._model(arranged(self._model, given)).float()
        divergence = F.kl_div(
            (logits / how.temperature).log_softmax(1),
            (taught / how.temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - how.share) * loss + how.share * how.temperature**2 * divergence
