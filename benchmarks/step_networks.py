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
        logits = model(x)
        if self.is_language:
            logits, y = logits[:, :-1].flatten(0, 1), y[:, 1:].flatten()
        return F.cross_entropy(logits.float(), y)


def transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    return nn.Sequential(nn.Embedding(256, 64), encoder, nn.Flatten(), nn.Linear(64 * 32, 10))


def vgg_block() -> nn.Module:
    convolutions = [nn.Conv2d(128, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU()]
    convolutions += [nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU()]
    return nn.Sequential(*convolutions, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10))


class Gpt2Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        parts = self.attend(self.norm1(x)).chunk(3, -1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        return x + self.contract(F.gelu(self.expand(self.norm2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """The architecture and the size of GPT-2 124M: 12 layers of 768, 50,257 tokens, tied."""

    def __init__(self, tokens: int = 50257, length: int = 1024, width: int = 768) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Gpt2Block(width, 12) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.head.weight = self.token.weight
        for parameter in (self.token.weight, self.place.weight):
            nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return self.head(self.norm(self.blocks(self.token(tokens) + self.place(place))))  # type: ignore[no-any-return]


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
    "gpt2": Case(Gpt2, lambda n: torch.randint(0, 50257, (n, 1024)), is_language=True),
}
