"""Examples with their labels, and what is held out of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ectorch.errors import DataError, RecipeError
from ectorch.experiments.device import Device

_HOLDOUT_SEED = 1234  # the same examples whatever a recipe's seed
_IMAGE_DIMENSIONS = 4


@dataclass(frozen=True, eq=False)
class Split:
    """Inputs (n, ...) and labels (n,) int64.

    Inputs are images, uint8 (n, channels, height, width), which networks get divided by 255; or
    float32 or int64 of any shape, which they get as they are.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Split:
        return Split(self.inputs[index], self.labels[index])

    def to(self, place: torch.device) -> Split:
        """The same on a device: inputs whole, in the dtype they have."""
        return Split(self.inputs.to(place), self.labels.to(place))

    @property
    def kind(self) -> str:
        """What to call them: "images" or "examples"."""
        return "images" if self.inputs.ndim == _IMAGE_DIMENSIONS else "examples"


@dataclass(frozen=True, eq=False)
class DataSet:
    """A training and a test split.

    Attributes:
        classes: labels are 0 to ``classes - 1``.
        sha256: of all tensors, where nobody else vouches for them: those of a user's own.
    """

    name: str
    train: Split
    test: Split
    classes: int = 10
    sha256: str = ""


def hold_out(split: Split, count: int, seed: int = _HOLDOUT_SEED) -> tuple[Split, Split]:
    """Split off ``count`` random examples for choosing; a sixth of them all where that is less.

    Returns:
        what is left to train on, and what is held out.
    """
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
    count = min(count, most_held_out(split))
    return split[order[count:]], split[order[:count]]


def most_held_out(split: Split) -> int:
    """How many examples of a split can be held out."""
    return len(split) // 6


def check_holdout(data: DataSet, count: int) -> None:
    """Refuse to hold out more training examples than there is room for.

    Raises:
        RecipeError: how many there may be.
    """
    if count > (most := most_held_out(data.train)):
        raise RecipeError(
            f"holdout = {count:,}: {data.name} has {len(data.train):,} training {data.train.kind}, "
            f"of which a sixth can be held out: expected {most:,} at most"
        )


def moved(name: str, split: Split, device: Device) -> Split:
    """A split on a device, whole: batches are taken from it there.

    Args:
        name: of the data set.

    Raises:
        DataError: when it does not fit.
    """
    try:
        return split.to(device.place)
    except torch.OutOfMemoryError as error:
        size = split.inputs.nbytes + split.labels.nbytes
        raise DataError(
            f"{name}: {len(split):,} {split.kind} take {size:,} bytes, which {device.words} has no "
            "room for, and examples lie there all at once: --device cpu, or a smaller data set"
        ) from error
