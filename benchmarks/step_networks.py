"""The networks whose steps are measured, with inputs and a loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.experiments.networks import NETWORKS

CONFIGS = {
    f"{relaxation} {forward}": ec.Config(
        relaxation=relaxation, forward=forward, levels=9 if relaxation == "categorical" else 33
    )
    for relaxation in ("bracket", "categorical", "hard")
    for forward in ("nearest", "sampled", "moments")
}
_CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A network and what it is fed with.

    Attributes:
        build: the network, by torch's generator.
        inputs: so many of them.
        is_language: it predicts each of its inputs from those before.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Tensor]
    is_language: bool = False

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        x = self.inputs(size)
        return x, x if self.is_language else torch.randint(0, _CLASSES, (size,))

    def loss(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if self.is_language:
            return model(input_ids=x, labels=y, use_cache=False).loss  # type: ignore[no-any-return]
        return F.cross_entropy(model(x).float(), y)


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    return nn.Sequential(nn.Embedding(256, 64), encoder, nn.Flatten(), nn.Linear(64 * 32, 10))


def vgg_block() -> nn.Module:
    convolutions = [nn.Conv2d(128, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU()]
    convolutions += [nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10))


def gpt2() -> nn.Module:
    """The one of 124 million parameters, at random: `pip install transformers`."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config())


def _last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last)


CASES: dict[str, Case] = {
    "lenet-300-100": Case(NETWORKS["lenet-300-100"], lambda n: torch.rand(n, 1, 28, 28)),
    "lenet-5-caffe": Case(NETWORKS["lenet-5-caffe"], lambda n: torch.rand(n, 1, 28, 28)),
    "transformer": Case(transformer, lambda n: torch.randint(0, 256, (n, 32))),
    "vgg-block": Case(vgg_block, lambda n: torch.randn(n, 128, 8, 8)),
    "vgg-like": Case(
        lambda: NETWORKS["vgg-like"]().to(memory_format=torch.channels_last),
        lambda n: _last(torch.rand(n, 3, 32, 32)),
    ),
    "gpt2": Case(gpt2, lambda n: torch.randint(0, 50257, (n, 1024)), is_language=True),
}
