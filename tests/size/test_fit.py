"""Files of a size that was asked for, and at what cost."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.constrain.modules import Constrained
from ectorch.errors import ConfigError, MismatchError
from ectorch.size.fit import _Bracket
from ectorch.storage.files import save
from ectorch.workflow import convert


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

    def loss_of(model):
        return F.cross_entropy(model.eval()(inputs), labels).item()

    return net.eval(), optimizer, loss_of


def clone(trained):
    net, optimizer, loss_of = trained
    copied, states = copy.deepcopy((net, [optimizer.state[p] for p in net.parameters()]))
    return copied, with_states(copied, states), loss_of


def with_states(net, states):
    optimizer = torch.optim.Adam(net.parameters())
    optimizer.state.update(zip(net.parameters(), states, strict=True))
    return optimizer


@pytest.mark.parametrize("share", [0.97, 0.9, 0.6])
def test_the_file_takes_what_was_asked_for_and_no_more(trained, share):
    net, optimizer, _ = clone(trained)
    target = int(share * ec.SizeMeter()(net).total)
    size = ec.fit_size(net, target, optimizer)
    assert 0.99 * target <= size <= target
    assert size == len(save(ec.finalize(net)))


def test_the_file_is_that_of_the_network_as_it_will_be_finalized(trained):
    net, optimizer, _ = clone(trained)

    def with_more(model):
        ec.finalize(model).register_buffer("classes", torch.linspace(0, 1, 100))
        return model

    target = int(0.8 * ec.SizeMeter()(net).total) + 400
    size = ec.fit_size(net, target, optimizer, with_more)
    assert 0.99 * target <= size <= target
    assert size == len(save(with_more(net)))


def test_room_is_used_by_weights_that_were_near_the_next_level(trained, request):
    net, optimizer, _ = clone(trained)
    before = convert(copy.deepcopy(net)).state_dict()
    size = ec.SizeMeter()(net).total
    target = int(1.015 * size)
    if "categorical" in request.node.name:  # trains no weight that could be near a level
        with pytest.warns(RuntimeWarning, match=f"takes [\\d,]+ bytes, {target:,} were asked for"):
            filled = ec.fit_size(net, target, optimizer)
    else:
        filled = ec.fit_size(net, target, optimizer)
        assert filled > 1.004 * size
    assert size <= filled <= target
    after = convert(net).state_dict()
    farther = [after[name].abs() - before[name].abs() for name in before]
    assert min(int(change.sign().min()) for change in farther) == 0


def test_cheap_moves_go_first(trained):
    net, optimizer, loss_of = clone(trained)
    if not all("exp_avg_sq" in optimizer.state.get(weight, {}) for weight in net.parameters()):
        pytest.skip("logits are trained, not weights")
    other = copy.deepcopy(net)
    target = int(0.85 * ec.SizeMeter()(net).total)
    # the same importance for the wrong weights: what should move last moves first
    wrong = [
        {"exp_avg_sq": 1 / (state["exp_avg_sq"] + 1e-12)} for state in optimizer.state.values()
    ]
    ec.fit_size(net, target, optimizer)
    ec.fit_size(other, target, with_states(other, wrong))
    assert loss_of(net) < loss_of(other)


def test_a_network_that_fits_is_only_frozen(trained):
    net, optimizer, _ = clone(trained)
    before = convert(copy.deepcopy(net)).state_dict()
    assert ec.fit_size(net, ec.SizeMeter()(net).total, optimizer) == ec.SizeMeter()(net).total
    after = convert(net).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_more_than_everything_cannot_go(trained):
    net, _, _ = clone(trained)
    with pytest.raises(MismatchError, match=r"smallest file of this network takes \d+ > 20 bytes"):
        ec.fit_size(net, 20)
    assert all(not t.any() for n, t in convert(net).state_dict().items() if n.endswith("weight"))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({"target_bytes": 700}, 700),
        ({"target_ratio": 50}, 4 * (65 * 120 + 121 * 10) // 50),
        ({"target_bits_per_weight": 0.5}, (65 * 120 + 121 * 10) // 16),
    ],
)
def test_a_size_is_asked_for_in_one_of_three_ways(target, expected):
    net = nn.Sequential(nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 10))
    control = ec.SizeControl.for_model(ec.prepare(net), **target, alpha=0.02)
    assert (control.target_bytes, control.alpha) == (expected, 0.02)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ({}, "no target: give one of target_bytes, target_ratio, target_bits_per_weight"),
        ({"target_bytes": 700, "target_ratio": 50}, "target_bytes and target_ratio: give one of"),
        ({"target_ratio": 0.0}, "target_ratio = 0.0: expected more than 0"),
        ({"target_bits_per_weight": float("nan")}, "target_bits_per_weight = nan: expected"),
    ],
)
def test_a_wrong_size_is_named(targets, said):
    with pytest.raises(ConfigError, match=said):
        ec.SizeControl.for_model(ec.prepare(nn.Linear(64, 10)), **targets)


@pytest.mark.parametrize("impossible", [10, 100_000])
def test_an_impossible_size_is_refused_before_any_training(impossible):
    net = ec.prepare(nn.Linear(64, 100))
    with pytest.raises(
        ConfigError, match=r"cannot be had: .* from \d+ \(all zeros\) to [\d,]+ \(all"
    ):
        ec.SizeControl.for_model(net, target_bytes=impossible)


def test_a_loop_of_ones_own_ends_at_the_size_that_it_asked_for():
    torch.manual_seed(0)
    net = ec.prepare(nn.Sequential(nn.Linear(64, 120), nn.ReLU(), nn.Linear(120, 10)))
    optimizer = torch.optim.Adam(ec.param_groups(net, lr=4e-3))
    inputs = torch.randn(512, 64)
    control, meter = ec.SizeControl.for_model(net, target_ratio=60), ec.SizeMeter()
    for step in range(300):
        if step % 5 == 0:
            control.observe(step / 300, meter(net).total)
        loss = F.cross_entropy(net(inputs), inputs[:, :10].argmax(1))
        (loss + ec.penalty(net, control.alpha_at(step / 300), len(inputs))).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert 0.7 < meter(net).total / control.target_bytes < 1.4  # alpha alone came near
    size = ec.fit_size(net, control.target_bytes, optimizer)
    assert 0.99 * control.target_bytes <= size <= control.target_bytes
    assert size == len(save(ec.finalize(net)))


def test_moves_that_would_save_no_byte_are_not_made():
    torch.manual_seed(0)
    net = ec.prepare(nn.Linear(64, 200), ec.Config(levels=33, reach=4.0))
    step = Constrained(net, "weight").codebook().values[17].detach()
    # twos are more frequent than ones, as in a network that started coarse: to a one saves nothing
    levels = torch.tensor([0.0, 1.0, 2.0])[
        torch.multinomial(torch.tensor([90.0, 2, 8]), 12800, True)
    ]
    with torch.no_grad():
        signs = torch.randint(0, 2, (200, 64)) * 2 - 1
        net._parameters["weight"].copy_(step * signs * levels.view(200, 64))
    before = convert(copy.deepcopy(net)).weight
    target = int(0.97 * ec.SizeMeter()(net).total)
    ec.fit_size(net, target)
    after = convert(net).weight
    moved = int((before != after).sum())
    assert 0 < moved < 0.05 * int(before.count_nonzero())
    assert not after[before != after].any()


def test_progress_tells_of_every_file_and_the_last_is_the_one_that_remains(trained):
    net, optimizer, _ = clone(trained)
    target, seen = int(0.8 * ec.SizeMeter()(net).total), []
    size = ec.fit_size(net, target, optimizer, on_progress=seen.append)
    assert len(seen) > 3
    assert seen[-1] == size
    assert all(isinstance(each, int) for each in seen)


def test_the_meter_that_is_made_finalizes_as_is_said():
    torch.manual_seed(0)
    net, calls = ec.prepare(nn.Linear(64, 120)), []

    def with_more(model):
        calls.append(model)
        ec.finalize(model).register_buffer("classes", torch.linspace(0, 1, 1000))
        return model

    seen, target = [], int(0.8 * ec.SizeMeter(with_more)(net).total)
    calls.clear()
    assert ec.fit_size(net, target, None, with_more, on_progress=seen.append) <= target
    assert len(calls) == len(seen)


def test_a_move_that_takes_more_than_what_is_left_is_not_called_a_death():
    torch.manual_seed(0)
    net = ec.prepare(nn.Linear(64, 120), ec.Config(reach=4.0))
    floats = torch.randn(1000)

    def with_floats(model):
        """As where one weight keeps a unit alive, and the unit a lot else."""
        if ec.finalize(model).weight.count_nonzero() > 3000:
            model.register_buffer("alive", floats)
        return model

    before = ec.SizeMeter(with_floats)(net).total
    target = ec.SizeMeter()(net).total + 1000
    assert target < before
    with pytest.warns(RuntimeWarning, match="one weight that moves takes more than what is left"):
        size = ec.fit_size(net, target, finalize=with_floats)
    assert size < 0.99 * target


@given(
    most=st.integers(1, 1 << 24),
    share=st.floats(0, 1),
    power=st.floats(0.2, 6),
    falling=st.booleans(),
)
def test_a_bracket_is_closed_in_few_guesses(most, share, power, falling):
    def size(count):
        part = count / most
        return 1000 + int(1e6 * ((1 - part) if falling else part) ** power)

    low, high = sorted((size(0), size(most)))
    target = int(low + share * (high - low))
    assume(low <= target < high)
    bracket, sizes, guesses = _Bracket(target, {n: size(n) for n in (0, most)}), [low], 0
    while bracket.is_open():
        count = bracket.guess()
        assert 0 < count < most
        sizes.append(size(count))
        bracket.see(count, sizes[-1])
        guesses += 1
    best = max(each for each in sizes if each <= target)
    fitting = max(size(n) for n in near(bracket) if size(n) <= target)
    assert best >= min(fitting, target - target / 4000)
    assert guesses <= 45


def near(bracket):
    """The numbers of moves that a closed bracket has not excluded."""
    few, many = sorted(bracket._ends)
    return few, many
