"""Removing units changes no function, restoring them no file; every claim against the network."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ectorch.constrain.config import Config
from ectorch.errors import ConfigError, UnsupportedLayerError
from ectorch.experiments.networks import NETWORKS
from ectorch.rewrite.chains import find_chains
from ectorch.rewrite.units import cut_to_shapes, remove_dead_units, restore_shapes, sort_units
from ectorch.storage.discrete import discrete_state_dict
from ectorch.storage.files import load, save
from ectorch.workflow import (
    convert,
    freeze_symbols,
    param_groups,
    penalty,
    prepare,
)

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


class Residual(nn.Module):
    """A chain inside the block, none across the sum."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.outer = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.outer(torch.relu(self.norm(self.inner(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def convolutional(padding=0, activation=None, pool=None):
    size = 5 + 2 * padding
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        activation or nn.Tanh(),
        pool or nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 2, padding=padding),
        nn.Flatten(),
        nn.Linear(5 * size * size, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(7, 3),
    )


def images(count=5, size=12):
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    fold=st.booleans(),
    activation=st.sampled_from([nn.Tanh(), nn.ReLU(), nn.Sigmoid(), nn.Hardtanh()]),
    pool=st.sampled_from([nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AvgPool2d(2, ceil_mode=True)]),
)
def test_removal_changes_no_output(seed, fold, activation, pool):
    generator = torch.Generator().manual_seed(seed)
    net = convolutional(activation=activation, pool=pool).eval()
    norm = net[6]
    norm.running_mean.normal_(generator=generator)
    norm.running_var.uniform_(0.5, 2, generator=generator)
    for layer in (net[0], net[3], net[5], net[9]):
        weight = layer.weight.data
        weight[torch.rand(len(weight), generator=generator) < 0.4] = 0
        weight[:, torch.rand(weight.shape[1], generator=generator) < 0.3] = 0
    whole = copy.deepcopy(net)
    removed = remove_dead_units(net, fold=fold)
    torch.testing.assert_close(net(images(size=14)), whole(images(size=14)), **CLOSE)
    sizes = sum(len(net[i].weight) for i in (0, 3, 5))
    assert removed == 6 + 5 + 7 - sizes
    sort_units(net)
    torch.testing.assert_close(net(images(size=14)), whole(images(size=14)), **CLOSE)
    restore_shapes(net)
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in whole.state_dict().items()
    }
    torch.testing.assert_close(net(images(size=14)), whole(images(size=14)), **CLOSE)


def test_a_constant_folds_where_no_padding_meets_it():
    for padding, removed in ((0, 1), (1, 0)):
        net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=padding))
        net[0].weight.data[1] = 0
        net[0].bias.data[1] = 1.0
        whole = copy.deepcopy(net)
        assert remove_dead_units(net) == removed
        torch.testing.assert_close(net(images()), whole(images()), **CLOSE)


class Functional(nn.Module):
    """Two convolutions with a function of ``between`` in the midst."""

    def __init__(self, between):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 2, 3)
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


@pytest.mark.parametrize(
    ("between", "removed"),
    [
        (lambda x: F.avg_pool2d(F.relu(x), 2), 1),
        (lambda x: F.avg_pool2d(F.relu(x), kernel_size=2, ceil_mode=True), 1),
        (lambda x: F.avg_pool2d(F.relu(x), 2, 2, 1), 0),
        (lambda x: F.avg_pool2d(F.relu(x), 2, divisor_override=3), 0),
        (lambda x: torch.relu(input=x), 0),
    ],
    ids=["plain", "ceil", "padded", "divided", "by name"],
)
def test_functions_between_layers_are_followed_where_constants_stay_constant(between, removed):
    net = Functional(between)
    net.first.weight.data[1] = 0
    net.first.bias.data[1] = 1.0
    whole = copy.deepcopy(net)
    assert remove_dead_units(net) == removed
    torch.testing.assert_close(net(images()), whole(images()), **CLOSE)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2, padding=1), nn.AvgPool2d(2, divisor_override=3)])
def test_a_constant_that_an_average_changes_stays(pool):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), pool, nn.Conv2d(3, 2, 3))
    net[0].weight.data[1] = 0
    net[0].bias.data[1] = 1.0
    whole = copy.deepcopy(net)
    remove_dead_units(net)
    torch.testing.assert_close(net(images()), whole(images()), **CLOSE)


def test_without_folding_a_unit_that_gives_a_constant_stays():
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    net[0].weight.data[1] = 0
    net[0].bias.data[1] = 1.0
    assert remove_dead_units(net, fold=False) == 0
    net[0].bias.data[1] = -1.0  # ReLU gives zero
    assert remove_dead_units(net, fold=False) == 1


@pytest.mark.parametrize("relaxation", ["bracket", "categorical"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_constant_folds_only_into_a_bias_that_its_parameter_rules(relaxation, frozen):
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    net[0].weight.data[1] = 0
    net[0].bias.data[:] = torch.tensor([0.5, 1.0])
    prepare(net, Config(levels=65, reach=32, relaxation=relaxation, bias="grid")).eval()
    if frozen:
        freeze_symbols(net)
    inputs = torch.randn(9, 3)
    before = net(inputs)
    folds = relaxation == "bracket" and not frozen
    assert remove_dead_units(net) == folds
    step = net[2].bias_log_gaps.exp().item() if folds else 0.0
    torch.testing.assert_close(net(inputs), before, rtol=0, atol=step / 2 + 1e-5)


def test_a_layer_keeps_one_unit():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    net[0].weight.data.zero_()
    whole = copy.deepcopy(net)
    assert remove_dead_units(net) == 3
    torch.testing.assert_close(net(torch.randn(5, 3)), whole(torch.randn(5, 3)))


def test_residual_blocks_lose_inner_channels_only():
    net = Residual().eval()
    net.norm.running_mean.normal_()
    chains = find_chains(net)
    assert [(chain.first, chain.second) for chain in chains] == [(net.inner, net.outer)]
    net.stem.weight.data[0] = 0
    net.inner.weight.data[1] = 0
    whole = copy.deepcopy(net)
    assert remove_dead_units(net) == 1
    assert net.norm.num_features == net.inner.out_channels == net.outer.in_channels == 5
    torch.testing.assert_close(net(images()), whole(images()), **CLOSE)


def test_shared_layers_and_parameters_are_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(self.a(self.a(x)))

    tied = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    tied[2].weight = tied[0].weight
    grouped = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, groups=2))
    unknown = nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 4))
    for net in (Twice(), tied, grouped, unknown):
        assert not find_chains(net)


