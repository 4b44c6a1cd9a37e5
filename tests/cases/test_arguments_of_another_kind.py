"""Arguments of another kind than a function takes: a named error that says what they are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.errors import ConfigError, UnsupportedLayerError
from ectorch.rewrite.norms import discretize_norms, restore_norms
from ectorch.rewrite.units import remove_dead_units, restore_shapes, sort_units
from ectorch.workflow import freeze_symbols

TAKE_A_MODULE = {
    "prepare": ec.prepare,
    "convert": ec.convert,
    "freeze_symbols": freeze_symbols,
    "param_groups": lambda model: ec.param_groups(model, 0.1),
    "penalty": lambda model: ec.penalty(model, 0.1, 10),
    "SizeMeter": lambda model: ec.SizeMeter()(model),
    "coverage": ec.coverage,
    "SizeControl.for_model": lambda model: ec.SizeControl.for_model(model, target_bytes=600),
    "fit_size": lambda model: ec.fit_size(model, 600),
    "finalize": ec.finalize,
    "snapshot": ec.snapshot,
    "discretize_norms": discretize_norms,
    "restore_norms": lambda model: restore_norms(model, [torch.zeros(2, 2)]),
    "remove_dead_units": remove_dead_units,
    "sort_units": sort_units,
    "restore_shapes": restore_shapes,
    "load_model": lambda model: ec.load_model(model, "no.ect"),
}


@pytest.mark.parametrize("function", TAKE_A_MODULE)
@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("x" * 999, r"'x+\.\.\.x+' \(str\)"),
        (None, "None"),
        (nn.Linear, "the class Linear"),
        (nn.Linear(2, 2).state_dict(), r".* \(OrderedDict\)"),
        ([nn.Linear(2, 2)], r".* \(list\)"),
        (torch.zeros(999, 2), r"a Tensor of shape \(999, 2\)"),
    ],
    ids=["text", "none", "class", "state dict", "list", "tensor"],
)
def test_what_is_no_module_is_refused_by_every_function(function, model, shown):
    with pytest.raises(ConfigError, match=f"^{function}: expected .* as model, got {shown}$") as e:
        TAKE_A_MODULE[function](model)
    assert len(str(e.value)) < 200


@pytest.mark.parametrize("config", [{"levels": 5}, {}, ec.Config, "small", False])
def test_a_config_is_one(config):
    net = nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"config = .*: expected an ectorch\.Config"):
        ec.prepare(net, config)
    assert type(net) is nn.Linear


@pytest.mark.parametrize("finalize", [nn.Linear(2, 2), "finalize", None])
def test_a_meter_takes_a_function(finalize):
    with pytest.raises(ConfigError, match=r"finalize = .*: expected a function of a network"):
        ec.SizeMeter(finalize)
    with pytest.raises(ConfigError, match=r"finalize = .*: expected a function of a network"):
        ec.fit_size(ec.prepare(nn.Linear(2, 2)), 600, finalize=finalize)


def test_numbers_are_no_tensors_and_are_shown_in_short():
    net, inputs = ec.prepare(nn.Linear(2, 2)), torch.zeros(60000, 784)
    with pytest.raises(ConfigError) as error:
        ec.penalty(net, 0.1, examples=inputs)
    said = str(error.value)
    assert said == "examples = a Tensor of shape (60000, 784): expected a number"


@pytest.mark.parametrize("target", ["600", "6KB", None, True, torch.tensor(600)])
def test_a_size_is_a_number(target):
    net = ec.prepare(nn.Linear(64, 10))
    with pytest.raises(ConfigError, match=r"target_bytes = .*: expected a number$"):
        ec.fit_size(net, target)
    with pytest.raises(ConfigError, match=r"target_bytes = .*: expected a number$"):
        ec.SizeControl(target)
    if target is not None:
        with pytest.raises(ConfigError, match=r"target_bytes = .*: expected a number$"):
            ec.SizeControl.for_model(net, target_bytes=target)


def test_an_unknown_setting_is_named_before_anything_else():
    net = ec.prepare(nn.Linear(64, 10))
    with pytest.raises(TypeError, match="unexpected keyword argument 'target_byte'"):
        ec.SizeControl.for_model(net, target_byte=600)
    assert ec.SizeControl.for_model(net, target_bytes=300, lag=0.1).lag == 0.1


def test_an_optimizer_of_another_network_is_refused():
    net = ec.prepare(nn.Linear(64, 100))
    optimizer = torch.optim.Adam(ec.param_groups(net, 0.1))
    before = copy.deepcopy(net)
    for other, said in ((optimizer, "this Adam has no parameter of"), ("adam", "'adam' .str.:")):
        with pytest.raises(ConfigError, match=f"optimizer.*{said}"):
            ec.fit_size(before, 600, other)
    assert before.state_dict().keys() == net.state_dict().keys()  # no symbols
    assert ec.fit_size(net, 600, optimizer) <= 600


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there(tmp_path):
    path = tmp_path / "m.ect"
    ec.save_file(nn.Linear(2, 2), path)
    with pytest.raises(ConfigError, match="device 'cuda'"):
        ec.load_file(path, device="cuda")
    with ec.safe_open(path, device="cuda") as file, pytest.raises(ConfigError, match="'cuda'"):
        file.get_tensor("weight")


def test_a_weight_of_no_numbers_says_what_to_do():
    net = nn.Linear(2, 2)
    net.weight.data[0, 0] = torch.nan
    said = r"holds NaN .1 of 4 values.: give it finite ones, then prepare; or exclude by"
    with pytest.raises(UnsupportedLayerError, match=said.replace("NaN", "NaN or infinity")):
        ec.prepare(net)
