"""What stands beside a Parameter follows a removal of units, or the removal is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.errors import ConfigError
from ectorch.rewrite.units import remove_dead_units
from ectorch.workflow import freeze_symbols

X, Y = torch.randn(64, 8), torch.randint(0, 4, (64,))


def network():
    torch.manual_seed(0)
    net = ec.prepare(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)))
    net[0]._parameters["weight"].data[5:20] = 0
    net[0]._parameters["bias"].data[5:20] = 0
    return net


def step(net, optimizer):
    optimizer.zero_grad()
    (F.cross_entropy(net(X), Y) + ec.penalty(net, 0.1, 64)).backward()
    optimizer.step()


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.Adafactor(groups, lr=1e-3),
        lambda groups: torch.optim.AdamW(groups, lr=1e-3, amsgrad=True, foreach=True),
        lambda groups: torch.optim.RMSprop(groups, lr=1e-3, momentum=0.9, centered=True),
        lambda groups: torch.optim.Rprop(groups),
        lambda groups: torch.optim.ASGD(groups),
        lambda groups: torch.optim.Adadelta(groups),
        lambda groups: torch.optim.Adagrad(groups),
        lambda groups: torch.optim.Adamax(groups),
        lambda groups: torch.optim.NAdam(groups),
    ],
)
def test_optimizers_go_on(make):
    net = network()
    optimizer = make(ec.param_groups(net, lr=1e-3))
    step(net, optimizer)
    assert remove_dead_units(net, optimizer) > 0
    step(net, optimizer)
    assert net[0]._parameters["weight"].shape[0] < 32


def test_a_state_of_unknown_form_is_refused_before_anything_changes():
    net = network()
    optimizer = torch.optim.Adam(ec.param_groups(net, lr=1e-3))
    step(net, optimizer)
    optimizer.state[net[2]._parameters["weight"]]["preconditioner"] = torch.eye(32)
    with pytest.raises(ConfigError, match=r"2\.weight.*preconditioner|preconditioner.*2\.weight"):
        remove_dead_units(net, optimizer)
    assert net[0]._parameters["weight"].shape == (32, 8)


def test_lbfgs_is_refused():
    net = network()
    optimizer = torch.optim.LBFGS(net.parameters())

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(net(X), Y)
        loss.backward()
        return loss

    optimizer.step(closure)
    with pytest.raises(ConfigError, match="LBFGS"):
        remove_dead_units(net, optimizer)
    assert net[0]._parameters["weight"].shape == (32, 8)


def test_an_optimizer_of_other_parameters_is_refused():
    net = network()
    optimizer = torch.optim.SGD(net[2].parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=r"0\.weight"):
        remove_dead_units(net, optimizer)
    assert net[0]._parameters["weight"].shape == (32, 8)


def test_gradients_and_notes_follow():
    net = network()
    net[0]._parameters["weight"].no_decay = True
    F.cross_entropy(net(X), Y).backward()
    before = net[2]._parameters["weight"].grad.clone()
    assert remove_dead_units(net) > 0
    after = net[2]._parameters["weight"]
    assert after.grad.shape == after.shape
    assert torch.isin(after.grad, before).all()
    assert net[0]._parameters["weight"].no_decay


@pytest.mark.parametrize("fold", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_units_whose_frequencies_assign_the_others_stay(fold, frozen):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    ec.prepare(net, ec.Config(relaxation="hard", reach=3, strength=0.3)).eval()
    net[0]._parameters["weight"].data[8:] = 0
    if frozen:
        freeze_symbols(net)
    before = net(X)
    assert (remove_dead_units(net, fold=fold) > 0) == frozen
    torch.testing.assert_close(net(X), before, rtol=1e-4, atol=1e-5)


def test_units_that_assign_nothing_else_leave():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    for layer in (net[0], net[2]):  # far from where another level would be cheaper
        layer.weight.data = torch.randint(-1, 2, layer.weight.shape) / 1.0
    net[0].weight.data[60:] = 0
    ec.prepare(net, ec.Config(levels=3, relaxation="hard", bias="float32")).eval()
    before = net(X)
    assert remove_dead_units(net) == 4
    torch.testing.assert_close(net(X), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prepared", [False, True])
def test_a_bias_that_is_held_takes_no_constant(prepared):
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    net[0].weight.data[3:] = 0
    net[0].bias.data[3:6] = -1
    net[0].bias.data[6:] = 1
    net[2].bias.requires_grad_(False)
    if prepared:
        ec.prepare(net)
    bias, before = net[2].bias.clone(), net(X)
    assert remove_dead_units(net) == 3
    assert torch.equal(net[2].bias, bias)
    torch.testing.assert_close(net(X), before, rtol=1e-4, atol=1e-5)


def test_replicas_of_several_processes_are_not_touched(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        net = network()
        with pytest.raises(ConfigError, match="distributed"):
            remove_dead_units(net)
        assert net[0]._parameters["weight"].shape == (32, 8)
    finally:
        torch.distributed.destroy_process_group()
