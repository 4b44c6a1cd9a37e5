"""Layers that die and codebooks that no optimizer has: one warning, and none where all is well."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ectorch as ec


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))


def train(net, optimizer, alpha=0.0, steps=80, accumulate=1):
    inputs = torch.randn(32, 16)
    for step in range(steps):
        loss = net(inputs).square().mean() + ec.penalty(net, alpha, examples=32)
        loss.backward()
        if (step + 1) % accumulate == 0:
            optimizer.step()
            optimizer.zero_grad()


def adam(net, lr=1e-3, **settings):
    return torch.optim.Adam(ec.param_groups(net, lr=lr), **settings)


def empty(weight):
    with torch.no_grad():
        weight.zero_()


@pytest.mark.parametrize("relaxation", ["bracket", "hard", "categorical"])
def test_a_layer_that_dies_is_named_once(relaxation, recwarn):
    net = ec.prepare(network(), ec.Config(relaxation=relaxation))
    ec.penalty(net, 1.0, 32)
    for name, parameter in net[2].named_parameters():
        if name == "weight_logits":
            with torch.no_grad():
                parameter[parameter.shape[0] // 2] += 100
        elif name == "weight":
            empty(parameter)
    for _ in range(50):
        ec.penalty(net, 1.0, 32)
    (warned,) = recwarn
    assert "2.weight has no nonzero left" in str(warned.message)
    assert "lower alpha" in str(warned.message)
    assert warned.filename == __file__


def test_a_network_that_the_penalty_kills_is_named_by_its_first_layer():
    net = ec.prepare(network())
    with pytest.warns(UserWarning, match=r"^0\.weight.* no nonzero"):
        train(net, adam(net, lr=3e-2), alpha=100.0, steps=200)


def test_a_layer_that_was_all_zero_when_it_was_prepared_does_not_count():
    net = network()
    empty(net[2].weight)
    ec.prepare(net)
    train(net, adam(net, lr=0.0))


def test_biases_may_be_zero():
    net = ec.prepare(network())
    ec.penalty(net, 1.0, 32)
    empty(net[0]._parameters["bias"])
    for _ in range(50):
        ec.penalty(net, 1.0, 32)


@pytest.mark.parametrize("codebook", ["grid", "quantile"])
def test_an_optimizer_of_before_misses_the_codebooks(codebook):
    net = network()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    ec.prepare(net, ec.Config(codebook=codebook))
    with pytest.warns(
        UserWarning, match=r"0\.weight_log_gaps \(and 3 more\) .* after prepare"
    ) as w:
        train(net, optimizer, steps=150)
    assert len(w) == 1


@pytest.mark.parametrize("accumulate", [1, 4])
@pytest.mark.parametrize(
    "make",
    [
        adam,
        lambda net: adam(net, lr=0.0),
        lambda net: adam(net, fused=True),
        lambda net: torch.optim.SGD(ec.param_groups(net, 1e-2), momentum=0.9),
        lambda net: torch.optim.Adam(ec.param_groups(net, 1e-3, codebook_lr=0.0)),
    ],
    ids=["adam", "no rate", "fused", "sgd", "codebooks rest"],
)
def test_an_optimizer_that_has_them_is_no_cause(make, accumulate):
    net = ec.prepare(network())
    train(net, make(net), steps=160, accumulate=accumulate)


def test_codebooks_that_are_frozen_are_no_cause():
    net = ec.prepare(network())
    for name, parameter in net.named_parameters():
        if name.endswith("_log_gaps"):
            parameter.requires_grad_(False)
    train(net, torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=1e-3))


def test_a_rate_that_starts_at_zero_is_no_cause():
    net = ec.prepare(network())
    optimizer = adam(net)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0, step - 3))
    for _ in range(6):
        train(net, optimizer, steps=20)
        schedule.step()


def test_two_optimizers_one_of_them_fused_are_no_cause():
    net = ec.prepare(network())
    groups = {group["name"]: group for group in ec.param_groups(net, lr=1e-3)}
    weights = torch.optim.SGD(groups["constrained"]["params"], lr=1e-3)
    books = torch.optim.AdamW(groups["codebook"]["params"], lr=1e-3, fused=True)
    inputs = torch.randn(32, 16)
    for _ in range(80):
        (net(inputs).square().mean() + ec.penalty(net, 0.0, 32)).backward()
        for optimizer in (weights, books):
            optimizer.step()
            optimizer.zero_grad()
