"""A relaxation of the user's own is asked what it is, never which class it has."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.constrain.lengths import isotonic
from ectorch.constrain.relaxation import Bracket, Categorical, Hard, Relaxation
from ectorch.errors import ConfigError
from ectorch.rewrite.units import remove_dead_units


class Own:
    """`Bracket`, but no subclass of it, as a user would write it."""

    lengths = staticmethod(isotonic)
    trains_weight = True

    def __init__(self, inner=None):
        self._inner = inner or Bracket()

    def extra_variables(self, weight, codebook):
        return self._inner.extra_variables(weight, codebook)

    def nearest(self, variables, codebook):
        return self._inner.nearest(variables, codebook)

    def sampled(self, variables, codebook, generator=None):
        return self._inner.sampled(variables, codebook, generator)

    def moments(self, variables, codebook):
        return self._inner.moments(variables, codebook)

    def symbols(self, variables, codebook):
        return self._inner.symbols(variables, codebook)

    def counts(self, variables, codebook):
        return self._inner.counts(variables, codebook)

    def charge(self, variables, codebook, lengths):
        return self._inner.charge(variables, codebook, lengths)


class Tempered(Own):
    """Trains a temperature beside the weight."""

    def extra_variables(self, weight, codebook):
        return {"temperature": torch.ones(())}


def test_the_three_of_our_own_say_what_they_train():
    assert [kind().trains_weight for kind in (Bracket, Hard, Categorical)] == [True, True, False]
    assert isinstance(Own(), Relaxation)


def test_a_relaxation_that_does_not_say_is_refused():
    class Older(Own):
        trains_weight = property()

    with pytest.raises(ConfigError, match=r"a Relaxation has; not here: trains_weight$"):
        ec.Config(relaxation=Older())
    with pytest.raises(ConfigError, match=r"not here: an instance$"):
        ec.Config(relaxation=Own)


def fitted(relaxation):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 10))
    ec.prepare(net, ec.Config(relaxation=relaxation, reach=4))
    target = int(0.9 * ec.SizeMeter()(net).total)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        size = ec.fit_size(net, target)
    assert 0.99 * target <= size <= target
    return {name: value.clone() for name, value in ec.finalize(net).state_dict().items()}


@pytest.mark.parametrize("kind", [Own, Tempered])
def test_its_file_has_the_size_that_was_asked_for(kind):
    ours, theirs = fitted(kind()), fitted(Bracket())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    ("relaxation", "removed"), [(Own(), 6), (Tempered(), 6), (Categorical(), 0)]
)
def test_a_constant_folds_where_the_parameter_is_what_is_trained(relaxation, removed):
    """A unit without incoming weights gives its bias, a constant, to the layer behind."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    net[0].weight.data[2:] = 0.0
    net[0].bias.data.fill_(0.5)
    config = ec.Config(relaxation="bracket", overrides={"2.bias": {"relaxation": relaxation}})
    ec.prepare(net, config)
    assert remove_dead_units(net) == removed
