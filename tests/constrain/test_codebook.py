from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ectorch.constrain.codebook import Codebook, initial_log_gaps, zero_index
from ectorch.constrain.counts import soft_bit_size, soft_counts
from ectorch.constrain.lengths import running_maximum

KINDS = ("grid", "kmeans", "quantile")
LEVELS = (2, 3, 4, 5, 16, 33)

torch.manual_seed(0)
WEIGHT = torch.distributions.Laplace(0.0, 0.2).sample((4000,))


def codebook_of(kind, levels, weight=WEIGHT, **settings):
    return Codebook.from_log_gaps(initial_log_gaps(kind, weight, levels, **settings), levels)


def distances(weight, codebook):
    return (weight.unsqueeze(-1) - codebook.values).abs()


def squared_error(weight, codebook):
    return distances(weight, codebook).square().min(-1).values.sum()


def is_positive_zero(value):
    return value.item() == 0 and not value.signbit().item()


@pytest.fixture(params=[(k, n) for k in KINDS for n in LEVELS], ids=lambda p: f"{p[0]}-{p[1]}")
def codebook(request):
    return codebook_of(*request.param)


@pytest.mark.parametrize(("levels", "index"), [(2, 0), (3, 1), (4, 1), (5, 2), (33, 16)])
def test_zero_is_in_the_middle_the_lower_of_two(levels, index):
    assert zero_index(levels) == index


def test_values_ascend_around_an_exact_zero(codebook):
    assert (codebook.values.diff() > 0).all()
    assert codebook.zero == zero_index(codebook.levels)
    assert is_positive_zero(codebook.values[codebook.zero])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("levels", [2, 3, 4, 33])
def test_no_training_moves_zero_or_the_order(kind, levels):
    torch.manual_seed(1)
    log_gaps = initial_log_gaps(kind, WEIGHT, levels).requires_grad_()
    optimizer = torch.optim.Adam([log_gaps], lr=0.3)
    start = log_gaps.detach().clone()
    for _ in range(100):
        values = Codebook.from_log_gaps(log_gaps, levels).values
        assert (values.diff() > 0).all()
        assert is_positive_zero(values[zero_index(levels)])
        optimizer.zero_grad()
        (values * torch.randn_like(values)).sum().backward()
        optimizer.step()
    assert (log_gaps - start).abs().max() > 1


@settings(deadline=None)
@given(
    log_gaps=st.lists(st.floats(-25, 5, width=32), min_size=2, max_size=40),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_gaps_of_any_size_keep_values_apart(log_gaps, dtype):
    values = Codebook.from_log_gaps(torch.tensor(log_gaps, dtype=dtype), len(log_gaps) + 1).values
    assert (values.diff() > 0).all()


@settings(deadline=None)
@given(log_step=st.floats(-12, 3, width=32), levels=st.sampled_from([2, 3, 33, 65536]))
def test_a_grid_is_exact_multiples_of_a_bfloat16_step(log_step, levels):
    codebook = Codebook.from_log_gaps(torch.tensor([log_step]), levels)
    assert torch.equal(codebook.step.bfloat16().float(), codebook.step)
    assert codebook.step.item() == pytest.approx(math.exp(log_step), rel=2**-8)
    multiples = torch.arange(levels, dtype=torch.float64) - codebook.zero
    assert torch.equal(codebook.values.double(), multiples * codebook.step.double())
    assert torch.equal(codebook.dequantize(torch.arange(levels)), codebook.values)


def test_log_gaps_get_the_gradient_of_the_values():
    log_gaps = torch.randn(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda g: Codebook.from_log_gaps(g, 7).values, log_gaps)
    log_step = torch.tensor([-1.3], dtype=torch.float64, requires_grad=True)
    Codebook.from_log_gaps(log_step, 5).values[4].backward()
    torch.testing.assert_close(log_step.grad, 2 * log_step.detach().exp())  # rounding: straight


def test_locate_brackets_the_weight(codebook):
    weight = WEIGHT.clamp(codebook.values[0], codebook.values[-1])
    lower, fraction = codebook.locate(weight)
    assert lower.dtype == torch.int32
    assert lower.min() >= 0
    assert lower.max() <= codebook.levels - 2
    assert fraction.min() >= 0
    assert fraction.max() <= 1
    below, above = codebook.values[lower], codebook.values[lower + 1]
    slack = 1e-6 * codebook.values.abs().max()
    assert (below <= weight + slack).all()
    assert (weight <= above + slack).all()
    torch.testing.assert_close(below + fraction * (above - below), weight, atol=slack, rtol=0)


def test_a_level_is_located_at_itself(codebook):
    lower, fraction = codebook.locate(codebook.values)
    assert torch.equal(lower + fraction, torch.arange(codebook.levels).float())


def test_out_of_range_clips(codebook):
    first, last = codebook.values[0], codebook.values[-1]
    outside = torch.stack([first - 1e-4, first - 1e4, last + 1e-4, last + 1e4])
    lower, fraction = codebook.locate(outside)
    top = codebook.levels - 1
    assert (lower + fraction).tolist() == [0, 0, top, top]
    assert codebook.quantize(outside).tolist() == [0, 0, top, top]


def test_quantize_finds_the_nearest_value(codebook):
    weight = torch.cat([WEIGHT, 3 * WEIGHT]).reshape(2, -1, 5)
    symbols = codebook.quantize(weight)
    assert symbols.dtype == torch.int64
    assert symbols.shape == weight.shape
    every = distances(weight, codebook)
    chosen = every.gather(-1, symbols.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(chosen, every.min(-1).values, rtol=0, atol=1e-6)


def test_halfway_goes_to_the_even_multiple_else_to_the_lower_value():
    grid = Codebook.from_log_gaps(torch.tensor([0.0]), levels=7)
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert grid.dequantize(grid.quantize(halves)).tolist() == [-2, -2, 0, 0, 2, 2]
    free = Codebook.from_log_gaps(torch.zeros(6), levels=7)
    assert free.dequantize(free.quantize(halves)).tolist() == [-3, -2, -1, 0, 1, 2]


def test_dequantize_inverts_quantize_and_knows_no_negative_zero(codebook):
    symbols = torch.arange(codebook.levels, dtype=torch.int32)
    values = codebook.dequantize(symbols)
    assert torch.equal(values, codebook.values)
    assert torch.equal(codebook.quantize(values), symbols.long())
    tiny = torch.tensor([-1e-12, -0.0, 0.0, 1e-12])
    assert all(map(is_positive_zero, codebook.dequantize(codebook.quantize(tiny))))


@pytest.mark.parametrize("levels", [3, 4, 8, 17])
def test_kmeans_beats_its_start_and_the_grid(levels):
    kmeans = squared_error(WEIGHT, codebook_of("kmeans", levels))
    assert kmeans < squared_error(WEIGHT, codebook_of("quantile", levels))
    assert kmeans < squared_error(WEIGHT, codebook_of("grid", levels))


def test_kmeans_values_are_the_means_of_their_weights():
    codebook = codebook_of("kmeans", 3, WEIGHT.double())
    symbols = codebook.quantize(WEIGHT.double())
    for k in (0, 2):
        expected = WEIGHT.double()[symbols == k].mean().item()
        assert codebook.values[k].item() == pytest.approx(expected, rel=1e-6)


def test_quantile_values_halve_equal_shares_of_a_sign():
    values = codebook_of("quantile", 9).values
    below = [(WEIGHT[WEIGHT > 0] < v).float().mean().item() for v in values[5:]]
    assert below == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8], abs=2e-3)