def test_a_network_that_cannot_be_traced_is_named():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedLayerError, match="Branches"):
        find_chains(Branches())


@pytest.mark.parametrize(
    ("relaxation", "frozen"),
    [("bracket", False), ("bracket", True), ("categorical", False), ("hard", True)],
)
def test_prepared_networks_store_full_shapes(relaxation, frozen):
    net = convolutional()
    for layer in (net[0], net[5]):
        layer.weight.data[::2] = 0
    prepare(net, Config(levels=5, reach=1.5, relaxation=relaxation, bias="grid")).eval()
    shapes = {key: value.shape for key, value in discrete_state_dict(net).items()}
    if frozen:
        freeze_symbols(net)
    hard = convolutional().eval()
    hard.load_state_dict(discrete_state_dict(net))
    assert remove_dead_units(net, fold=False)
    small = {key: tensor.shape for key, tensor in net.named_parameters()}
    assert small["5.weight"][0] < shapes["5.weight"][0]
    stored = load(save(net))
    assert {key: tensor.shape for key, tensor in stored.items()} == shapes
    fresh = convolutional().eval()
    fresh.load_state_dict(stored)
    torch.testing.assert_close(fresh(images(size=14)), hard(images(size=14)), **CLOSE)
    with pytest.raises(ConfigError, match="convert"):
        restore_shapes(net)
    convert(net)
    assert {key: tensor.shape for key, tensor in net.state_dict().items()} == shapes
    torch.testing.assert_close(net(images(size=14)), hard(images(size=14)), **CLOSE)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.AdamW])
def test_the_optimizer_goes_on_as_if_the_dead_had_never_been(kind):
    def network(width):
        torch.manual_seed(0)
        wide = NETWORKS["lenet-300-100"]()
        wide.fc1.weight.data[width:] = 0
        wide.fc1.bias.data[width:] = 0
        wide.fc2.weight.data[:, width:] = 0
        return wide

    def step(net, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(images(size=28)), torch.arange(5))
        (loss + penalty(net, 0.1, 100)).backward()
        optimizer.step()

    config = Config(levels=9, bias="grid")
    settings_ = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    late, early = prepare(network(40), config), prepare(network(40), config)
    optimizers = [kind(param_groups(net, 1e-3), lr=1e-3, **settings_) for net in (late, early)]
    remove_dead_units(early, optimizers[1])
    for _ in range(3):
        step(early, optimizers[1])
        step(late, optimizers[0])
    remove_dead_units(late, optimizers[0])
    states = [list(optimizer.state.values()) for optimizer in optimizers]
    for mine, theirs in zip(*states, strict=True):
        assert mine.keys() == theirs.keys()
    assert late.fc1._parameters["weight"].shape == early.fc1._parameters["weight"].shape
    for net, optimizer in ((late, optimizers[0]), (early, optimizers[1])):
        for parameter in net.parameters():
            for value in optimizer.state[parameter].values():
                if torch.is_tensor(value) and value.ndim:
                    assert value.shape == parameter.shape
    step(late, optimizers[0])


def test_training_goes_on_after_removal_and_checkpoints_fit():
    net = prepare(convolutional(), Config(levels=5, reach=1.1, bias="grid"))
    optimizer = torch.optim.Adam(param_groups(net, 1e-2))
    before = {key: tensor.shape for key, tensor in net.state_dict().items()}
    for round_ in range(4):
        loss = F.cross_entropy(net(images(8, 14)), torch.arange(8) % 3)
        (loss + penalty(net, 20.0, 100)).backward()
        optimizer.step()
        optimizer.zero_grad()
        if round_ == 1:
            net[0]._parameters["weight"].data[:2] = 0
            assert remove_dead_units(net, optimizer)
    state = net.state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} != before
    fresh = prepare(convolutional(), Config(levels=5, reach=1.1, bias="grid"))
    cut_to_shapes(fresh, state)
    fresh.load_state_dict(state)
    torch.testing.assert_close(fresh.eval()(images(2, 14)), net.eval()(images(2, 14)))
    assert save(fresh) == save(net)


def test_sorted_units_take_fewer_bytes():
    net = NETWORKS["lenet-300-100"]()
    for layer in (net.fc1, net.fc2, net.fc3):
        rows = torch.rand(len(layer.weight), 1) ** 3 * 0.1
        layer.weight.data = torch.where(torch.rand(layer.weight.shape) < rows, 0.5, 0.0)
    before, inputs = len(save(net)), torch.rand(7, 1, 28, 28)
    outputs = net(inputs)
    assert len(save(sort_units(net))) < before
    torch.testing.assert_close(net(inputs), outputs, **CLOSE)


def test_channels_last_stays():
    net = convolutional().to(memory_format=torch.channels_last)
    net[3].weight.data[0] = 0
    net[0].weight.data[0] = 0
    remove_dead_units(net)
    assert net[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert not net[3].weight.is_contiguous()
