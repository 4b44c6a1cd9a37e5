"""The swap of classes: one subclass a base and set of names, that lives as long as its base."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.constrain.modules import Constrained, constrained_in, handle_of
from ectorch.constrain.patch import kind_of
from ectorch.errors import UnsupportedLayerError


def test_modules_of_one_class_share_the_constrained_class():
    net = ec.prepare(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2, bias=False)))
    first, second, third = net
    assert type(first) is type(second) is not type(third)
    assert {kind_of(layer) for layer in net} == {nn.Linear}
    ec.convert(net)
    assert {type(layer) for layer in net} == {nn.Linear}


def test_a_class_of_the_users_goes_with_its_last_network():
    class Own(nn.Linear):
        pass

    net = ec.convert(ec.prepare(Own(4, 4)))
    assert type(net) is Own
    kind = weakref.ref(Own)
    del net, Own
    gc.collect()
    assert kind() is None


def test_a_subclass_has_constrained_classes_of_its_own():
    class Own(nn.Linear):
        pass

    plain, own = ec.prepare(nn.Linear(4, 4)), ec.prepare(Own(4, 4))
    assert isinstance(own, Own)
    assert not isinstance(plain, Own)


def test_handles_say_what_a_parameter_is():
    net = ec.prepare(nn.Linear(6, 3), ec.Config(levels=5, bias="float16"))
    weight, bias = constrained_in(net)
    assert weight == Constrained(net, "weight") == handle_of(net, "weight")
    assert handle_of(net, "weight_bits") is None
    assert weight.parameter is net._parameters["weight"]
    assert (weight.config.levels, weight.codebook().levels) == (5, 5)
    assert torch.equal(weight.hard(), weight.codebook().dequantize(weight.symbols()))
    assert (bias.relaxation, bias.log_gaps) == (None, None)
    assert torch.equal(bias.hard(), bias.parameter.half().float())


def test_frozen_symbols_are_the_decision_until_they_thaw():
    net = ec.prepare(nn.Linear(6, 3))
    weight = Constrained(net, "weight")
    decided = weight.symbols()
    weight.freeze()
    with torch.no_grad():
        weight.parameter.neg_()
    assert torch.equal(weight.symbols(), decided)
    assert not weight.is_held
    weight.thaw()
    assert weight.frozen is None
    assert weight.trained() == ("weight",)


def test_a_class_made_of_anothers_attributes_is_its_own():
    class Own(nn.Linear):
        def forward(self, input):
            return "own"

    ec.prepare(Own(4, 4))
    left_out = ("__dict__", "__weakref__")
    copied = {name: value for name, value in vars(Own).items() if name not in left_out}
    other = type("Other", Own.__bases__, copied | {"forward": lambda self, given: "other"})
    net = ec.prepare(other(4, 4))
    assert isinstance(net, other)
    assert net(torch.ones(1, 4)) == "other"
    assert type(ec.convert(net)) is other


def test_threads_get_one_class():
    class Own(nn.Linear):
        pass

    barrier = threading.Barrier(8)

    def prepared(_):
        barrier.wait()
        return type(ec.prepare(Own(4, 4)))

    with ThreadPoolExecutor(8) as pool:
        assert len({*pool.map(prepared, range(8))}) == 1


@pytest.mark.parametrize("suffix", ["log_gaps", "lengths", "bits", "symbols"])
def test_tensors_of_the_users_under_our_names_are_refused(suffix):
    net = nn.Linear(4, 3)
    own = torch.tensor(7.0)
    net.register_buffer(f"weight_{suffix}", own)
    with pytest.raises(UnsupportedLayerError, match=f"weight .*has weight_{suffix} beside it"):
        ec.prepare(net)
    assert net._buffers[f"weight_{suffix}"] is own
    assert type(net) is nn.Linear


def test_so_are_those_that_the_relaxation_needs():
    net = nn.Linear(4, 3)
    own = net.weight_logits = nn.Parameter(torch.ones(2))
    with pytest.raises(UnsupportedLayerError, match="weight_logits is taken"):
        ec.prepare(net, ec.Config(relaxation="categorical", levels=3))
    assert net.weight_logits is own
    assert [*net.state_dict()] == ["weight", "bias", "weight_logits"]


def test_the_penalty_is_one_graph():
    net = ec.prepare(nn.Linear(4, 3), ec.Config(relaxation="categorical", levels=5))
    compiled = torch.compile(lambda: ec.penalty(net, 1.0, 10), backend="eager", fullgraph=True)
    assert torch.equal(compiled(), ec.penalty(net, 1.0, 10))
