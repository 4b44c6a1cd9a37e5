"""Error, predictions and code length of the labels, of a network on a split."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ectorch.experiments.data import Split

_BATCH = 100  # whose maps stay in a processor's cache


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network makes of a split.

    Attributes:
        error_percent: share of wrong predictions.
        label_bits: bits of the split's labels given the network, ``-sum log2 p(label | image)``:
            the first part of the two-part MDL code.
        predictions: (n,) int64.
    """

    error_percent: float
    label_bits: float
    predictions: Tensor

    @property
    def predictions_sha256(self) -> str:
        """Digest of the predictions, one byte each: equal networks give equal digests."""
        return hashlib.sha256(self.predictions.to(torch.uint8).numpy().tobytes()).hexdigest()


def pixels(images: Tensor) -> Tensor:
    """uint8 images to the networks' input: divided by 255, and nothing else."""
    return images.float().div_(255)


def channels_last(images: Tensor) -> Tensor:
    """A copy in that memory format also by its strides, which images of one channel leave open.

    Convolutions take their own format from them: those of few channels are faster so.
    """
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def autocast(precision: str) -> torch.autocast:
    """The context in which a network of a recipe of that ``precision`` trains."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Evaluate in the mode (train or eval) that ``model`` is in."""
    predictions, nats = [], 0.0
    for start in range(0, len(split), _BATCH):
        batch = split[start : start + _BATCH]
        logits = model(channels_last(pixels(batch.images)))
        predictions.append(logits.argmax(1))
        nats += F.cross_entropy(logits.double(), batch.labels, reduction="sum").item()
    predicted = torch.cat(predictions)
    wrong = int((predicted != split.labels).sum())
    return Evaluation(100 * wrong / len(split), nats / math.log(2), predicted)
