from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression
from torch import Tensor

from ectorch.constrain.lengths import (
    cardinality,
    free,
    isotonic,
    isotonic_counts,
    pruning,
    running_maximum,
)


@st.composite
def histograms(draw: st.DrawFn, smallest: float = 0.0) -> tuple[Tensor, int]:
    """Counts with at least one weight, and the index of zero."""
    counts = draw(st.lists(st.floats(smallest, 1e6), min_size=2, max_size=12))
    zero = draw(st.integers(0, len(counts) - 1))
    counts[draw(st.integers(0, len(counts) - 1))] += 1
    return torch.tensor(counts, dtype=torch.float64), zero


def falls_away_from(values: Tensor, zero: int, slack: float = 0.0) -> bool:
    return bool((values[: zero + 1].diff() >= -slack).all() & (values[zero:].diff() <= slack).all())


@pytest.mark.parametrize("rule", [running_maximum, isotonic])
@settings(deadline=None)
@given(histogram=histograms())
def test_lengths_grow_away_from_zero(rule, histogram):
    counts, zero = histogram
    lengths = rule(counts, zero)
    assert lengths.shape == counts.shape
    assert lengths.min() >= 0
    assert falls_away_from(-lengths, zero, slack=1e-9)


@settings(deadline=None)
@given(histogram=histograms())
def test_no_level_costs_more_than_its_first_symbol(histogram):
    counts, zero = histogram
    for rule in (isotonic, running_maximum, free):
        assert rule(counts, zero).max() <= counts.sum().log2() + 1e-9


@settings(deadline=None)
@given(histogram=histograms(smallest=1.0))
def test_free_and_isotonic_lengths_are_a_code(histogram):
    for rule in (free, isotonic):
        assert (-rule(*histogram)).exp2().sum().item() == pytest.approx(1)


@settings(deadline=None)
@given(histogram=histograms())
def test_running_maximum_looks_outward(histogram):
    counts, zero = histogram
    largest = [
        counts.max() if k == zero else (counts[k:] if k > zero else counts[: k + 1]).max()
        for k in range(len(counts))
    ]
    expected = (counts.sum() / torch.stack(largest).clamp(min=1)).log2().clamp(min=0)
    torch.testing.assert_close(running_maximum(counts, zero), expected)


def test_running_maximum_may_be_no_code():
    counts = torch.tensor([5.0, 1.0, 4.0], dtype=torch.float64)
    lengths = running_maximum(counts, zero=1)
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


def test_pruning_charges_zero_or_not_and_a_constant():
    counts = torch.tensor([10.0, 30.0, 120.0, 0.0, 0.0], dtype=torch.float64)
    assert pruning(counts, zero=2).tolist() == pytest.approx(
        [4, 4, math.log2(160 / 120), 4, 4]  # log2(160 / 40) + log2(4 levels)
    )
    lengths = pruning(counts, zero=2, nonzero_bits=5.0)
    assert lengths.tolist() == pytest.approx([7, 7, math.log2(160 / 120), 7, 7])


def test_cardinality_is_close_to_the_logarithm_of_the_levels_in_use():
    counts = torch.tensor([0.0, 0.0, 500.0, 500.0, 400.0, 600.0, 0.0], dtype=torch.float64)
    used = counts[counts > 0]
    assert used @ cardinality(used, zero=1) / counts.sum() == pytest.approx(2, abs=0.01)


def test_cardinality_charges_the_rarest_level_most():
    lengths = cardinality(torch.tensor([900.0, 1.0, 90.0], dtype=torch.float64), zero=0)
    assert lengths[1] > lengths[2] > lengths[0]
