"""Sizes, rates and shares that cannot be are refused at once, by name."""

from __future__ import annotations

import copy
import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.errors import ConfigError, MismatchError
from ectorch.size.measure import SizeMeter
from ectorch.size.targets import size_range
from ectorch.storage.files import save
from ectorch.workflow import freeze_symbols

WRONG = [-1.0, math.nan, math.inf, "1", True]


def with_floats(norm=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), norm or nn.LayerNorm(128), nn.Linear(128, 10))
    for parameter in net[1].parameters():
        nn.init.normal_(parameter)
    return net


def test_floats_that_stay_are_in_the_smallest_file():
    net = ec.prepare(with_floats())
    with pytest.raises(ConfigError, match=r"of them are floats, 1\.(weight|bias) \(\d+\)") as error:
        ec.SizeControl.for_model(net, target_bytes=600)
    assert "Config(include=...)" in str(error.value)
    assert ec.SizeControl.for_model(net, target_bytes=1500).target_bytes == 1500


@pytest.mark.parametrize("norm", [None, nn.BatchNorm1d(128)])
@pytest.mark.parametrize("bias", ["grid", "float32", "float16"])
def test_the_smallest_file_is_that_of_zeros_as_finalize_leaves_them(norm, bias):
    net = ec.prepare(with_floats(norm), ec.Config(bias=bias))
    least, most = size_range(net)
    assert least.total < ec.SizeMeter()(net).total < most
    ec.convert(net)
    for at in (0, 2):
        net[at].weight.data.zero_()
        if bias == "grid":
            net[at].bias.data.zero_()
    assert least.total == len(save(ec.finalize(net)))


def test_what_finalize_rounds_counts_as_it_leaves_it():
    net = ec.prepare(with_floats(nn.BatchNorm1d(128)))
    net[1].running_mean.normal_()  # it has trained

    def coarse(model):
        return ec.finalize(model, norm_levels=3)

    assert size_range(net, coarse)[0].total < size_range(net)[0].total
    assert size_range(net, coarse)[0].total <= SizeMeter(coarse)(net).total


@pytest.mark.parametrize("size", [0, -1, math.nan, math.inf, 10.5, "600", True])
def test_a_file_is_fitted_to_whole_bytes(size):
    with pytest.raises(ConfigError, match=r"target_bytes = .*: expected"):
        ec.fit_size(ec.prepare(nn.Linear(64, 10)), size)


@pytest.mark.parametrize("size", [0, *WRONG])
def test_a_control_observes_sizes(size):
    with pytest.raises(ConfigError, match=r"size_bytes = .*: expected more than 0"):
        ec.SizeControl(1000).observe(0.5, size)


@pytest.mark.parametrize("progress", [1.01, *WRONG])
@pytest.mark.parametrize(
    "call",
    [ec.ramp, ec.SizeControl(1000).alpha_at, lambda p: ec.SizeControl(1000).observe(p, 1000)],
)
def test_progress_is_a_share(call, progress):
    with pytest.raises(ConfigError, match=r"progress = .*: expected a number from 0 to 1"):
        call(progress)


@pytest.mark.parametrize(
    "make", [lambda **s: ec.ramp(0.5, **s), lambda **s: ec.SizeControl(9, **s)]
)
@pytest.mark.parametrize("setting", ["rise", "peak", "fall"])
@pytest.mark.parametrize("value", WRONG)
def test_a_ramp_has_shares_and_a_peak(make, setting, value):
    with pytest.raises(ConfigError, match=f"{setting} = .*: expected"):
        make(**{setting: value})


def test_a_ramp_comes_down_within_the_training():
    with pytest.raises(ConfigError, match="expected at most 1 together"):
        ec.ramp(0.5, rise=0.9)
    assert ec.ramp(1.0, rise=0.7) == 1.0
    assert ec.ramp(1.0, rise=0.9, peak=1.0) == 1.0  # nothing to come down from


