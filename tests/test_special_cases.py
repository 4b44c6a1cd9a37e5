"""The special cases of the paper are configurations: each does what its name says."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ectorch as ec


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 4))


def data():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(400, 20, generator=generator)
    return x, (x @ torch.randn(20, 4, generator=generator)).argmax(1)


def fit(model, alpha, steps=150, lr=1e-2):
    x, y = data()
    optimizer = torch.optim.Adam(ec.param_groups(model, lr=lr))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for step in range(steps):
        loss = F.cross_entropy(model(x), y)
        loss = loss + ec.penalty(model, alpha * step / steps, len(x), refresh=step % 4 == 0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model


def error_percent(model):
    x, y = data()
    with torch.no_grad():
        return 100 * (model(x).argmax(1) != y).double().mean().item()


def zeros(model):
    weights = torch.cat([model[i].weight.detach().flatten() for i in (0, 2)])
    return (weights == 0).double().mean().item()


def levels_in_use(model):
    return sum(model[i].weight.unique().numel() for i in (0, 2))


def test_pruning_makes_zeros_and_leaves_the_rest_fine():
    config = ec.Config(levels=33, lengths="pruning")
    free, pruned = (ec.convert(fit(ec.prepare(network(), config), alpha)) for alpha in (0.0, 0.3))
    assert zeros(pruned) > zeros(free) + 0.2
    assert error_percent(pruned) < 10
    assert levels_in_use(pruned) > 8


@pytest.mark.parametrize("relaxation", ["bracket", "categorical"])
def test_cardinality_reduction_empties_levels(relaxation):
    config = ec.Config(levels=15, reach=7, lengths="cardinality", relaxation=relaxation)
    lr, most = (1e-2, 0.5) if relaxation == "bracket" else (0.2, 2.0)
    models = [fit(ec.prepare(network(), config), alpha, lr=lr) for alpha in (0.0, most)]
    free, reduced = map(ec.convert, models)
    assert levels_in_use(reduced) <= levels_in_use(free) * 2 / 3
    assert error_percent(reduced) < 10


@pytest.mark.parametrize("settings", [{}, {"relaxation": "hard", "strength": 0.2}])
def test_three_levels_are_ternary(settings):
    config = ec.Config(levels=3, reach=1.3, **settings)
    model = ec.convert(fit(ec.prepare(network(), config), alpha=0.1))
    for i in (0, 2):
        values = model[i].weight.unique()
        assert len(values) == 3
        assert values[0] == -values[2]
    assert error_percent(model) < 15


def test_alpha_zero_is_quantisation_aware_training():
    config = ec.Config(levels=7, reach=3)
    start = ec.prepare(network(), config)
    model = ec.convert(fit(start, alpha=0.0))
    assert levels_in_use(model) <= 14
    assert error_percent(model) < 15


@pytest.mark.parametrize("road", ["pruning", "cardinality"])
def test_the_roads_start_where_the_special_case_ends(road):
    first = ec.Config(levels=31, reach=7, lengths=road)
    model = ec.convert(fit(ec.prepare(network(), first), alpha=0.1))
    start = zeros(model) if road == "pruning" else -levels_in_use(model)
    ec.prepare(model, ec.Config(levels=31, reach=7))
    assert (zeros(model) if road == "pruning" else -levels_in_use(model)) >= start
    ec.convert(fit(model, alpha=0.1))
    assert error_percent(model) < 10
