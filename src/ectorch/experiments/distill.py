"""Distillation: what another network says of the training images, beside their labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from ectorch.experiments.data import DataSet
from ectorch.experiments.evaluation import autocast
from ectorch.experiments.files import asked_for, read_network
from ectorch.experiments.networks import check_images


@dataclass(frozen=True)
class Distill:
    """How a teacher takes part in the loss of every stage (Hinton et al., 2015).

    Attributes:
        teacher: file (.ect or .safetensors, from the folder where the command runs) of a network,
            of the same or another architecture; empty for labels alone.
        share: of the teacher in the loss; the rest is the labels'.
        temperature: that both distributions are softened by.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    teacher: str = ""
    share: Annotated[float, Field(ge=0, le=1)] = 0.7
    temperature: Annotated[float, Field(gt=0)] = 2.0


class Teacher:
    """The network of a `Distill`, ready to be asked.

    Args:
        precision: of a recipe, for the teacher's products.
        data: that it will be asked about.

    Raises:
        RecipeError: when the file holds no network for such images.
    """

    def __init__(self, how: Distill, precision: str, data: DataSet) -> None:
        self._how, self._precision = how, precision
        with asked_for("distill.teacher", Path(how.teacher)):
            name, model = read_network(Path(how.teacher))
            check_images(name, data.name, data.train.images)
        self._model = model.eval()

    def mix(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """``(1 - share) loss + share T^2 KL(teacher || network)``, both softened by T; nats.

        Args:
            loss: of the labels.
            logits: (n, classes) float32 of the network that learns.
            images: (n, channels, height, width) in [0, 1], that gave them.
        """
        how = self._how
        with torch.no_grad(), autocast(self._precision):
            taught = self._model(images).float()
        divergence = F.kl_div(
            (logits / how.temperature).log_softmax(1),
            (taught / how.temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - how.share) * loss + how.share * how.temperature**2 * divergence
