"""What users put around their training: optimizers, averages, mixed precision, batch norms."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

import ectorch as ec

X, Y = torch.randn(64, 3, 6, 6), torch.randint(0, 4, (64,))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )


def step(model, optimizer, refresh=True, autocast=False):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = F.cross_entropy(model(X), Y)
    optimizer.zero_grad()
    (loss + ec.penalty(model, 0.1, 1000, refresh)).backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("relaxation", ["bracket", "categorical", "hard"])
def test_foreach_and_fused_optimizers_do_what_the_plain_one_does(kind, relaxation):
    trained = []
    for options in ({}, {"foreach": True}, {"fused": True}):
        model = network()
        del model[1]  # before a batch norm a bias has no gradient but noise
        ec.prepare(model, ec.Config(levels=7, relaxation=relaxation, bias="grid"))
        optimizer = kind(ec.param_groups(model, lr=1e-2), **options)
        for _ in range(3):
            step(model, optimizer)
        trained.append([p.detach() for p in model.parameters()])
    for others in trained[1:]:
        for plain, other in zip(trained[0], others, strict=True):
            torch.testing.assert_close(plain, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("relaxation", ["bracket", "categorical", "hard"])
def test_an_average_of_the_weights_is_a_prepared_model(relaxation):
    model = ec.prepare(network(), ec.Config(levels=7, relaxation=relaxation))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.Adam(ec.param_groups(model, lr=1e-2))
    expected = None
    for _ in range(4):
        step(model, optimizer)
        average.update_parameters(model)
        now = model[4]._parameters["weight"].detach()
        expected = now.clone() if expected is None else expected.lerp(now, 0.5)
    torch.testing.assert_close(average.module[4]._parameters["weight"].detach(), expected)
    assert average.module[4].weight.unique().numel() <= 7
    hardened = ec.convert(copy.deepcopy(average.module)).eval()
    with torch.no_grad():
        assert torch.equal(hardened(X), average.module.eval()(X))
    assert model[4]._parameters["weight"] is not average.module[4]._parameters["weight"]


def test_batch_norms_are_estimated_anew_for_the_hard_network():
    model = ec.prepare(network(), ec.Config(levels=3, forward="sampled", reach=1.0))
    step(model, torch.optim.SGD(ec.param_groups(model, lr=0.0)))
    ec.convert(model)
    noisy = model[1].running_var.clone()
    update_bn(X.split(16), model)
    exact = model[0](X).var((0, 2, 3), unbiased=False)
    assert (model[1].running_var - exact).abs().max() < 0.2 * (noisy - exact).abs().max()


@pytest.mark.parametrize("forward", ["nearest", "sampled", "moments"])
@pytest.mark.parametrize("relaxation", ["bracket", "categorical", "hard"])
def test_autocast_in_bfloat16_trains_float32_weights(forward, relaxation):
    model = ec.prepare(network(), ec.Config(levels=7, relaxation=relaxation, forward=forward))
    lr = 0.1 if relaxation == "categorical" else 1e-2
    optimizer = torch.optim.Adam(ec.param_groups(model, lr=lr))
    losses = [step(model, optimizer, autocast=True) for _ in range(30)]
    assert losses[-1] < losses[0] - 0.2
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


def test_the_penalty_is_the_same_inside_autocast():
    model = ec.prepare(network(), ec.Config(levels=7))
    outside = ec.penalty(model, 1.0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ec.penalty(model, 1.0, 1), outside)


def test_without_a_refresh_lengths_and_value_stay_and_the_gradient_moves():
    model = ec.prepare(nn.Linear(30, 20), ec.Config(levels=7, bias="float32"))
    first = ec.penalty(model, 1.0, 1)
    (before,) = torch.autograd.grad(first, model._parameters["weight"])
    lengths = model.weight_lengths.clone()
    with torch.no_grad():
        model._parameters["weight"].neg_()
        model._parameters["weight"][:15].zero_()
    stale = ec.penalty(model, 1.0, 1, refresh=False)
    assert torch.equal(stale, first)
    assert torch.equal(model.weight_lengths, lengths)
    (moved,) = torch.autograd.grad(stale, model._parameters["weight"])
    assert not torch.equal(moved, before)
    fresh = ec.penalty(model, 1.0, 1)
    assert fresh < 0.7 * first
    assert not torch.equal(model.weight_lengths, lengths)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_half_precision_is_charged_too(dtype):
    model = nn.Linear(400, 300)
    expected = ec.penalty(ec.prepare(copy.deepcopy(model), ec.Config()), 1.0, 1)
    ec.prepare(model.to(dtype), ec.Config())
    first = ec.penalty(model, 1.0, 1)
    first.backward()
    assert first.item() == pytest.approx(expected.item(), rel=0.02)  # beyond float16's range
    assert model._parameters["weight"].grad.isfinite().all()
    stale = ec.penalty(model.to(torch.float32).to(dtype), 1.0, 1, refresh=False)
    assert stale.item() == pytest.approx(expected.item(), rel=0.02)


def test_an_empty_parameter_costs_nothing():
    model = nn.Linear(1, 3)
    model.weight = nn.Parameter(torch.zeros(3, 0))
    ec.prepare(model, ec.Config(bias="float32"))
    assert ec.penalty(model, 1.0, 1) == 0
