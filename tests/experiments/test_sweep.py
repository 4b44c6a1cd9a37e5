"""A sweep and a training do not take each other's folders."""

import pytest

from ectorch.errors import TrainingError
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.sweep import sweep
from ectorch.experiments.training import Interrupted, train


@pytest.fixture
def recipe(table):
    return parse_recipe(table | {"holdout": 200})


def test_a_sweep_does_not_take_the_folder_of_a_training(finished, tmp_path, recipe):
    said = "holds a training, and no sweep: choose another --out"
    with pytest.raises(TrainingError, match=f"^{finished[0]} {said}"):
        sweep(recipe, finished[0], 2)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, should_stop=lambda: True)
    with pytest.raises(TrainingError, match=said):
        sweep(recipe, tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_training_does_not_take_the_folder_of_a_sweep(tmp_path, recipe):
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(TrainingError, match="holds a sweep, and no training: choose another --out"):
        train(recipe, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]