@pytest.mark.parametrize(
    ("levels", "reach", "steps"), [(33, 3.0, 3), (33, math.inf, 16), (3, 3.0, 1), (2, 0.5, 0.5)]
)
def test_the_farthest_weight_is_reach_steps_from_zero(levels, reach, steps):
    step = codebook_of("grid", levels, reach=reach).step.item()
    assert step == pytest.approx(WEIGHT.abs().max().item() / steps, rel=2**-8)


@pytest.mark.parametrize("kind", KINDS)
def test_float64_weights_keep_their_precision(kind):
    assert initial_log_gaps(kind, WEIGHT.double(), 5).dtype == torch.float64


DEGENERATE = {
    "constant": torch.full((50,), 0.5),
    "zeros": torch.zeros(50),
    "positive": WEIGHT.abs(),
    "negative": -WEIGHT.abs(),
    "sparse": torch.tensor([0.0] * 40 + [1.0] * 5 + [-1.0] * 5),
    "one": torch.tensor([-3.0]),
    "empty": torch.zeros(0),
    "tiny": WEIGHT * 1e-12,
    "huge": WEIGHT * 1e12,
}


@pytest.mark.parametrize("weight", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("levels", [2, 3, 4, 33])
@pytest.mark.parametrize("kind", KINDS)
def test_strange_weights_give_sound_codebooks(kind, levels, weight):
    codebook = codebook_of(kind, levels, weight)
    assert codebook.values.isfinite().all()
    assert (codebook.values.diff() > 0).all()
    _, fraction = codebook.locate(weight)
    assert fraction.isfinite().all()
    lengths = running_maximum(soft_counts(weight, levels, codebook.locate), codebook.zero)
    weight = weight.clone().requires_grad_()
    soft_bit_size(weight, codebook.gaps, lengths, codebook.interval).backward()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_start_at_scale_one(kind):
    values = codebook_of(kind, 5, torch.zeros(7)).values
    assert 0.3 < values[-1] <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_memory_layout_does_not_matter(kind):
    weight = WEIGHT[:480].reshape(4, 5, 4, 6)
    codebook = codebook_of(kind, 5)
    strided = weight.to(memory_format=torch.channels_last)
    for plain, other in zip(codebook.locate(weight), codebook.locate(strided), strict=True):
        assert torch.equal(plain, other)
    assert torch.equal(codebook.quantize(weight), codebook.quantize(strided))


@given(
    multiples=st.lists(st.integers(-8, 8), min_size=1, max_size=40).filter(any),
    step=st.floats(2**-10, 8.0),
)
def test_a_grid_that_is_there_is_kept(multiples, step):
    step = torch.tensor(step).bfloat16().float()
    weight = torch.tensor(multiples) * step
    book = codebook_of("grid", 17, weight, reach=1.33, keep_grid=True)
    assert torch.equal(book.dequantize(book.quantize(weight)), weight)


@pytest.mark.parametrize(
    "weight",
    [WEIGHT, torch.tensor([1.0, 2.0, 9.0]), torch.tensor([-9.0, 1.0]), torch.zeros(3)],
    ids=["many values", "too far up", "too far down", "zeros"],
)
def test_other_weights_start_as_without_a_grid_to_keep(weight):
    kept, plain = (
        initial_log_gaps("grid", weight, 17, reach=1.33, keep_grid=keep) for keep in (True, False)
    )
    assert torch.equal(kept, plain)