def test_a_file_of_batch_norms_is_fitted_as_it_will_be_finalized():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    model, inputs = ec.prepare(net, ec.Config(reach=16)), torch.randn(64, 32)
    model(inputs)
    finalize = partial(ec.finalize, batches=[inputs])
    target = ec.SizeMeter(finalize)(model).total * 9 // 10
    with pytest.warns(UserWarning, match="without batches; with them batch norms"):
        ec.fit_size(copy.deepcopy(model), target)
    assert ec.fit_size(model, target, finalize=finalize) == len(save(finalize(model)))


@pytest.mark.parametrize("rate", ["lr", "weight_decay", "codebook_lr", "step_lr"])
@pytest.mark.parametrize("value", WRONG)
def test_rates_of_an_optimizer_are_numbers(rate, value):
    with pytest.raises(ConfigError, match=f"{rate} = .*: expected a finite number, 0 or more"):
        ec.param_groups(ec.prepare(nn.Linear(4, 4)), **({"lr": 0.1} | {rate: value}))


def test_a_rate_may_be_a_tensor_as_torch_has_it():
    groups = ec.param_groups(ec.prepare(nn.Linear(4, 4)), lr=torch.tensor(0.1))
    assert float(groups[0]["lr"]) == pytest.approx(0.1)


def two_layers(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
    return ec.prepare(net, ec.Config(reach=8, **settings))


def by_read(net):
    net[0].weight.requires_grad_(False)


def by_parameter(net):
    dict(net.named_parameters())["0.weight"].requires_grad_(False)


def by_parameter_then_symbols(net):
    by_parameter(net)
    freeze_symbols(net)


FREEZES = [by_read, by_parameter, by_parameter_then_symbols]


@pytest.mark.parametrize("freeze", FREEZES)
@pytest.mark.parametrize("share", [0.7, 1.05])
def test_a_fit_leaves_what_its_user_froze(freeze, share):
    net = two_layers()
    freeze(net)
    before = copy.deepcopy(net)
    target = int(share * ec.SizeMeter()(net).total)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # few may move
        for wanted in (target, target * 9 // 10):  # symbols that a fit froze may move again
            if share < 1:
                wanted = max(wanted, size_range(net)[0].total + 200)
            assert ec.fit_size(net, wanted) <= wanted
    assert torch.equal(net[0].weight, before[0].weight)
    assert not torch.equal(net[2].weight, before[2].weight)


def test_a_fit_moves_symbols_that_were_frozen_as_such():
    net = freeze_symbols(two_layers())
    before = net[0].weight.detach().clone()
    ec.fit_size(net, ec.SizeMeter()(net).total * 8 // 10)
    assert not torch.equal(net[0].weight, before)


@pytest.mark.parametrize("freeze", FREEZES)
def test_what_is_frozen_is_in_the_smallest_file(freeze):
    net = two_layers()
    smallest = size_range(net)[0].total
    freeze(net)
    least, most = size_range(net)
    now = ec.SizeMeter()(net)
    assert least.tensors["0.weight"] == now.tensors["0.weight"]
    assert smallest + 500 < least.total < now.total < most
    with pytest.raises(ConfigError, match=r"cannot be had.*; 0\.weight is frozen and stays"):
        ec.SizeControl.for_model(net, target_bytes=least.total - 1)
    with pytest.raises(MismatchError, match=r"smallest file.*; 0\.weight is frozen and stays"):
        ec.fit_size(net, least.total // 2)


def test_a_fit_of_what_is_frozen_whole_is_refused_before_anything_changes():
    net = two_layers()
    net.requires_grad_(False)
    with pytest.raises(MismatchError, match=r"smallest file.*; 0\.weight \(and 3 more\) is"):
        ec.fit_size(net, ec.SizeMeter()(net).total // 2)
    assert not any(name.endswith("_symbols") for name, _ in net.named_buffers())
