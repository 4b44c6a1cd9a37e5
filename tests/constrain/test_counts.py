from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.counts import (
    bit_size,
    entropy,
    hard_counts,
    soft_bit_size,
    soft_counts,
)
from ectorch.constrain.lengths import RULES, cardinality, free, pruning

EXACT = {
    free: lambda counts, zero: bit_size(counts),
    pruning: lambda counts, zero: (
        bit_size(torch.stack([counts[zero], counts.sum() - counts[zero]]))
        + math.log2(len(counts) - 1) * (counts.sum() - counts[zero])
    ),
    cardinality: lambda counts, zero: counts.sum() * renyi_entropy(counts, order=0.1),
}
GRID = Codebook.from_log_gaps(torch.tensor([0.5], dtype=torch.float64).log(), levels=5)
FREE = Codebook.from_log_gaps(torch.tensor([1.25, 0.25, 0.5, 1.5], dtype=torch.float64).log(), 5)


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
    counts = soft_counts(lower, 5, lambda part: (part, fraction))
    assert counts.dtype == torch.float64
    assert counts.tolist() == pytest.approx(expected, abs=1e-9)
    assert counts.sum().item() == pytest.approx(len(fractions))


@pytest.mark.parametrize("codebook", [GRID, FREE], ids=["grid", "free"])
def test_soft_counts_of_weights_on_levels_are_the_hard_counts(codebook):
    weight = codebook.values[torch.arange(40).remainder(7).clamp(max=4)]
    soft = soft_counts(weight, 5, codebook.locate)
    assert torch.equal(soft, hard_counts(codebook.quantize(weight), levels=5).double())


def test_counts_are_exact_beyond_float32():
    n = 2**24 + 3  # float32 goes from 2**24 to 2**24 + 2
    zeros = torch.zeros(1, dtype=torch.int64).expand(n)
    assert hard_counts(zeros, levels=2).tolist() == [n, 0]
    counts = soft_counts(zeros, 2, lambda part: (part, torch.full(part.shape, 0.25)))
    assert counts.tolist() == [0.75 * n, 0.25 * n]


def renyi_entropy(counts: Tensor, order: float) -> Tensor:
    return (counts / counts.sum()).pow(order).sum().log2() / (1 - order)


def finite_differences(function: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    step = 1e-6 * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(function(at + d) - function(at - d)) / 2e-6 for d in step])


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("codebook", [GRID, FREE], ids=["grid", "free"])
def test_soft_bit_size_gradient_is_that_of_the_exact_size(codebook, rule):
    """Of the size a rule stands for; of a surrogate's with its lengths held fixed."""
    torch.manual_seed(0)
    weight = (torch.randn(60, dtype=torch.float64) * 0.9).requires_grad_()
    distance = (weight.detach()[:, None] - codebook.values).abs().min(dim=1).values
    assert distance.min() > 1e-4, "away from the knots"
    assert ((weight < codebook.values[0]) | (weight > codebook.values[-1])).any()

    def histogram(at: Tensor) -> Tensor:
        return soft_counts(at, codebook.levels, codebook.locate)

    counts = histogram(weight)
    assert counts.min() >= 1, "no level is charged more than its count says"
    lengths = rule(counts, codebook.zero)
    soft_bit_size(weight, codebook.gaps, lengths, codebook.interval).backward()
    exact = EXACT.get(rule)
    if exact is not None:
        torch.testing.assert_close(counts @ lengths, exact(counts, codebook.zero))
        expected = finite_differences(
            lambda at: exact(histogram(at), codebook.zero), weight.detach()
        )
    else:
        expected = finite_differences(lambda at: histogram(at) @ lengths, weight.detach())
    torch.testing.assert_close(weight.grad, expected, atol=1e-6, rtol=1e-6)


def test_soft_bit_size_gradient_scales_and_reaches_the_weight_only():
    weight = torch.tensor([0.1, 0.3], requires_grad=True)
    lengths = torch.arange(5.0, dtype=torch.float64)
    gaps = FREE.gaps.float().requires_grad_()
    bits = soft_bit_size(weight, gaps, lengths, FREE.interval)
    (3 * bits).backward()
    assert weight.grad.tolist() == [6.0, 6.0]  # 3 * (1 bit / gap of 0.5)
    assert weight.grad.dtype == torch.float32
    assert gaps.grad is None
