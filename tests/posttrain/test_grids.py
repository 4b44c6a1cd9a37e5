import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ectorch.bitstream.codings.codebook import find_codebook
from ectorch.posttrain.grids import (
    Lengths,
    best_step,
    count,
    decide,
    entropy_bits,
    on_grid,
    round_to_grid,
    rounded_values,
    short,
)
from ectorch.storage.tensors import to_raw

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def weights(items=4096, seed=0, dtype=torch.float32):
    return torch.randn(items, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_a_grid_to_the_file(dtype):
    rounded = round_to_grid(weights(dtype=dtype), 0.137, 0.001)
    values = rounded.values(dtype)
    book, symbols = find_codebook(to_raw("weight", values).bits, str(dtype).removeprefix("torch."))
    assert book.step is not None
    assert torch.equal(torch.from_numpy(symbols.astype("int32")) + book.first, rounded.index)
    assert not (values == 0).logical_and(values.signbit()).any()


@given(st.floats(1e-30, 1e30))
def test_a_short_step_has_products_that_float32_holds(step):
    near = short(step)
    assert abs(near / step - 1) <= 2**-8
    index = torch.tensor([1, 255, 12_345, 32_000])
    exact = index.double() * near
    assert torch.equal(on_grid(index, near, torch.float32).double(), exact.float().double())
    assert math.frexp(near)[0] * 2**8 % 1 == 0


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.02, 2), st.floats(0.01, 0.7))
def test_no_single_weight_could_be_cheaper_by_a_bit(seed, step, price):
    scaled = weights(300, seed) / step
    zero = int(scaled.abs().max().round()) + 1
    lengths = Lengths.of(count(scaled.round(), zero))
    found = decide(scaled, lengths, price)
    every = torch.arange(-zero, zero + 1).float()
    costs = (scaled[:, None] - every).square() + price * lengths[every]
    own = (scaled - found).square() + price * lengths[found]
    # three candidates are looked at: what lies between them is hardly ever cheaper
    assert (own - costs.amin(1) <= price).all()
    assert (own <= costs.gather(1, (scaled.round()[:, None] + zero).long())[:, 0] + 1e-5).all()


def test_lengths_are_those_of_a_code_and_fall_toward_zero():
    lengths = Lengths.of(count(weights(1000).mul(3).round(), 12))
    assert float((-lengths.table * math.log(2)).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert (lengths.table[:13].diff() <= 0).all()
    assert (lengths.table[12:].diff() >= 0).all()


def test_a_steeper_slope_takes_fewer_bits_for_more_error():
    weight = weights()
    found = [round_to_grid(weight, 0.3, slope) for slope in (1e-6, 1e-2, 1e-1, 10)]
    bits = [each.bits for each in found]
    errors = [float((weight - each.values(torch.float32)).square().sum()) for each in found]
    assert bits == sorted(bits, reverse=True)
    assert errors == sorted(errors)
    assert not found[-1].index.any()
    assert bits[-1] == 0


def test_bits_are_the_entropy_of_the_indices():
    index = torch.tensor([0, 0, 0, 1, -1, 0, 0, 1])
    assert entropy_bits(count(index, 1)) == pytest.approx(
        5 * math.log2(8 / 5) + 2 * math.log2(4) + 3
    )


def test_rows_of_more_importance_are_nearer():
    weight = torch.randn(2, 5000, generator=torch.Generator().manual_seed(3))
    rounded = round_to_grid(weight, 0.2, 0.05, torch.tensor([1.9, 0.1]))
    error = (weight - rounded.values(torch.float32)).square().mean(1)
    assert error[0] < error[1] / 2


def test_the_best_step_is_no_worse_than_its_neighbours():
    weight, slope = weights(20_000), 0.02

    def cost(step):
        rounded = round_to_grid(weight, step, slope)
        error = (weight - rounded.values(torch.float32)).square().sum()
        return float(error) + slope * rounded.bits

    step = best_step(weight, slope)
    assert cost(step) <= min(cost(step / 1.5), cost(step * 1.5)) * 1.001


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_in_parts_are_those_of_the_whole(dtype, monkeypatch):
    weight = weights(10_000, dtype=dtype)
    whole = round_to_grid(weight, 0.1, 0.01).values(dtype)
    monkeypatch.setattr("ectorch.posttrain.grids._CHUNK_ITEMS", 777)
    assert torch.equal(rounded_values(weight, 0.1, 0.01), whole)


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float16, 6e4), (torch.float32, 3e38)])
def test_the_largest_numbers_stay_finite(dtype, scale):
    weight = torch.tensor([-1.0, 0.51, 0.999]).mul(scale).to(dtype)
    values = round_to_grid(weight, scale / 1.6, 1e-9).values(dtype)
    assert values.isfinite().all()


def test_an_outlier_widens_the_step_instead_of_the_codebook():
    weight = torch.cat([weights(1000), torch.tensor([1e6])])
    rounded = round_to_grid(weight, 1e-3, 1e-9)
    assert rounded.index.abs().max() <= 32_000
    assert rounded.values(torch.float32)[-1] == pytest.approx(1e6, rel=1e-3)
