"""A prepared network is stored as `convert` would leave it."""

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.storage.files import load, save
from ectorch.workflow import convert, prepare


def constrained(network, bias):
    model = network()
    prepare(model, ec.Config(levels=33, bias=bias))
    return model


def dense_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


@pytest.mark.parametrize("dense", [False, True], ids=["small", "dense"])
@pytest.mark.parametrize("bias", ["float32", "float16", "grid"])
def test_a_prepared_model_is_stored_as_convert_leaves_it(
    dense, bias, tmp_path, small_network, all_same
):
    network = dense_network if dense else small_network
    model = constrained(network, bias)
    keys = network().state_dict().keys()
    prepared = save(model)
    assert load(prepared).keys() == keys
    ec.save_file(convert(model), tmp_path / "m.ect")
    assert (tmp_path / "m.ect").read_bytes() == prepared
    fresh = ec.load_model(network(), tmp_path / "m.ect")
    assert all_same(fresh.state_dict(), model.state_dict())


def test_constrained_weights_take_a_fraction_of_their_floats():
    model = constrained(dense_network, "float16")
    floats = sum(t.numel() * t.element_size() for t in dense_network().state_dict().values())
    assert len(save(model)) < floats / 10
