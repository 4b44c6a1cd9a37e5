"""Distillation: what another network says of the training images, beside their labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

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
        data, images: the data set's name and (n, channels, height, width) images, for the check.

    Raises:
        RecipeError: when the file holds no network for them.
    """

    def __init__(self, how: Distill, data: str, images: Tensor) -> None:
        self._how = how
        with asked_for("distill.teacher", Path(how.teacher)):
            name, model = read_network(Path(how.teacher))
            check_images(name, data, images)
        self._model = model.eval()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """(n, classes) float32 of (n, channels, height, width) images in [0, 1]."""
        logits: Tensor = self._model(images)
        return logits.float()

    def mix(self, loss: Tensor, logits: Tensor, taught: Tensor) -> Tensor:
        """``(1 - share) loss + share T^2 KL(teacher || network)``, both softened by T; nats."""
        how = self._how
        divergence = F.kl_div(
            (logits / how.temperature).log_softmax(1),
            (taught / how.temperature).log_softmax(1),
            reduction="batchmean",
            log_target=True,
        )
        return (1 - how.share) * loss + how.share * how.temperature**2 * divergence
