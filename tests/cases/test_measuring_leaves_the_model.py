"""Sizes are measured on a copy: mode, random numbers, hooks and values of the model stay."""

import copy
import random
import threading

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.errors import UnsupportedLayerError
from ectorch.size.measure import rate_bits
from ectorch.storage.files import save


def network(prepared=True):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.Dropout(), nn.BatchNorm1d(30), nn.Linear(30, 5))
    return ec.prepare(net) if prepared else net


def noisy(model):
    """A way to finalize that draws random numbers."""
    model(torch.randn(4, 20))
    return ec.finalize(model)


MEASURES = {
    "rate": rate_bits,
    "meter": lambda net: ec.SizeMeter()(net),
    "noisy meter": lambda net: ec.SizeMeter(noisy)(net),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES.keys())
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("prepared", [True, False])
def test_a_measured_model_is_as_it_was(measure, training, prepared):
    net = network(prepared).train(training)
    called = []
    net[0].register_forward_hook(lambda *call: called.append(call))
    before = copy.deepcopy(net.state_dict())
    hooks = [dict(module._forward_hooks) for module in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]
    dice, python = torch.get_rng_state(), random.getstate()
    measure(net)
    assert torch.equal(torch.get_rng_state(), dice)
    assert random.getstate() == python
    assert [dict(module._forward_hooks) for module in net.modules()] == hooks
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(module.training == training for module in net.modules())
    after = net.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert bool(called) == (measure is MEASURES["noisy meter"])


class Locked(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.lock = threading.Lock()


class Derived(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.double = self.weight * 2


class Odd(nn.Linear):
    def __deepcopy__(self, memory):
        raise KeyError("odd")


@pytest.mark.parametrize("kind", [Locked, Derived, Odd])
def test_a_model_that_has_no_copy_is_named(kind):
    with pytest.raises(UnsupportedLayerError, match=r"Sequential cannot be copied.*"):
        ec.SizeMeter()(nn.Sequential(kind(2, 2) if kind is Odd else kind()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
def test_a_compiled_model_measures_as_its_file():
    net = torch.compile(network(), backend="eager")
    size = ec.SizeMeter(ec.convert)(net)
    assert size.total == len(save(net))
    assert "0.weight" in size.tensors
