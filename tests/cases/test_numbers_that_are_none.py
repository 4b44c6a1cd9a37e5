"""NaN, infinite, huge and tiny numbers: no index leaves its table, and a named error says where."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.constrain.codebook import Codebook, check_finite, initial_log_gaps
from ectorch.constrain.lengths import RULES
from ectorch.constrain.relaxation import Bracket, Categorical, Hard
from ectorch.errors import DivergedError
from ectorch.size.measure import rate_bits
from ectorch.storage.discrete import discrete_state_dict
from ectorch.workflow import freeze_symbols

LEVELS = 6
RELAXATIONS = [Bracket(), Categorical(), Hard()]
ODD = [math.nan, math.inf, -math.inf, 1e30, -1e30, 1e-42, 0.0]
BOOKS = {
    "grid": torch.tensor([-2.0]),
    "free": torch.tensor([-2.0, -1.0, -3.0, -2.0, -1.0]),
    "overflow": torch.tensor([1e4]),
    "underflow": torch.tensor([-1e4]),
    "free overflow": torch.full((LEVELS - 1,), 1e4),
    "free underflow": torch.full((LEVELS - 1,), -1e4),
    "nan": torch.tensor([math.nan]),
    "free nan": torch.full((LEVELS - 1,), math.nan),
}
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(params=RELAXATIONS, ids=lambda kind: type(kind).__name__)
def relaxation(request):
    return request.param


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("book", BOOKS)
def test_no_index_leaves_its_table(relaxation, book, dtype):
    codebook = Codebook.from_log_gaps(BOOKS[book].to(dtype), LEVELS)
    weight = torch.tensor(ODD, dtype=torch.float64).to(dtype)
    lower, _ = codebook.locate(weight)
    assert lower.min() >= 0
    assert lower.max() <= LEVELS - 2
    interval = codebook.interval(weight)
    assert interval.min() >= 0
    assert interval.max() <= LEVELS
    variables = {"weight": weight, **relaxation.extra_variables(weight, codebook)}
    symbols = relaxation.symbols(variables, codebook)
    assert symbols.min() >= 0
    assert symbols.max() < LEVELS
    counts = relaxation.counts(variables, codebook)
    relaxation.charge(variables, codebook, torch.ones(LEVELS))
    for method in ("nearest", "sampled", "moments"):
        getattr(relaxation, method)(variables, codebook)
    for rule in RULES.values():
        assert rule(counts, codebook.zero).shape == (LEVELS,)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("book", [name for name in BOOKS if "nan" not in name])
def test_a_codebook_stays_finite_and_ascends_wherever_its_gaps_go(book, dtype):
    log_gaps = BOOKS[book].to(dtype).clamp(torch.finfo(dtype).min, torch.finfo(dtype).max)
    values = Codebook.from_log_gaps(log_gaps, LEVELS).values
    assert values.isfinite().all()
    assert (values.diff() > 0).all()


@pytest.mark.parametrize("levels", [2, 3, 33])
@pytest.mark.parametrize("kind", ["grid", "kmeans", "quantile"])
@pytest.mark.parametrize(
    "weights",
    [[], [0.3], [-0.3], [0.0], [0.2] * 9, [1e-42, -2e-42], [1e30, -3e30], [3e38, -3e38, 1e38]],
    ids=["none", "one", "one-below", "zero", "equal", "denormal", "huge", "largest"],
)
@pytest.mark.parametrize("rule", RULES)
def test_parameters_of_odd_numbers_train(weights, kind, levels, rule):
    layer = nn.ParameterList([nn.Parameter(torch.tensor(weights).reshape(1, -1))])
    config = ec.Config(
        levels=levels, codebook=kind, lengths=rule, include=("*",), exclude=(), bias="float32"
    )
    ec.prepare(layer, config)
    penalty = ec.penalty(layer, alpha=1.0, examples=10)
    assert penalty.isfinite()
    penalty.backward()
    gradient = layer._parameters["0"].grad
    assert gradient is None or gradient.isfinite().all()
    assert ec.convert(layer)[0].isfinite().all()


def test_small_weights_do_not_all_become_zero():
    """A scale is no reason: what matters is which weights are large among their own."""
    torch.manual_seed(0)
    weight = torch.randn(50)
    for scale in (1.0, 1e-12, 1e-30):
        codebook = Codebook.from_log_gaps(initial_log_gaps("grid", scale * weight, 9, 4), 9)
        assert codebook.quantize(scale * weight).unique().numel() > 5


def prepared(**settings):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    return ec.prepare(net, ec.Config(levels=5, **settings))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", ["bracket", "hard"])
def test_the_first_penalty_names_what_diverged(kind, number):
    net = prepared(relaxation=kind)
    net[2]._parameters["weight"].data[1, 3:] = number
    what = "NaN" if math.isnan(number) else "infinity"
    with pytest.raises(DivergedError, match=rf"2\.weight holds {what} \(2 of 10 values\)"):
        ec.penalty(net, alpha=1.0, examples=10)


@pytest.mark.parametrize("suffix", ["weight_log_gaps", "weight_logits", "bias_log_gaps"])
def test_the_codebook_and_logits_are_named_too(suffix):
    net = prepared(relaxation="categorical")
    net[0]._parameters[suffix].data.flatten()[0] = math.nan
    with pytest.raises(DivergedError, match=rf"0\.{suffix} holds NaN \(1 of "):
        ec.penalty(net, alpha=1.0, examples=10)


@pytest.mark.parametrize(
    "call",
    [
        ec.convert,
        ec.finalize,
        freeze_symbols,
        rate_bits,
        ec.SizeMeter(),
        discrete_state_dict,
    ],
    ids=lambda call: getattr(call, "__name__", type(call).__name__),
)
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_nothing_is_made_of_it_and_nothing_changed(call, number):
    net = prepared()
    net[2]._parameters["weight"].data[0, 0] = number
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(DivergedError, match=r"2\.weight holds "):
        call(net)
    after = net.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0, equal_nan=True)


def test_a_training_that_diverges_stops_with_a_name():
    net, x = prepared(), torch.randn(20, 6)
    optimizer = torch.optim.SGD(ec.param_groups(net, lr=1.0))

    def train(steps):
        for _ in range(steps):
            loss = (1e30 * net(x)).square().mean() + ec.penalty(net, alpha=1.0, examples=10)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    with pytest.raises(DivergedError, match=r"0\.weight holds (NaN|infinity)"):
        train(steps=5)


def test_a_penalty_recovers_when_its_weights_do():
    net = prepared()
    good = {name: value.clone() for name, value in net.state_dict().items()}
    net[0]._parameters["weight"].data.fill_(math.nan)
    with pytest.raises(DivergedError):
        ec.penalty(net, alpha=1.0, examples=10)
    net.load_state_dict(good)
    assert ec.penalty(net, alpha=1.0, examples=10).isfinite()


def test_a_rule_of_lengths_that_gives_no_number_is_told():
    net = prepared(lengths=lambda counts, zero: torch.full_like(counts, math.inf))
    with pytest.raises(DivergedError, match="rule gives no number"):
        ec.penalty(net, alpha=1.0, examples=10)


def test_a_rounded_bias_stays_finite():
    layer = nn.Linear(3, 2)
    layer.bias.data = torch.tensor([1e30, -1e6])
    ec.prepare(layer, ec.Config(bias="float16"))
    assert ec.convert(layer).bias.tolist() == [65504.0, -65504.0]


def test_a_codebook_of_no_numbers_is_refused():
    with pytest.raises(DivergedError, match=r"weight holds NaN \(1 of 2 values\)"):
        initial_log_gaps("kmeans", torch.tensor([1.0, math.nan]), 5)
    check_finite("empty", torch.zeros(0))
