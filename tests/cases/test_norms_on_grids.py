"""Batch norms that a grid would hurt, or that belong to several places, stay as they are."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from ectorch.rewrite.norms import discretize_norms


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
        after = discretize_norms(copy.deepcopy(net), batches, levels)(x)
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
        after = discretize_norms(copy.deepcopy(net), [x])(x)
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
    discretize_norms(net, [x])
    assert all(torch.equal(net.state_dict()[key], state[key]) for key in state)


class Untraceable(nn.Module):
    """``forward`` asks for values; ``how`` says what it does with the norm."""

    def __init__(self, how):
        super().__init__()
        self.norm, self.last = (Raised if how == "subclass" else nn.BatchNorm1d)(8), nn.Linear(8, 4)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 2, 3)
        self.norm.num_batches_tracked += 5
        self.how = how

    def forward(self, x):
        if x.abs().max() > 1e9:
            raise ValueError
        if self.how == "read":
            return self.norm(x) + self.norm.running_mean
        if self.how == "found":
            return self.norm(x) * self.norm.state_dict()["running_var"].sum()
        return self.last(self.norm(x))


class Raised(nn.BatchNorm1d):
    def forward(self, x):
        scale = (1 + self.weight) / (self.running_var + self.eps).sqrt()
        return (x - self.running_mean) * scale + self.bias


@pytest.mark.parametrize("how", ["read", "found", "subclass", "called"])
@pytest.mark.parametrize("batched", [False, True])
def test_norms_whose_readers_no_trace_shows_stay_with_a_warning(how, batched):
    net, x = Untraceable(how).eval(), torch.randn(64, 8)
    state = copy.deepcopy(net.state_dict())
    if how == "called" and batched:  # the call shows that nothing else reads it
        discretize_norms(net, [x])
        assert not torch.equal(net.norm.running_mean, state["norm.running_mean"])
        return
    with pytest.warns(UserWarning, match=r"stay as they are \(norm\): torch.fx cannot trace"):
        discretize_norms(net, [x] if batched else [])
    assert all(torch.equal(net.state_dict()[key], state[key]) for key in state)


@pytest.mark.parametrize("how", ["parametrized", "pruned", "patched", "without a bias"])
def test_norms_whose_vectors_are_not_their_own_stay(how):
    net, x = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), torch.randn(64, 8)
    norm = net[1]
    trained(net, x)
    if how == "parametrized":
        parametrize.register_parametrization(norm, "weight", nn.Softplus())
    elif how == "pruned":
        prune.l1_unstructured(norm, "weight", 3)
    elif how == "patched":
        norm.forward = lambda x: x * norm.running_var
    else:
        norm.bias = None
    before = net(x)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "batch norms stay")
        discretize_norms(net, [x])
        discretize_norms(net)
    torch.testing.assert_close(net(x), before)


def test_without_inputs_channels_that_never_changed_compute_the_same():
    norm, x = nn.BatchNorm1d(3).eval(), torch.randn(5, 3)
    norm.running_var[0] = 0
    norm.running_mean.fill_(0.1)
    norm.num_batches_tracked += 5
    before = norm(x)
    torch.testing.assert_close(discretize_norms(nn.Sequential(norm))(x), before)
