from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.relaxation import Bracket

LEVELS = 6
STEP = 0.25  # values -0.5 to 0.75
GRID = torch.tensor([STEP], dtype=torch.float64).log()
UNIFORM = torch.full((LEVELS - 1,), STEP, dtype=torch.float64).log()
_seeds = st.integers(0, 2**32 - 1)


def case(log_gaps, seed):
    """Weights in range and beyond, a codebook, and the gradient of some loss."""
    generator = torch.Generator().manual_seed(seed)
    weight, grad = torch.randn(2, 4, 9, dtype=torch.float64, generator=generator)
    log_gaps = log_gaps.clone().requires_grad_()
    return weight.requires_grad_(), log_gaps, Codebook.from_log_gaps(log_gaps, LEVELS), grad


@pytest.mark.parametrize("method", ["nearest", "sampled"])
@pytest.mark.parametrize("log_gaps", [GRID, UNIFORM], ids=["grid", "free"])
@settings(deadline=None)
@given(seed=_seeds)
def test_gradients_are_those_of_lsq(log_gaps, method, seed):
    """Straight through to w, also out of range; sum g (round(u) - u) to the step."""
    weight, log_gaps, codebook, grad = case(log_gaps, seed)
    value = getattr(Bracket(), method)({"weight": weight}, codebook)
    value.backward(grad)
    torch.testing.assert_close(weight.grad, grad)
    step_grad = (grad * (value - weight) / STEP).sum()
    torch.testing.assert_close(log_gaps.grad.sum(), (step_grad * STEP).detach())


@settings(deadline=None)
@given(seed=_seeds)
def test_nearest_on_a_uniform_free_codebook_is_nearest_on_the_grid(seed):
    results = []
    for start in (GRID, UNIFORM):
        weight, log_gaps, codebook, grad = case(start, seed)
        value = Bracket().nearest({"weight": weight}, codebook)
        value.backward(grad)
        results.append((value.detach(), weight.grad, log_gaps.grad.sum()))
    for on_grid, on_free in zip(*results, strict=True):
        torch.testing.assert_close(on_grid, on_free)


@pytest.mark.parametrize("log_gaps", [GRID, UNIFORM + torch.linspace(-1, 1, LEVELS - 1)])
def test_the_mean_is_the_weight_within_the_codebook(log_gaps):
    weight, _, codebook, _ = case(log_gaps, seed=0)
    mean, variance = Bracket().moments({"weight": weight}, codebook)
    clipped = weight.clamp(codebook.values[0], codebook.values[-1])
    torch.testing.assert_close(mean, clipped)
    outside = mean != weight
    assert outside.sum() > 3
    assert not variance[clipped != weight].any()


@pytest.mark.parametrize("log_gaps", [GRID, UNIFORM], ids=["grid", "free"])
def test_a_mean_out_of_range_pulls_the_codebook_as_nearest_does(log_gaps):
    pulls = []
    for method in ("nearest", "moments"):
        _, log_gaps, codebook, _ = case(log_gaps.detach(), seed=0)
        far = torch.tensor([-2.0, 3.0, 4.0], dtype=torch.float64)
        value = getattr(Bracket(), method)({"weight": far}, codebook)
        value = value[0] if method == "moments" else value
        value.square().sum().backward()
        pulls.append(log_gaps.grad)
    assert pulls[0].any()
    torch.testing.assert_close(*pulls)


@pytest.mark.parametrize("log_gaps", [GRID, UNIFORM], ids=["grid", "free"])
def test_weights_on_levels_stay_there(log_gaps):
    codebook = Codebook.from_log_gaps(log_gaps, LEVELS)
    weight = codebook.values.repeat(500)
    assert torch.equal(Bracket().sampled({"weight": weight}, codebook), weight)
    mean, variance = Bracket().moments({"weight": weight}, codebook)
    assert torch.equal(mean, weight)
    assert not variance.any()


@settings(deadline=None)
@given(seed=_seeds)
def test_rounding_makes_no_variance_negative(seed):
    generator = torch.Generator().manual_seed(seed)
    codebook = Codebook.from_log_gaps(torch.randn(32, generator=generator), 33)
    weight = codebook.values * (1 + 1e-7 * torch.randn(50, 33, generator=generator))
    assert Bracket().moments({"weight": weight}, codebook)[1].min() >= 0
