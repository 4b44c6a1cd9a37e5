from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression
from torch import Tensor

from ectorch.codebook import Codebook
from ectorch.entropy import (
    bit_size,
    code_lengths,
    entropy,
    hard_counts,
    isotonic_counts,
    soft_bit_size,
    soft_counts,
)

RULES = ("running_maximum", "isotonic", "free")
GRID = Codebook.from_log_gaps(torch.tensor([0.5], dtype=torch.float64).log(), levels=5)
FREE = Codebook(torch.tensor([-1.5, -0.25, 0.0, 0.5, 2.0], dtype=torch.float64), zero=2)


@st.composite
def histograms(draw: st.DrawFn, smallest: float = 0.0) -> tuple[Tensor, int]:
    """Counts with at least one weight, and the index of zero."""
    counts = draw(st.lists(st.floats(smallest, 1e6), min_size=2, max_size=12))
    zero = draw(st.integers(0, len(counts) - 1))
    counts[draw(st.integers(0, len(counts) - 1))] += 1
    return torch.tensor(counts, dtype=torch.float64), zero


def falls_away_from(values: Tensor, zero: int, slack: float = 0.0) -> bool:
    return bool((values[: zero + 1].diff() >= -slack).all() & (values[zero:].diff() <= slack).all())


@pytest.mark.parametrize(
    ("counts", "bits"),
    [([3, 3], 1.0), ([1, 1, 1, 1], 2.0), ([2, 1, 1], 1.5), ([7], 0.0), ([0, 9, 0], 0.0)],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_entropy_and_bit_size(counts, bits, dtype):
    histogram = torch.tensor(counts, dtype=dtype)
    assert entropy(histogram).item() == pytest.approx(bits, abs=1e-12)
    assert bit_size(histogram).item() == pytest.approx(bits * sum(counts), abs=1e-12)
    assert bit_size(histogram).dtype == torch.float64


def test_bit_size_gradient():
    counts = torch.tensor([0.5, 3.0, 100.0, 7.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(bit_size, counts)


def test_bit_size_gradient_of_an_empty_level_is_large_and_finite():
    counts = torch.tensor([3.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    bit_size(counts).backward()
    expected = [-math.log2(3 / 4), 2.0]  # -log2 P
    assert counts.grad is not None
    assert counts.grad[[0, 2]].tolist() == pytest.approx(expected)
    assert 100 < counts.grad[1] < math.inf


@settings(deadline=None)
@given(fractions=st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), max_size=30))
def test_soft_counts_spread_every_weight_over_its_two_levels(
    fractions,
):
    lower = torch.tensor([j for j, _ in fractions], dtype=torch.int64)
    fraction = torch.tensor([t for _, t in fractions], dtype=torch.float64)
    expected = [0.0] * 5
    for j, t in fractions:
        expected[j] += 1 - t
        expected[j + 1] += t
    counts = soft_counts(lower, fraction, levels=5)
    assert counts.dtype == torch.float64
    assert counts.tolist() == pytest.approx(expected, abs=1e-9)
    assert counts.sum().item() == pytest.approx(len(fractions))


@pytest.mark.parametrize("codebook", [GRID, FREE], ids=["grid", "free"])
def test_soft_counts_of_weights_on_levels_are_the_hard_counts(codebook):
    weight = codebook.values[torch.arange(40).remainder(7).clamp(max=4)]
    soft = soft_counts(*codebook.locate(weight), levels=5)
    assert torch.equal(soft, hard_counts(codebook.quantize(weight), levels=5).double())


def test_counts_are_exact_beyond_float32():
    n = 2**24 + 3  # float32 goes from 2**24 to 2**24 + 2
    zeros = torch.zeros(1, dtype=torch.int64).expand(n)
    assert hard_counts(zeros, levels=2).tolist() == [n, 0]
    quarter = torch.tensor([0.25]).expand(n)
    assert soft_counts(zeros, quarter, levels=2).tolist() == [0.75 * n, 0.25 * n]


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    step = 1e-6 * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(function(at + d) - function(at - d)) / 2e-6 for d in step])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("codebook", [GRID, FREE], ids=["grid", "free"])
def test_soft_bit_size_gradient_is_that_of_the_exact_size(codebook, rule):
    """Free lengths: n H of the soft histogram itself; surrogates: their lengths held fixed."""
    torch.manual_seed(0)
    weight = (torch.randn(60, dtype=torch.float64) * 0.9).requires_grad_()
    distance = (weight.detach()[:, None] - codebook.values).abs().min(dim=1).values
    assert distance.min() > 1e-4, "away from the knots"
    assert ((weight < codebook.values[0]) | (weight > codebook.values[-1])).any()

    def histogram(at: Tensor) -> Tensor:
        return soft_counts(*codebook.locate(at), codebook.levels)

    counts = histogram(weight)
    assert counts.min() >= 1, "no level is charged more than its count says"
    lengths = code_lengths(counts, codebook.zero, rule)
    bits = soft_bit_size(weight, *codebook.locate(weight), codebook.values, lengths)
    bits.backward()
    if rule == "free":
        torch.testing.assert_close(bits.detach(), bit_size(counts))
        expected = finite_differences(lambda at: bit_size(histogram(at)), weight.detach())
    else:
        expected = finite_differences(lambda at: histogram(at) @ lengths, weight.detach())
    torch.testing.assert_close(weight.grad, expected, atol=1e-6, rtol=1e-6)


def test_soft_bit_size_gradient_scales_and_reaches_the_weight_only():
    weight = torch.tensor([0.1, 0.3], requires_grad=True)
    values = FREE.values.float().requires_grad_()
    lengths = torch.arange(5.0, dtype=torch.float64)
    bits = soft_bit_size(weight, *FREE.locate(weight.double()), values, lengths)
    (3 * bits).backward()
    assert weight.grad.tolist() == [6.0, 6.0]  # 3 * (1 bit / gap of 0.5)
    assert weight.grad.dtype == torch.float32
    assert values.grad is None


@pytest.mark.parametrize("rule", ["running_maximum", "isotonic"])
@settings(deadline=None)
@given(histogram=histograms())
def test_lengths_grow_away_from_zero(rule, histogram):
    counts, zero = histogram
    lengths = code_lengths(counts, zero, rule)
    assert lengths.shape == counts.shape
    assert lengths.min() >= 0
    assert falls_away_from(-lengths, zero, slack=1e-9)


@settings(deadline=None)
@given(histogram=histograms())
def test_no_level_costs_more_than_its_first_symbol(histogram):
    counts, zero = histogram
    for rule in RULES:
        assert code_lengths(counts, zero, rule).max() <= counts.sum().log2() + 1e-9


@settings(deadline=None)
@given(histogram=histograms(smallest=1.0))
def test_free_and_isotonic_lengths_are_a_code(histogram):
    for rule in ("free", "isotonic"):
        assert (-code_lengths(*histogram, rule)).exp2().sum().item() == pytest.approx(1)


@settings(deadline=None)
@given(histogram=histograms())
def test_running_maximum_looks_outward(histogram):
    counts, zero = histogram
    largest = [
        counts.max() if k == zero else (counts[k:] if k > zero else counts[: k + 1]).max()
        for k in range(len(counts))
    ]
    expected = (counts.sum() / torch.stack(largest).clamp(min=1)).log2().clamp(min=0)
    torch.testing.assert_close(code_lengths(counts, zero, "running_maximum"), expected)


def test_running_maximum_may_be_no_code():
    counts = torch.tensor([5.0, 1.0, 4.0], dtype=torch.float64)
    lengths = code_lengths(counts, zero=1, rule="running_maximum")
    assert (-lengths).exp2().sum().item() == pytest.approx(1.4)


@settings(deadline=None)
@given(histogram=histograms())
def test_isotonic_counts_fall_away_from_zero_and_keep_the_sum(
    histogram,
):
    counts, zero = histogram
    fitted = isotonic_counts(counts, zero)
    scale = counts.sum().item()
    assert falls_away_from(fitted, zero, slack=1e-12 * scale)
    assert fitted.sum().item() == pytest.approx(scale)
    torch.testing.assert_close(isotonic_counts(fitted, zero), fitted)


@settings(deadline=None)
@given(histogram=histograms())
def test_one_sided_isotonic_counts_are_those_of_sklearn(histogram):
    counts = histogram[0]
    expected = torch.tensor(isotonic_regression(counts.numpy(), increasing=False).copy())
    torch.testing.assert_close(isotonic_counts(counts, zero=0), expected)
    flipped = isotonic_counts(counts.flip(0), zero=len(counts) - 1)
    torch.testing.assert_close(flipped, expected.flip(0))


@settings(deadline=None)
@given(histogram=histograms(smallest=0.01), seed=st.integers(0, 2**32 - 1))
def test_isotonic_counts_have_the_greatest_likelihood(histogram, seed):
    """The likelihood is concave: no way to another unimodal distribution goes up."""
    counts, zero = histogram
    fitted = isotonic_counts(counts, zero)
    generator = np.random.default_rng(seed)
    for _ in range(5):
        draws = generator.exponential(size=len(counts)) ** generator.integers(1, 6)
        left, right = np.sort(draws[: zero + 1]), np.sort(draws[zero:])[::-1]
        left[-1] = draws.max()
        other = torch.tensor(np.concatenate([left, right[1:]]))
        other *= counts.sum() / other.sum()
        assert falls_away_from(other, zero)
        for share in (1.0, 0.1, 1e-3):
            mixed = (1 - share) * fitted + share * other
            gain = (counts * (mixed / fitted).log()).sum()
            assert gain <= 1e-9 * counts.sum()
