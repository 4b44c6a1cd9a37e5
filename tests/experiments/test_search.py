"""The smallest file below an error, on real digits."""

import json
from pathlib import Path

import pytest

from ectorch.errors import RecipeError
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.search import smallest
from ectorch.experiments.training import Interrupted, train

RECIPE = {
    "name": "digits",
    "network": "lenet-300-100",
    "data": "digits",
    "threads": 1,
    "holdout": 200,
    "pretrain": {"epochs": 5, "batch": 100},
    "constrain": {"epochs": 8, "batch": 100, "lr": 4e-3, "alpha": 0.1},
}


@pytest.mark.slow  # a search is several trainings
def test_it_finds_the_smallest_file_below_the_limit(tmp_path):
    recipe = parse_recipe(RECIPE | {"target_error": 8.0})
    stops = iter([False] * 150 + [True])
    with pytest.raises(Interrupted):
        smallest(recipe, tmp_path, should_stop=lambda: next(stops))
    tried = {}
    found = smallest(recipe, tmp_path, lambda point, progress: tried.setdefault(point))
    results = [train_result(path) for path in sorted(tmp_path.glob("point-*"))]
    good = [r for r in results if r["decoded_error_percent"] <= 8.0]
    assert len(good) >= 2
    assert found["file_bytes"] == min(r["file_bytes"] for r in good)
    assert len(good) < len(results)
    assert (tmp_path / "model.ect").stat().st_size == found["file_bytes"]
    assert "point-1" in tried or "point-2" in tried
    assert smallest(recipe, tmp_path) == found


def train_result(folder: Path):
    return json.loads((folder / "result.json").read_text())


def test_a_limit_that_cannot_be_had_says_what_to_do(tmp_path):
    short = RECIPE | {"constrain": {"epochs": 1, "batch": 100}, "target_error": 0.1}
    with pytest.raises(RecipeError, match=r"above 0\.1 %.*lower alpha"):
        smallest(parse_recipe(short), tmp_path)


def test_a_limit_is_of_images_that_are_held_out_and_of_several_trainings(tmp_path):
    with pytest.raises(RecipeError, match="needs holdout"):
        parse_recipe(RECIPE | {"target_error": 8.0, "holdout": 0})
    with pytest.raises(RecipeError, match="several trainings"):
        train(parse_recipe(RECIPE | {"target_error": 8.0}), tmp_path)
