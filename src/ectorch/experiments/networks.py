"""The networks of the literature under their usual names. Input: pixels divided by 255."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ectorch.errors import MismatchError

# of CIFAR-10's training pixels: centred and scaled so, borders that are filled with 0 are grey
_CIFAR_MEAN, _CIFAR_DEVIATION = 0.4733, 0.2516
_MOST_NAMED = 3  # tensors that an error lists


class Network(nn.Module):
    """A classifier of images of one shape."""

    image_shape: ClassVar[tuple[int, int, int]]
    memory_format: ClassVar[torch.memory_format] = torch.channels_last


class LeNet300100(Network):
    """784-300-100-10 with ReLU; 266,610 parameters (LeCun et al., 1998)."""

    image_shape = (1, 28, 28)

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


class LeNet5Caffe(Network):
    """conv 20@5x5, pool, conv 50@5x5, pool, fc 500, ReLU, fc 10; 431,080 parameters."""

    image_shape = (1, 28, 28)

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


class _CifarNetwork(Network):
    """Layers one after the other, on images of mean 0 and deviation 1."""

    image_shape = (3, 32, 32)
    layers: nn.Sequential

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, 32, 32) in [0, 1] -> (batch, 10) logits."""
        logits: Tensor = self.layers((images - _CIFAR_MEAN) / _CIFAR_DEVIATION)
        return logits


class VGGLike(_CifarNetwork):
    """cifar.torch's VGG (Zagoruyko, 2015): 13 convolutions, fc 512, fc 10.

    14.99 M parameters and statistics of batch norms at ``width`` 64; without dropout: augmentation
    and the penalty take its place.
    """

    PLAN: ClassVar = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8, 0)  # 0 pools

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for multiple in self.PLAN:
            if not multiple:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += _convolution(channels, multiple * width)
            channels = multiple * width
        layers += [nn.Flatten(), nn.Linear(channels, channels, bias=False)]
        layers += [nn.BatchNorm1d(channels), nn.ReLU(), nn.Linear(channels, 10)]
        self.layers = nn.Sequential(*layers)


class ResNet20(_CifarNetwork):
    """He et al., 2016: 19 convolutions, identity shortcuts of no parameters, fc 10.

    0.27 M parameters at ``width`` 16; 4.3 M at 64, which is ResNet-20-4.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = [*_convolution(3, width)]
        channels = width
        for stage in range(3):
            for block in range(3):
                stride = 2 if stage and not block else 1
                layers.append(_Block(channels, width << stage, stride))
                channels = width << stage
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
        self.layers = nn.Sequential(*layers)


class _Block(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.stride, self.new_channels = stride, out - channels

    def forward(self, maps: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(maps)))
        shortcut = maps[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.new_channels))
        return F.relu(self.norm2(self.conv2(inner)) + shortcut)


class AirbenchLike(_CifarNetwork):
    """Three blocks of two convolutions, each pooled early; 1.98 M parameters at ``width`` 64.

    After Jordan's airbench94 (arXiv 2404.00498), which learns in few epochs: convolutions hand on
    what they are given at the start, and an image and its mirror are both asked. Its first layer
    is trained here, not a whitening of the data.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 24, 2), nn.GELU()]
        channels = 24
        for out in (width, 4 * width, 4 * width):
            layers += [_identity(channels, out), nn.MaxPool2d(2), nn.BatchNorm2d(out), nn.GELU()]
            layers += [_identity(out, out), nn.BatchNorm2d(out), nn.GELU()]
            channels = out
        layers += [nn.MaxPool2d(3), nn.Flatten(), nn.Linear(channels, 10)]
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3, 32, 32) in [0, 1] -> (batch, 10) logits, in eval mode means over mirrors."""
        if self.training:
            return super().forward(images)
        logits = super().forward(torch.cat([images, images.flip(3)]))
        return torch.unflatten(logits, 0, (2, -1)).mean(0)


def _convolution(channels: int, out: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(out), nn.ReLU()


def _identity(channels: int, out: int) -> nn.Conv2d:
    """A convolution whose first ``channels`` outputs are its inputs, at the start."""
    convolution = nn.Conv2d(channels, out, 3, padding=1, bias=False)
    nn.init.dirac_(convolution.weight.data[:channels])
    return convolution


NETWORKS: dict[str, Callable[[], Network]] = {
    "lenet-300-100": LeNet300100,
    "lenet-5-caffe": LeNet5Caffe,
    "vgg-like": VGGLike,
    "vgg-like-16": partial(VGGLike, width=16),
    "resnet-20": ResNet20,
    "resnet-20-4": partial(ResNet20, width=64),
    "airbench-like": AirbenchLike,
}


def identify(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The name of the network whose state dict has exactly these tensors.

    Raises:
        MismatchError: when it is none of `NETWORKS`.
    """
    for name in NETWORKS:
        state = _without_values(name).state_dict()
        if {key: tuple(t.shape) for key, t in state.items()} == dict(shapes):
            return name
    names, more = sorted(shapes)[:_MOST_NAMED], len(shapes) - _MOST_NAMED
    listed = ", ".join(names) + (f" and {more} more" if more > 0 else "")
    listed = listed or "(none)"
    raise MismatchError(
        f"tensors {listed} are no known network; known: {', '.join(NETWORKS)}; "
        "name one of your own, package.module:function"
    )


def _without_values(name: str) -> Network:
    with torch.device("meta"):  # initial values would draw random numbers
        return NETWORKS[name]()
