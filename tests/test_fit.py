"""Files of a size that was asked for, and at what cost."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.errors import MismatchError
from ectorch.network import convert


@pytest.fixture(scope="module", params=["linear", "convolutional", "categorical"])
def trained(request):
    """A prepared network with its optimizer, and a loss to tell what changes cost."""
    torch.manual_seed(0)
    if request.param == "convolutional":
        net = nn.Sequential(
            nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.ReLU(), nn.Flatten()
        )
        net = net.append(nn.Linear(256, 10)).to(memory_format=torch.channels_last)
        inputs = torch.randn(512, 1, 8, 8)
    else:
        net = nn.Sequential(nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 10))
        inputs = torch.randn(512, 64)
    labels = inputs.flatten(1)[:, :10].argmax(1)
    relaxation = "categorical" if request.param == "categorical" else "bracket"
    ec.prepare(net, ec.Config(relaxation=relaxation, levels=17, reach=1.33))
    optimizer = torch.optim.Adam(ec.param_groups(net, lr=4e-3))
    for _ in range(150):
        loss = F.cross_entropy(net(inputs), labels)
        (loss + ec.penalty(net, 0.03, len(inputs))).backward()
        optimizer.step()
        optimizer.zero_grad()
    importance = {p: s["exp_avg_sq"] for p, s in optimizer.state.items()}

    def loss_of(model):
        return F.cross_entropy(model.eval()(inputs), labels).item()

    return net.eval(), importance, loss_of


def clone(trained):
    net, importance, loss_of = trained
    copied = copy.deepcopy(net)
    pairs = zip(net.parameters(), copied.parameters(), strict=True)
    return copied, {new: importance[old] for old, new in pairs if old in importance}, loss_of


@pytest.mark.parametrize("share", [0.97, 0.9, 0.6])
def test_the_file_takes_what_was_asked_for_and_no_more(trained, share):
    net, importance, _ = clone(trained)
    target = int(share * ec.SizeMeter()(net).total)
    size = ec.fit_size(net, target, importance)
    written = len(ec.save(ec.finalize(net)))
    assert written <= size <= target
    assert written >= 0.985 * target


def test_room_is_used_by_weights_that_were_near_the_next_level(trained, request):
    net, importance, _ = clone(trained)
    before = convert(copy.deepcopy(net)).state_dict()
    size = ec.SizeMeter()(net).total
    filled = ec.fit_size(net, int(1.02 * size), importance)
    assert size <= filled <= 1.02 * size
    after = convert(net).state_dict()
    farther = [after[name].abs() - before[name].abs() for name in before]
    assert min(int(change.sign().min()) for change in farther) == 0
    if "categorical" not in request.node.name:  # trains no weight that could be near a level
        assert filled > 1.01 * size


def test_cheap_moves_go_first(trained):
    net, importance, loss_of = clone(trained)
    if not all(weight in importance for weight in net.parameters()):
        pytest.skip("logits are trained, not weights")
    other = copy.deepcopy(net)
    target = int(0.85 * ec.SizeMeter()(net).total)
    # the same importance for the wrong weights: what should move last moves first
    pairs = [*zip(net.parameters(), other.parameters(), strict=True)]
    wrong = {new: 1 / (importance[old] + 1e-12) for old, new in pairs if old in importance}
    ec.fit_size(net, target, importance)
    ec.fit_size(other, target, wrong)
    assert loss_of(net) < loss_of(other)


def test_a_network_that_fits_exactly_is_only_frozen(trained):
    net, importance, _ = clone(trained)
    before = convert(copy.deepcopy(net)).state_dict()
    ec.fit_size(net, ec.SizeMeter()(net).total, importance)
    after = convert(net).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_more_than_everything_cannot_go(trained):
    net, _, _ = clone(trained)
    with pytest.raises(MismatchError, match=r"smallest file of this network takes \d+ > 20 bytes"):
        ec.fit_size(net, 20)
    assert all(not t.any() for n, t in convert(net).state_dict().items() if n.endswith("weight"))


def test_a_size_of_ones_own_may_be_measured(trained):
    net, _, _ = clone(trained)

    def nonzeros(model):
        weights = convert(copy.deepcopy(model)).parameters()
        return sum(int(w.count_nonzero()) for w in weights)

    target = nonzeros(net) * 3 // 4
    assert ec.fit_size(net, target, size=nonzeros) == target == nonzeros(net)
