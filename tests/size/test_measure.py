"""The size that is told while training is that of the file."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.size.measure import rate_bits
from ectorch.storage.files import save
from ectorch.workflow import convert, prepare


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
    )


def dense_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


def constrained(network, bias):
    model = network()
    prepare(model, ec.Config(levels=33, bias=bias))
    return model


@pytest.mark.parametrize("network", [small_network, dense_network])
@pytest.mark.parametrize("bias", ["float32", "float16", "grid"])
def test_rate_is_the_size_of_the_file(network, bias):
    model = constrained(network, bias)
    file_bits = 8 * len(save(model))
    assert abs(rate_bits(model) - file_bits) <= 0.01 * file_bits + 64 * 8
    assert abs(rate_bits(convert(model)) - file_bits) <= 0.01 * file_bits + 64 * 8


def trained_a_bit(steps, meter=None):
    """A small network under a strong penalty, and what the meter said on the way."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU())
    ec.prepare(net.append(nn.Linear(50, 10)))
    optimizer = torch.optim.Adam(ec.param_groups(net, lr=4e-3))
    inputs = torch.randn(512, 64)
    labels = inputs[:, :10].argmax(1)
    for step in range(steps):
        loss = F.cross_entropy(net(inputs), labels) + ec.penalty(net, 0.02, len(inputs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if meter and step % 20 == 0:
            before = copy.deepcopy(net.state_dict())
            size = meter(net)
            assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
            real = len(save(ec.finalize(copy.deepcopy(net))))
            yield size, real
        if step % 60 == 59:
            ec.remove_dead_units(net, optimizer)


@pytest.mark.slow  # a file is written at each of fifteen measurements
def test_the_live_size_is_that_of_the_file():
    seen = list(trained_a_bit(300, ec.SizeMeter()))
    assert seen[-1][1] < 0.8 * seen[0][1]
    for size, real in seen:
        assert real <= size.total <= 1.01 * real + 64
        assert sum(size.tensors.values()) < size.total


def test_the_live_size_of_a_network_that_cannot_be_traced():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(6, 5)

        def forward(self, x):
            return self.one(x) if x.sum() > 0 else x

    net = ec.prepare(Branching())
    assert ec.SizeMeter()(net).total == len(save(net))
