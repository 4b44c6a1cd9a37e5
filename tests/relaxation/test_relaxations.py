"""What every relaxation must do, on every kind of codebook: a new one joins in `RELAXATIONS`."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ectorch.codebook import Codebook, initial_log_gaps
from ectorch.relaxation import Bracket, Categorical, Hard, Relaxation

RELAXATIONS = {
    "bracket": Bracket(),
    "bracket-running-maximum": Bracket(lengths="running_maximum"),
    "bracket-free": Bracket(lengths="free"),
    "categorical": Categorical(),
    "hard": Hard(),
}
DETERMINISTIC = (Hard(),)  # without chance: no variance, and a rate without a gradient
LEVELS = 6


@dataclass
class Subject:
    """A relaxation, what it trains, and the codebook's own parameter."""

    relaxation: Relaxation
    variables: dict[str, Tensor]
    log_gaps: Tensor

    @property
    def codebook(self) -> Codebook:
        return Codebook.from_log_gaps(self.log_gaps, LEVELS)

    def ask(self, method: str, *args):
        return getattr(self.relaxation, method)(self.variables, self.codebook, *args)

    def gradients(self, scalar: Tensor) -> dict[str, Tensor | None]:
        inputs = {**self.variables, "log_gaps": self.log_gaps}
        found = torch.autograd.grad(scalar, [*inputs.values()], allow_unused=True)
        return dict(zip(inputs, found, strict=True))


def make_subject(relaxation, kind, dtype=torch.float32, shape=(7, 3, 5)):
    torch.manual_seed(0)
    weight = 0.1 * torch.randn(shape, dtype=dtype)
    log_gaps = initial_log_gaps(kind, weight, LEVELS)
    codebook = Codebook.from_log_gaps(log_gaps, LEVELS)
    variables = {"weight": weight, **relaxation.extra_variables(weight, codebook)}
    variables = {name: value.detach().requires_grad_() for name, value in variables.items()}
    return Subject(relaxation, variables, log_gaps.requires_grad_())


@pytest.fixture(params=RELAXATIONS)
def relaxation(request):
    return RELAXATIONS[request.param]


@pytest.fixture(params=["grid", "kmeans", "quantile"])
def kind(request):
    return request.param


@pytest.fixture
def subject(relaxation, kind):
    return make_subject(relaxation, kind)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_it_is_a_relaxation(relaxation):
    assert isinstance(relaxation, Relaxation)
    assert copy.deepcopy(relaxation) == relaxation


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_shapes_and_dtypes_are_those_of_the_weight(relaxation, kind, dtype):
    subject = make_subject(relaxation, kind, dtype)
    weight = subject.variables["weight"]
    for value in (subject.ask("nearest"), subject.ask("sampled"), *subject.ask("moments")):
        assert (value.shape, value.dtype) == (weight.shape, dtype)


def test_symbols_are_levels(subject):
    symbols = subject.ask("symbols")
    assert symbols.dtype == torch.int64
    assert symbols.shape == subject.variables["weight"].shape
    assert 0 <= symbols.min() < symbols.max() < LEVELS


def test_nearest_is_the_values_of_the_symbols(subject):
    assert torch.equal(subject.ask("nearest"), subject.codebook.dequantize(subject.ask("symbols")))


@pytest.mark.parametrize("method", ["nearest", "sampled"])
def test_only_values_of_the_codebook_come_out(subject, method):
    value = subject.ask(method)
    assert torch.isin(value, subject.codebook.values).all()
    assert (value == 0).any()
    assert not value[value == 0].signbit().any(), "-0.0"


def test_a_generator_decides_what_is_sampled(subject):
    first, again, other = (subject.ask("sampled", seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (subject.relaxation in DETERMINISTIC)


def test_moments_are_those_of_the_samples(subject):
    draws = 4000
    generator = seeded(0)
    with torch.no_grad():
        samples = torch.stack([subject.ask("sampled", generator) for _ in range(draws)]).double()
        mean, variance = subject.ask("moments")
    deviation = samples - samples.mean(0)
    error = (deviation.square().mean(0) / draws).sqrt()
    assert ((samples.mean(0) - mean).abs() <= 5 * error + 1e-6).all()
    fourth = deviation.pow(4).mean(0)
    error = ((fourth - variance.double().square()).clamp(min=0) / draws).sqrt()
    assert ((deviation.square().mean(0) - variance).abs() <= 5 * error + 1e-6).all()
    assert (variance >= 0).all()
    assert (variance.max() > 1e-4) == (subject.relaxation not in DETERMINISTIC)


def test_the_rate_is_bits_with_a_gradient_to_the_variables_only(subject):
    bits = subject.ask("rate_bits")
    assert bits.dtype == torch.float64
    assert bits.shape == ()
    assert bits >= 0
    if subject.relaxation in DETERMINISTIC:
        assert not bits.requires_grad
        return
    gradients = subject.gradients(bits)
    assert gradients.pop("log_gaps") is None
    reached = [gradient for gradient in gradients.values() if gradient is not None]
    assert any(gradient.count_nonzero() for gradient in reached)
    assert all(gradient.isfinite().all() for gradient in reached)


@pytest.mark.parametrize("method", ["nearest", "sampled"])
def test_the_loss_reaches_variables_and_codebook(subject, method):
    gradients = subject.gradients(subject.ask(method).square().sum())
    reached = {name: g for name, g in gradients.items() if g is not None and g.count_nonzero()}
    assert "log_gaps" in reached
    assert len(reached) >= 2
    assert all(gradient.isfinite().all() for gradient in reached.values())


def test_moments_have_the_gradients_of_finite_differences(relaxation, kind):
    subject = make_subject(relaxation, kind, torch.float64, shape=(5, 4))
    weight, values = subject.variables["weight"], subject.codebook.values.detach()
    with torch.no_grad():  # in range and away from the knots
        weight.copy_(weight.clamp(0.9 * values[0], 0.9 * values[-1]) + 1e-3)
        assert (weight[..., None] - values).abs().min() > 1e-4
    if relaxation in DETERMINISTIC:
        pytest.skip("its gradient is a surrogate")

    def moments(shape, *variables):
        if kind == "grid":  # its step in place of the rounded one
            index = torch.arange(LEVELS, dtype=shape.dtype) - subject.codebook.zero
            codebook = Codebook(index * shape, subject.codebook.zero, shape)
        else:
            codebook = Codebook.from_log_gaps(shape, LEVELS)
        named = dict(zip(subject.variables, variables, strict=True))
        return relaxation.moments(named, codebook)

    shape = subject.codebook.step if kind == "grid" else subject.log_gaps
    shape = shape.detach().requires_grad_()
    assert torch.autograd.gradcheck(moments, (shape, *subject.variables.values()))


def test_nothing_is_changed_in_place(subject):
    before = copy.deepcopy((subject.variables, subject.log_gaps))
    for method in ("nearest", "sampled", "moments", "symbols", "rate_bits"):
        subject.ask(method)
    assert all(torch.equal(subject.variables[name], value) for name, value in before[0].items())
    assert torch.equal(subject.log_gaps, before[1])
