"""A run that was interrupted goes on to the same bytes, in every stage and manner of training."""

import json

import pytest
import torch

from ectorch.errors import TrainingError
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.training import Interrupted, train
from ectorch.rewrite.units import remove_dead_units
from ectorch.storage.files import load

STEPS = {"pretrain": 30, "constrain": 45, "finetune": 15}


@pytest.mark.parametrize("stop", [5, 30, 46, 75, 80], ids=lambda n: f"after {n} steps")
def test_an_interrupted_run_resumes_to_the_same_bytes(finished, tmp_path, stop, table):
    steps = 0

    def count(progress):
        nonlocal steps
        steps += 1

    with pytest.raises(Interrupted):
        train(parse_recipe(table), tmp_path, count, lambda: steps == stop)
    assert not (tmp_path / "model.ect").exists()
    train(parse_recipe(table), tmp_path, count)
    assert steps == sum(STEPS.values())
    assert (tmp_path / "model.ect").read_bytes() == (finished[0] / "model.ect").read_bytes()
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("road", ["pruning", "cardinality"])
def test_a_road_reduces_first_and_resumes_in_it(road, tmp_path, table):
    changed = table | {"reduce": table["constrain"] | {"config": {"lengths": road, "bias": "grid"}}}
    expected = train(parse_recipe(changed), tmp_path / "whole")
    seen = []

    def stop():
        return len(seen) == 40  # in the reducing stage

    with pytest.raises(Interrupted):
        train(parse_recipe(changed), tmp_path / "halves", seen.append, stop)
    assert seen[-1].stage == "reduce"
    result = train(parse_recipe(changed), tmp_path / "halves")
    assert result["file_bytes"] == expected["file_bytes"]
    files = [(tmp_path / name / "model.ect").read_bytes() for name in ("whole", "halves")]
    assert files[0] == files[1]
    stages = [
        json.loads(line).get("stage")
        for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()
    ]
    assert stages[0] == "pretrain"
    assert "reduce" in stages


def test_a_run_that_removes_units_resumes_to_the_same_bytes(
    tmp_path, monkeypatch, table, train_in_parts
):
    constrain = table["constrain"] | {
        "alpha": 0.02,
        "rise": 0.2,
        "peak": 3.0,
        "fall": 0.2,
        "lr": 4e-3,
        "config": {"bias": "grid", "reach": 1.33},
    }
    changed = table | {
        "precision": "bfloat16",
        "augment": {"rotate": 5.0, "scale": 0.05, "shift": 1.0},
        "constrain": constrain,
    }
    removed = []

    def remove(*arguments, **settings):
        removed.append(remove_dead_units(*arguments, **settings))

    monkeypatch.setattr("ectorch.experiments.training.remove_dead_units", remove)
    result = train(parse_recipe(changed), tmp_path / "whole")
    assert sum(removed) > 10
    whole = (tmp_path / "whole/model.ect").read_bytes()
    assert whole == train_in_parts(parse_recipe(changed), tmp_path / "parts", (46, 62, 78))
    full = NETWORKS["small"]().state_dict()
    assert {k: t.shape for k, t in load(whole).items()} == {k: t.shape for k, t in full.items()}
    assert result["decoded_error_percent"] < 30


def test_sgd_has_momentum_and_resumes(tmp_path, table):
    changed = table | {"pretrain": {"epochs": 2, "batch": 100, "lr": 0.1, "optimizer": "sgd"}}
    whole = train(parse_recipe(changed), tmp_path / "whole")
    seen = []
    with pytest.raises(Interrupted):
        train(parse_recipe(changed), tmp_path / "halves", seen.append, lambda: len(seen) == 7)
    halves = train(parse_recipe(changed), tmp_path / "halves")
    assert halves["predictions_sha256"] == whole["predictions_sha256"]
    assert whole["float_error_percent"] < 30


@pytest.mark.slow  # sizes are measured all along two trainings
def test_a_run_with_a_target_resumes_to_the_same_bytes(tmp_path, sized, train_in_parts):
    recipe = parse_recipe(sized | {"target_bytes": 1500})
    train(recipe, tmp_path / "whole")
    whole = (tmp_path / "whole/model.ect").read_bytes()
    assert whole == train_in_parts(recipe, tmp_path / "parts", (40, 71, 125))


def test_a_run_does_not_go_on_with_a_network_of_other_shapes(tmp_path, table, monkeypatch):
    recipe = parse_recipe(table)
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, should_stop=lambda: True)
    small = NETWORKS[recipe.network]

    def other():
        model = small()
        model.fc2 = torch.nn.Linear(model.fc2.in_features, 48)
        model.fc3 = torch.nn.Linear(48, 10)
        return model

    monkeypatch.setitem(NETWORKS, recipe.network, other)
    with pytest.raises(TrainingError, match=r"of another network: .* of other names or shapes"):
        train(recipe, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists()
