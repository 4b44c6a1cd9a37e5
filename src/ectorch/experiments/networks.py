"""The networks of the literature under their usual names. Input: pixels divided by 255."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ectorch.errors import MismatchError


class LeNet300100(nn.Module):
    """784-300-100-10 with ReLU; 266,610 parameters (LeCun et al., 1998)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.fc3 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 28, 28) in [0, 1] -> (batch, 10) logits."""
        hidden = F.relu(self.fc1(images.flatten(1)))
        logits: Tensor = self.fc3(F.relu(self.fc2(hidden)))
        return logits


class LeNet5Caffe(nn.Module):
    """conv 20@5x5, pool, conv 50@5x5, pool, fc 500, ReLU, fc 10; 431,080 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        self.fc1 = nn.Linear(800, 500)
        self.fc2 = nn.Linear(500, 10)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 1, 28, 28) in [0, 1] -> (batch, 10) logits."""
        maps = F.max_pool2d(self.conv1(images), 2)
        maps = F.max_pool2d(self.conv2(maps), 2)
        logits: Tensor = self.fc2(F.relu(self.fc1(maps.flatten(1))))
        return logits


IMAGE_SHAPE = (1, 28, 28)  # that all of them take
NETWORKS: dict[str, type[nn.Module]] = {
    "lenet-300-100": LeNet300100,
    "lenet-5-caffe": LeNet5Caffe,
}


def check_images(network: str, data: str, images: Tensor) -> None:
    """Refuse images (n, channels, height, width) that ``network`` cannot take.

    Raises:
        MismatchError: naming both and their shapes.
    """
    shape = tuple(images.shape[1:])
    if shape != IMAGE_SHAPE:
        raise MismatchError(f"{network} takes images of {IMAGE_SHAPE}, those of {data} are {shape}")


def identify(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of the network whose state dict has exactly these tensors.

    Raises:
        MismatchError: when it is none of `NETWORKS`.
    """
    for name, kind in NETWORKS.items():
        with torch.device("meta"):
            expected = {key: tuple(t.shape) for key, t in kind().state_dict().items()}
        if expected == dict(shapes):
            return name
    raise MismatchError(
        f"tensors {', '.join(sorted(shapes))} are no known network; known: {', '.join(NETWORKS)}"
    )
