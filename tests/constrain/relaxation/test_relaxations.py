"""What every relaxation must do, on every kind of codebook: a new one joins in `RELAXATIONS`."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ectorch.constrain.codebook import Codebook, initial_log_gaps
from ectorch.constrain.lengths import free, running_maximum
from ectorch.constrain.relaxation import Bracket, Categorical, Hard, Relaxation
from ectorch.errors import ConfigError

RELAXATIONS = {
    "bracket": Bracket(),
    "bracket-running-maximum": Bracket(running_maximum),
    "bracket-free": Bracket(free),
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


@pytest.mark.parametrize("kind", [Bracket, Categorical, Hard])
def test_lengths_are_a_rule_or_its_name(kind):
    assert kind(lengths="free") == kind(lengths=free)
    for wrong in ("isotone", 3.0):
        with pytest.raises(ConfigError, match=f"lengths = {wrong!r}: expected one of"):
            kind(lengths=wrong)


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


def test_counts_are_of_all_weights(subject):
    counts = subject.ask("counts")
    assert (counts.shape, counts.dtype) == ((LEVELS,), torch.float64)
    assert counts.min() >= 0
    assert counts.sum().item() == pytest.approx(subject.variables["weight"].numel())
    lengths = subject.relaxation.lengths(counts, subject.codebook.zero)
    assert lengths.shape == (LEVELS,)
    assert counts @ lengths >= 0


def test_the_charge_has_the_gradient_of_the_counts(relaxation, kind):
    """That of ``counts @ lengths``, by finite differences, to the variables only."""
    subject = make_subject(relaxation, kind, torch.float64, shape=(5, 4))
    subject.variables["weight"].detach().add_(1e-3)  # off the knots
    lengths = torch.tensor([5.0, 2.5, 0.5, 3.0, 3.5, 7.0], dtype=torch.float64)
    charge = subject.ask("charge", lengths)
    assert (charge.shape, charge.dtype) == ((), torch.float64)
    if relaxation in DETERMINISTIC:
        assert not charge.requires_grad
        return
    gradients = subject.gradients(charge)
    assert gradients.pop("log_gaps") is None
    if gradients["weight"] is None:
        gradients.pop("weight")
    assert gradients
    for name, gradient in gradients.items():
        flat, expected = subject.variables[name].detach().view(-1), []
        for i in range(len(flat)):
            sizes = []
            for change in (1e-7, -2e-7):
                flat[i] += change
                sizes.append(subject.ask("counts").detach() @ lengths)
            flat[i] += 1e-7
            expected.append((sizes[0] - sizes[1]) / 2e-7)
        assert gradient.count_nonzero()
        torch.testing.assert_close(gradient.view(-1), torch.stack(expected), atol=1e-5, rtol=1e-5)


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

    def moments(log_gaps, *variables):
        if kind == "grid":  # whose step is rounded: tests of the kernels ask its gradient
            log_gaps = log_gaps.detach()
        named = dict(zip(subject.variables, variables, strict=True))
        return relaxation.moments(named, Codebook.from_log_gaps(log_gaps, LEVELS))

    log_gaps = subject.log_gaps.detach().requires_grad_()
    assert torch.autograd.gradcheck(moments, (log_gaps, *subject.variables.values()))


def test_nothing_is_changed_in_place(subject):
    before = copy.deepcopy((subject.variables, subject.log_gaps))
    for method in ("nearest", "sampled", "moments", "symbols", "counts"):
        subject.ask(method)
    subject.ask("charge", torch.rand(LEVELS)).requires_grad_().backward()
    assert all(torch.equal(subject.variables[name], value) for name, value in before[0].items())
    assert torch.equal(subject.log_gaps, before[1])
