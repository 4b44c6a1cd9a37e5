"""Every relaxation, codebook and rule on parameters of float64, bfloat16 and float16."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.constrain.codebook import Codebook, initial_log_gaps
from ectorch.constrain.lengths import RULES
from ectorch.constrain.relaxation import Bracket, Categorical, Hard
from ectorch.storage.discrete import discrete_state_dict, mean_state_dict

DTYPES = [torch.float64, torch.bfloat16, torch.float16]
CODEBOOKS = ["grid", "kmeans", "quantile"]
LEVELS = 9


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture(params=CODEBOOKS)
def kind(request):
    return request.param


@pytest.fixture(params=[Bracket(), Categorical(), Hard()], ids=lambda kind: type(kind).__name__)
def relaxation(request):
    return request.param


def trained(relaxation, kind, dtype, scale=0.1):
    torch.manual_seed(0)
    weight = (scale * torch.randn(30, 20)).to(dtype)
    log_gaps = initial_log_gaps(kind, weight, LEVELS, 2).to(dtype).requires_grad_()
    codebook = Codebook.from_log_gaps(log_gaps, LEVELS)
    variables = {"weight": weight, **relaxation.extra_variables(weight, codebook)}
    variables = {name: value.detach().requires_grad_() for name, value in variables.items()}
    return variables, log_gaps, codebook


@pytest.mark.parametrize("scale", [0.1, 1e-3, 3.0])
@pytest.mark.parametrize("method", ["nearest", "sampled", "moments"])
def test_values_and_gradients_are_finite_and_of_the_dtype(relaxation, kind, dtype, method, scale):
    variables, log_gaps, codebook = trained(relaxation, kind, dtype, scale)
    assert all(value.dtype == dtype for value in variables.values())
    found = getattr(relaxation, method)(variables, codebook)
    found = found if isinstance(found, tuple) else (found,)
    for tensor in found:
        assert tensor.dtype == dtype
        assert tensor.isfinite().all()
    sum((tensor.float() / scale).square().mean() for tensor in found).backward()
    for leaf in (*variables.values(), log_gaps):
        assert leaf.grad is None or (leaf.grad.dtype == dtype and leaf.grad.isfinite().all())
    assert log_gaps.grad is not None
    assert log_gaps.grad.any()


def test_symbols_and_counts_are_those_of_wide_numbers(relaxation, kind, dtype):
    variables, _, codebook = trained(relaxation, kind, dtype)
    wide = {name: value.detach().double() for name, value in variables.items()}
    gaps = codebook.values.detach().double().diff()
    book = Codebook(LEVELS, (gaps[:1] if codebook.is_grid else gaps).log())
    ours, theirs = (
        relaxation.symbols(variables, codebook),
        relaxation.symbols(wide, book),
    )
    assert (ours != theirs).float().mean() < 0.01
    counts = relaxation.counts(variables, codebook)
    assert counts.dtype == torch.float64
    torch.testing.assert_close(
        counts.sum(), torch.tensor(600.0, dtype=torch.float64), rtol=1e-3, atol=0
    )
    torch.testing.assert_close(counts, relaxation.counts(wide, book), rtol=0.02, atol=4)


@pytest.mark.parametrize("rule", RULES)
def test_the_penalty_presses_weights_of_every_dtype(relaxation, kind, dtype, rule):
    """A share of a bit among a million examples is below float16's least number; slopes are not."""
    torch.manual_seed(0)
    layer = nn.Linear(20, 30, bias=False).to(dtype)
    wide = nn.Linear(20, 30, bias=False).double()
    wide.weight.data.copy_(layer.weight.data)
    gradients = []
    for each in (layer, wide):
        config = ec.Config(
            levels=LEVELS, relaxation=type(relaxation)(lengths=rule), codebook=kind, reach=2
        )
        ec.prepare(each, config)
        if each is wide:
            log_gaps = layer._parameters["weight_log_gaps"].data
            each._parameters["weight_log_gaps"].data.copy_(log_gaps)
        penalty = ec.penalty(each, alpha=1.0, examples=1_000_000)
        assert penalty.isfinite()
        if penalty.requires_grad:
            penalty.backward()
        name = "weight_logits" if isinstance(relaxation, Categorical) else "weight"
        gradients.append(each._parameters[name].grad)
    ours, theirs = gradients
    if isinstance(relaxation, Hard):
        assert ours is None
        return
    assert ours.dtype == dtype
    near = (ours.double() - theirs).abs() <= 0.05 * theirs.abs() + 1e-7
    assert near.double().mean() > 0.75  # the others lie on a level, which is rounded too


@pytest.mark.parametrize("forward", ["nearest", "sampled", "moments"])
def test_a_network_trains_and_converts(relaxation, kind, dtype, forward):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 4)).to(dtype)
    config = ec.Config(
        levels=LEVELS, relaxation=relaxation, codebook=kind, forward=forward, reach=2
    )
    ec.prepare(net, config)
    optimizer = torch.optim.SGD(ec.param_groups(net, lr=1e-2))
    x = torch.randn(8, 20, dtype=dtype)
    for _ in range(2):
        output = net(x)
        assert output.dtype == dtype
        loss = output.float().square().mean() + ec.penalty(net, alpha=1.0, examples=1000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    soft, hard = mean_state_dict(net), discrete_state_dict(net)
    assert all(value.dtype == dtype for value in (*soft.values(), *hard.values()))
    plain = ec.convert(net.eval())
    for name, value in plain.state_dict().items():
        assert torch.equal(value, hard[name])
        assert value.isfinite().all()
        assert value.unique().numel() <= 65


def test_many_levels_are_counted_beyond_the_whole_numbers_of_the_dtype(dtype):
    """bfloat16 counts to 256, float16 to 2048."""
    levels = 1025
    codebook = Codebook.from_log_gaps(torch.tensor([0.125], dtype=dtype).log(), levels)
    at = torch.tensor([-60.0, -32.0, 0.0, 33.0, 61.0], dtype=dtype)
    expected = (at.double() / codebook.step.double()).round().clamp(-512, 512).long() + 512
    assert torch.equal(codebook.quantize(at), expected)
    assert torch.equal(codebook.locate(at)[0].long(), expected.clamp(max=levels - 2))
    assert torch.equal(codebook.interval(at).long(), expected + 1)


def test_hard_assignment_where_values_coincide():
    """With more levels than bfloat16 tells apart two neighbours have one value."""
    codebook = Codebook.from_log_gaps(torch.tensor([0.0], dtype=torch.bfloat16), 1025)
    weight = torch.linspace(-500, 500, 99).bfloat16()
    symbols = Hard().symbols({"weight": weight}, codebook)
    assert symbols.min() >= 0
    assert symbols.max() < 1025


def test_a_step_that_float16_hardly_holds():
    """Denormal in float16, rounded to bfloat16: multiples are still multiples, and none is lost."""
    codebook = Codebook.from_log_gaps(torch.tensor([3e-6]).log().half(), LEVELS)
    assert codebook.step > 0
    values = codebook.values
    assert (values.diff() > 0).all()
    assert torch.equal(codebook.quantize(values), torch.arange(LEVELS))
