"""Random small networks as a user may write them, with the traps that rewriting may fall into."""

from __future__ import annotations

import random

import torch
from torch import nn
from torch.nn import functional as F

SHAPES = [(6,), (4, 6), (3, 8), (2, 6, 6), (2, 6, 6)]


class Call(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 5), nn.Linear(5, width)

    def forward(self, x):
        return x + self.outer(F.relu(self.inner(x)))


class Tied(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer, self.middle = nn.Linear(width, 6), nn.Linear(6, 6)

    def forward(self, x):
        return F.linear(F.relu(self.middle(F.relu(self.layer(x)))), self.layer.weight.t())


class Twice(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first, self.shared = nn.Linear(width, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.shared(torch.tanh(self.shared(F.relu(self.first(x)))))


class Heads(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.trunk, self.a, self.b = nn.Linear(width, 6), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x, both=True):
        h = F.relu(self.trunk(x))
        return torch.cat([self.a(h), self.b(h)], -1) if both else self.a(h)


class Scaled(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer, self.last = nn.Linear(width, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.last(self.layer(x) * torch.linspace(0.5, 2.0, 6))


BLOCKS = [Residual, Tied, Twice, Heads, Scaled]
ACTIVATIONS = [nn.ReLU(), nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.Dropout(), nn.Identity()]
FUNCTIONS = [F.relu, torch.tanh, F.elu, torch.sigmoid]
FLATTENS = [nn.Flatten(), *map(Call, (lambda x: x.flatten(1), lambda x: x.reshape(x.shape[0], -1)))]


class Network(nn.Module):
    """Random steps one after the other; with an optional argument."""

    def __init__(self, steps):
        super().__init__()
        self.steps = nn.ModuleList(steps)

    def forward(self, x, extra=None):
        for step in self.steps:
            x = step(x)
        return x if extra is None else x + extra.sum()


@torch.no_grad()
def random_network(seed):
    """A network in eval mode, and inputs; some of its units are dead, and no two are alike."""
    torch.manual_seed(seed)
    draw = random.Random(seed)
    inputs = torch.randn(5, *draw.choice(SHAPES))
    value, steps = inputs, []
    for _ in range(draw.randint(4, 9)):
        steps.append(_spoil(_step(draw, value)).eval())
        value = steps[-1](value)
    return Network(steps).eval(), inputs


def _step(draw, value):
    kind = draw.choices(
        ["layer", "activation", "norm", "pool", "flatten", "transpose", "block"],
        [6, 4, 2, 1, 1.5, 0.5, 1.5],
    )[0]
    if kind == "layer":
        return _layer(draw, value)
    if kind == "activation":
        return draw.choice([*ACTIVATIONS, *map(Call, FUNCTIONS)])
    if kind == "norm":
        return (nn.BatchNorm2d if value.ndim == 4 else nn.BatchNorm1d)(value.shape[1])
    if kind == "pool" and value.ndim == 4 and value.shape[-1] > 1 and value.shape[-2] > 1:
        return draw.choice([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1)])
    if kind == "pool" and value.ndim < 4 and value.shape[-1] > 2:
        return draw.choice([nn.MaxPool1d(3, 1, 1), nn.AvgPool1d(3, 1)])
    if kind == "transpose":
        return Call(lambda x: x.transpose(1, -1).contiguous())
    return draw.choice(BLOCKS)(value.shape[-1]) if kind == "block" else draw.choice(FLATTENS)


def _layer(draw, value):
    outputs, bias = draw.choice([4, 5, 8]), draw.random() < 0.8
    if value.ndim == 4 and draw.random() < 0.9:
        size = draw.choice([1, 3]) if min(value.shape[2:]) > 2 else 1
        padding = draw.choice([0, size // 2])
        return nn.Conv2d(value.shape[1], outputs, size, padding=padding, bias=bias)
    if value.ndim == 3 and draw.random() < 0.5:
        return nn.Conv1d(value.shape[1], outputs, 1, bias=bias)
    return nn.Linear(value.shape[-1], outputs, bias=bias)


def _spoil(step):
    for module in step.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            module.num_batches_tracked += 1
        elif isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            weight = module.weight
            weight *= torch.rand_like(weight) < 0.7
            weight *= torch.rand(len(weight), *[1] * (weight.ndim - 1)) < 0.7
            weight *= torch.rand(1, weight.shape[1], *[1] * (weight.ndim - 2)) < 0.8
    return step
