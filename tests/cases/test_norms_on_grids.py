"""Batch norms that a grid would hurt, or that belong to several places, stay as they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ectorch as ec


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Shared(nn.Module):
    """Two norms with statistics of their own that share what ``names`` says."""

    def __init__(self, names):
        super().__init__()
        self.c, self.d = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1)
        self.n1, self.n2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        nn.init.uniform_(self.n1.weight, 0.5, 2)
        nn.init.normal_(self.n1.bias)
        for name in names:
            setattr(self.n2, name, getattr(self.n1, name))

    def forward(self, x):
        return self.n2(self.d(torch.relu(self.n1(self.c(x)))))


class Twice(Shared):
    """One norm at two places."""

    def forward(self, x):
        return self.n1(self.d(torch.relu(self.n1(self.c(x)))))


def trained(net, x):
    with torch.no_grad():
        for _ in range(60):
            net.train()(x)
    return net.eval()


def relative_change(net, x, batches, levels=None):
    with torch.no_grad():
        before = net(x)
        after = ec.discretize_norms(copy.deepcopy(net), batches, levels)(x)
    return float((before - after).norm() / before.norm())


@pytest.mark.parametrize("names", [("weight", "bias"), ("weight",), ("running_mean",)])
@pytest.mark.parametrize("batched", [False, True])
def test_shared_norms_stay(names, batched):
    x = torch.randn(64, 3, 8, 8) * 2
    net = trained(Shared(names), x)
    assert relative_change(net, x, [x] if batched else []) < 1e-6


@pytest.mark.parametrize("batched", [False, True])
def test_a_norm_at_two_places_stays(batched):
    x = torch.randn(64, 3, 8, 8) * 2
    net = trained(Twice(()), x)
    assert relative_change(net, x, [x] if batched else []) < 1e-5


@pytest.mark.parametrize("factor", [1e-3, 1e-2, 30.0])
def test_one_channel_of_another_scale_does_not_take_the_grid(factor):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    x = torch.randn(64, 3, 8, 8)
    with torch.no_grad():
        net[0].weight[0] *= factor
        h = net[0](x)
        net[1].running_mean.copy_(h.mean((0, 2, 3)))
        net[1].running_var.copy_(h.var((0, 2, 3), correction=0))
        before = net.eval()(x)
        after = ec.discretize_norms(copy.deepcopy(net), [x])(x)
    error = (after - before).square().mean((0, 2, 3)).sqrt()
    assert (error <= 0.01 * before.std((0, 2, 3))).all()


def test_without_inputs_norms_compute_the_same():
    x = torch.randn(32, 3, 8, 8)
    net = trained(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), x)
    nn.init.normal_(net[1].weight)
    assert relative_change(net, x, []) < 1e-6


def test_norms_of_other_kinds_stay():
    net = nn.Sequential(
        nn.BatchNorm2d(3, track_running_stats=False),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        nn.GroupNorm(1, 3),
    )
    state, x = copy.deepcopy(net.state_dict()), torch.randn(8, 3, 4, 4)
    ec.discretize_norms(net, [x])
    assert all(torch.equal(net.state_dict()[key], state[key]) for key in state)
