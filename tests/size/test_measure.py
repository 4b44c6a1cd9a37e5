"""The size that is told while training is that of the file."""

import copy
import io
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.bitstream.file.meter import FileMeter
from ectorch.errors import ConfigError
from ectorch.rewrite.units import remove_dead_units
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
            remove_dead_units(net, optimizer)


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


def file_bytes(model):
    return len(save(ec.finalize(model)))


def changing(seed, threads=None, resumed_at=None, by_future=False):
    """Sizes on the way of a network whose weights move, by call or by future; and of its files."""
    torch.manual_seed(seed)
    net = ec.prepare(dense_network(), ec.Config(levels=33, reach=4))
    meter, sizes, files = ec.SizeMeter(threads=threads), [], []
    random = torch.Generator().manual_seed(seed)
    for step in range(6):
        if step == resumed_at:
            kept = io.BytesIO()
            torch.save(meter.state_dict(), kept)
            kept.seek(0)
            meter = ec.SizeMeter(threads=threads)
            meter.load_state_dict(torch.load(kept, weights_only=True))
        sizes.append(meter.start(net) if by_future else meter(net).total)
        files.append(partial(file_bytes, copy.deepcopy(net)))
        with torch.no_grad():
            for layer in (net[0], net[2]):
                weight = layer._parameters["weight"]
                weight += 0.03 * torch.randn(weight.shape, generator=random) * weight.std()
                weight *= 0.93 + 0.05 * torch.rand((), generator=random)
    return [size.result().total if by_future else size for size in sizes], files


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 1000))
def test_a_size_is_that_of_the_file_or_just_above(seed):
    for size, file in zip(*changing(seed), strict=True):
        assert 0.999 * file() <= size <= 1.005 * file() + 8  # no search is exhaustive


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_a_meter_that_resumes_gives_the_same_sizes(seed, step):
    assert changing(seed, resumed_at=step)[0] == changing(seed)[0]


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([1, 2, 5]))
def test_sizes_do_not_depend_on_threads_or_on_when_they_are_asked_for(seed, threads):
    assert changing(seed, threads, by_future=True)[0] == changing(seed)[0]


def test_what_is_started_measures_the_network_as_it_was():
    net, meter = ec.prepare(dense_network()), ec.SizeMeter()
    expected = ec.SizeMeter()(net)
    random = torch.get_rng_state()
    size = meter.start(net)
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert size.result(60) == expected
    assert meter(net).total < expected.total


def test_a_state_is_that_after_all_that_was_started():
    net, meter, other = ec.prepare(dense_network()), ec.SizeMeter(), ec.SizeMeter()
    started = meter.start(net)
    state = meter.state_dict()
    assert started.done()
    other(net)
    assert state == other.state_dict()


def test_what_fails_reaches_who_asks(monkeypatch):
    net, meter = ec.prepare(dense_network()), ec.SizeMeter()
    with pytest.raises(ConfigError, match="SizeMeter"):
        meter.start(3)

    def fail(*_):
        raise MemoryError("no room for the coder")

    monkeypatch.setattr(FileMeter, "measure", fail)
    size = meter.start(net)
    with pytest.raises(MemoryError, match="no room for the coder"):
        size.result(60)
    monkeypatch.undo()
    assert meter.start(net).result(60) == ec.SizeMeter()(net)


def test_states_of_earlier_versions_are_found_anew():
    net, meter = ec.prepare(dense_network()), ec.SizeMeter()
    meter.load_state_dict({"0.weight": (3, {"order": 0})})
    assert meter(net) == ec.SizeMeter()(net)
