"""Runs toward a size: they end at it, or say what can be had."""

import pytest

from ectorch.errors import RecipeError
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.training import train


@pytest.mark.slow  # sizes are measured all along a training
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"target_bytes": "2KB"}, 2000),
        ({"target_bits_per_weight": 0.4}, 52_650 * 0.4 // 8),
    ],
    ids=lambda value: str(value),
)
def test_a_file_takes_what_was_asked_for(asked, expected, tmp_path, sized):
    result = train(parse_recipe(sized | asked), tmp_path)
    assert 0.99 * expected <= result["file_bytes"] <= expected
    assert result["file_bytes"] == (tmp_path / "model.ect").stat().st_size
    assert result["decoded_error_percent"] < 20


@pytest.mark.slow  # two trainings
def test_a_run_trains_on_at_the_size_of_its_file(tmp_path, sized, epochs_of):
    recipe = sized | {"target_bytes": 3000}
    first = train(parse_recipe(recipe), tmp_path / "first")
    constrain = {"rise": 0.0, "peak": 1.0, "config": {"keep_grid": True}}
    more = {
        "start": str(tmp_path / "first/model.ect"),
        "pretrain": {"epochs": 0},
        "constrain": sized["constrain"] | constrain,
    }
    result = train(parse_recipe(recipe | more), tmp_path / "more")
    epochs = epochs_of(tmp_path / "more", "constrain")
    assert all(0.7 * 3000 < epoch["size_bytes"] < 1.1 * 3000 for epoch in epochs)
    assert 0.99 * 3000 <= result["file_bytes"] <= 3000
    assert result["decoded_error_percent"] < first["decoded_error_percent"] + 2


@pytest.mark.slow  # moves are tried to the last, twice
def test_a_network_that_dies_short_of_its_size_says_so(tmp_path, sized):
    deadly = {"epochs": 1, "alpha": 1e5, "rise": 0.0, "peak": 1.0}
    recipe = sized | {"constrain": sized["constrain"] | deadly, "target_bytes": 8000}
    with pytest.warns(RuntimeWarning, match=r"takes [\d,]+ bytes, 8,000 were asked for: .* lower"):
        result = train(parse_recipe(recipe), tmp_path)
    assert result["file_bytes"] < 0.99 * 8000


@pytest.mark.parametrize("impossible", [80, "800KB"])
def test_an_impossible_size_is_refused_before_any_training(impossible, tmp_path, sized):
    recipe = parse_recipe(sized | {"target_bytes": impossible})
    steps = []
    with pytest.raises(RecipeError, match=r"cannot be had: .* from \d+ \(all zeros\) to \d+,\d+"):
        train(recipe, tmp_path, steps.append)
    assert not steps


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        ("target_bytes", 80, r"target_bytes = 80: a file of 80 bytes"),
        (
            "target_ratio",
            1e9,
            r"target_ratio = 1,000,000,000.0: expected \d\.\d+ to [\d,]+\.\d+: ",
        ),
        ("target_ratio", 1e-320, r"target_ratio = .*: expected "),
        ("target_bits_per_weight", 1e-9, r"target_bits_per_weight = 1e-09: expected 0\.\d+ to \d"),
        ("target_bits_per_weight", 1e308, r"target_bits_per_weight = .*: expected "),
    ],
)
def test_an_impossible_target_is_refused_by_key(target, value, expected, tmp_path, sized):
    with pytest.raises(RecipeError, match=rf"^{expected}.* cannot be had"):
        train(parse_recipe(sized | {target: value}), tmp_path)


def test_a_size_above_that_of_the_finest_grid_is_refused_before_the_constraint(tmp_path, sized):
    recipe = parse_recipe(sized | {"target_bytes": "30KB"})  # more than trained weights fill
    with pytest.raises(RecipeError, match=r"30,000 bytes cannot be had: .* to 2\d,\d+"):
        train(recipe, tmp_path)


@pytest.mark.parametrize("impossible", [80, "800KB"])
def test_an_impossible_size_is_refused_on_a_grid_that_is_kept(
    impossible, finished, tmp_path, sized
):
    table = sized | {
        "start": str(finished[0] / "model.ect"),
        "pretrain": {"epochs": 0},
        "constrain": sized["constrain"] | {"config": {"keep_grid": True}},
        "target_bytes": impossible,
    }
    with pytest.raises(RecipeError, match=r"cannot be had: .* from \d+ \(all zeros\) to \d+,\d+"):
        train(parse_recipe(table), tmp_path)


def test_one_target_is_enough(sized):
    with pytest.raises(RecipeError, match="target_bytes and target_ratio: give one"):
        parse_recipe(sized | {"target_bytes": 5000, "target_ratio": 3.0})
