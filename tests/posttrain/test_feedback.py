import pytest
import torch

from ectorch.posttrain.feedback import (
    Factor,
    best_damping,
    best_feedback_step,
    round_with_feedback,
)
from ectorch.posttrain.grids import round_to_grid, usual_step


def problem(groups=1, rows=24, columns=40, examples=500, seed=0):
    draw = torch.Generator().manual_seed(seed)
    mixed = torch.randn(groups, columns, columns, generator=draw)
    x = torch.randn(groups, examples, columns, generator=draw) @ mixed + 0.5
    moments = (x.transpose(1, 2) @ x / examples).double()
    return torch.randn(groups, rows, columns, generator=draw) / 10, moments


def damped(moments, damping):
    own = moments.diagonal(dim1=1, dim2=2)
    return moments + damping * torch.diag_embed(0.9 * own + 0.1 * own.mean())


def output_error(weight, rounded, moments):
    error = (rounded.values(torch.float32) - weight).double()
    return (error @ moments * error).sum(2)


@pytest.mark.parametrize("groups", [1, 3])
def test_what_it_says_of_the_error_is_the_error(groups):
    weight, moments = problem(groups)
    factor = Factor.of(moments, 0.05)
    for slope in (1e-4, 1e-2, 1.0):
        step = usual_step(slope / factor.mean)
        rounded, said = round_with_feedback(weight, factor, slope, step)
        true = output_error(weight, rounded, damped(moments, 0.05)).sum()
        assert said == pytest.approx(float(true), rel=1e-3)


def test_it_errs_less_than_rounding_each_weight_alone():
    weight, moments = problem()
    factor = Factor.of(moments, 1e-3)
    slope = 1e-3
    step = usual_step(slope / factor.mean)
    fed, _ = round_with_feedback(weight, factor, slope, step)
    alone = round_to_grid(weight, step, slope / factor.mean)
    assert fed.bits < 1.1 * alone.bits
    assert (
        output_error(weight, fed, moments).sum() < 0.6 * output_error(weight, alone, moments).sum()
    )


def test_independent_inputs_make_it_plain_rounding():
    weight, _ = problem()
    factor = Factor.of(torch.eye(40, dtype=torch.float64)[None], 0.0)
    fed, _ = round_with_feedback(weight, factor, 1e-12, 0.0625)
    assert torch.equal(fed.index[0], (weight[0] / 0.0625).round().int())


def test_rows_of_more_importance_err_less():
    weight, moments = problem(rows=64)
    factor, slope = Factor.of(moments, 0.05), 0.3
    importance = torch.ones(1, 64)
    importance[:, 32:] = 0.02
    rounded, _ = round_with_feedback(
        weight, factor, slope, usual_step(slope / factor.mean), importance
    )
    errors = output_error(weight, rounded, moments)[0]
    assert errors[:32].sum() < errors[32:].sum()


def test_columns_without_any_input_are_not_free():
    weight, moments = problem()
    moments[:, 7] = moments[:, :, 7] = 0
    factor = Factor.of(moments, 0.05)
    rounded, _ = round_with_feedback(weight, factor, 1e-5, 1e-3)
    assert torch.allclose(rounded.values(torch.float32)[..., 7], weight[..., 7], atol=0.01)


def test_few_examples_ask_for_more_damping():
    weight, _ = problem(columns=120)
    many = [problem(columns=120, examples=20_000, seed=s)[1] for s in (5, 5)]
    draw = torch.Generator().manual_seed(1)
    few = []
    for _ in range(2):
        x = torch.randn(30, 120, generator=draw)
        few.append((x.T @ x / 30).double()[None])
    slope = 1e-3
    assert best_damping(*few, weight, slope) > best_damping(*many, weight, slope)


def test_the_step_is_searched_on_some_rows():
    weight, moments = problem(rows=100)
    factor = Factor.of(moments, 0.05)
    step = best_feedback_step(weight, factor, 1e-3)
    assert 0.5 <= step / usual_step(1e-3 / factor.mean) <= 1.3
