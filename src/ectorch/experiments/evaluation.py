"""Error, predictions and code length of the labels, of a network on a split."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ectorch.experiments.inputs import arranged, values
from ectorch.experiments.split import Split

_BATCH = 100  # whose maps stay in a processor's cache
_BATCH_AHEAD = 1000  # that keep a card busy


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network makes of a split.

    Attributes:
        error_percent: share of wrong predictions.
        label_bits: bits of the split's labels given the network, ``-sum log2 p(label | input)``:
            the first part of the two-part MDL code.
        predictions: (n,) int64, on the CPU.
    """

    error_percent: float
    label_bits: float
    predictions: Tensor

    @property
    def predictions_sha256(self) -> str:
        """Digest of the predictions, one byte each where that holds them, else eight.

        Equal networks give equal digests.
        """
        few = not len(self.predictions) or self.predictions.max() < 1 << 8
        kept = self.predictions.to(torch.uint8) if few else self.predictions
        return hashlib.sha256(kept.numpy().tobytes()).hexdigest()


def autocast(precision: str, kind: str = "cpu") -> torch.autocast:
    """The context in which a network of a recipe of that ``precision`` trains.

    Args:
        kind: of the device, see `Device`.
    """
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bfloat16")


@torch.no_grad()
def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Evaluate in the mode (train or eval) that ``model`` is in, on the device of both."""
    predictions = []
    nats = torch.zeros((), dtype=torch.float64, device=split.labels.device)
    size = _BATCH if nats.device.type == "cpu" else _BATCH_AHEAD
    for start in range(0, len(split), size):
        batch = split[start : start + size]
        logits = model(arranged(model, values(batch.inputs)))
        predictions.append(logits.argmax(1))
        nats += F.cross_entropy(logits.double(), batch.labels, reduction="sum")
    predicted = torch.cat(predictions)
    wrong = int((predicted != split.labels).sum())
    return Evaluation(100 * wrong / len(split), nats.item() / math.log(2), predicted.cpu())
