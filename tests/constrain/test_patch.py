"""The swap of classes: one subclass a base and set of names, that lives as long as its base."""

import gc
import weakref

import torch
from torch import nn

import ectorch as ec
from ectorch.constrain.modules import Constrained, constrained_in, handle_of
from ectorch.constrain.patch import kind_of


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
