"""A checkpoint is of one run: its recipe, its network, its data."""

import dataclasses

import pytest
import torch

from ectorch.errors import TrainingError
from ectorch.experiments.checkpoint import CHECKPOINT_FILE, Checkpoint, table_of
from ectorch.experiments.progress import State
from ectorch.experiments.recipe import parse_recipe

RECIPE = parse_recipe(
    {
        "name": "x",
        "network": "my_net:make",
        "data": "my_data:load",
        "pretrain": {"epochs": 1},
        "constrain": {"epochs": 1},
    }
)
SHAPES = {"weight": [2]}


@pytest.fixture
def path(tmp_path):
    """Of a checkpoint of `RECIPE`."""
    path = tmp_path / CHECKPOINT_FILE
    Checkpoint(
        recipe=RECIPE.as_dict(),
        threads=torch.get_num_threads(),
        data_sha256="a",
        shapes=SHAPES,
        state=table_of(State(stage=2, step=7, epochs=[{"loss": 1.0}]), 3.5),
        model={"weight": torch.ones(2)},
        optimizer={},
        schedule={"last_epoch": 7},
        meter={},
        control={},
        random=torch.get_rng_state(),
    ).write(path)
    return path


def test_what_was_written_is_read(path):
    saved = Checkpoint.read(path, RECIPE, "a", SHAPES)
    assert saved.run_state() == State(stage=2, step=7, seconds=3.5, epochs=[{"loss": 1.0}])
    assert torch.equal(saved.model["weight"], torch.ones(2))
    assert torch.equal(saved.random, torch.get_rng_state())
    assert [other.name for other in path.parent.iterdir()] == [CHECKPOINT_FILE]


def test_one_of_another_run_is_refused(path):
    other = dataclasses.replace(RECIPE, seed=1)
    with pytest.raises(TrainingError, match=r"another recipe \(seed differ"):
        Checkpoint.read(path, other, "a", SHAPES)
    with pytest.raises(TrainingError, match=r"other tensors than my_data:load gives now"):
        Checkpoint.read(path, RECIPE, "b", SHAPES)
    with pytest.raises(TrainingError, match=r"another network: my_net:make has tensors of other"):
        Checkpoint.read(path, RECIPE, "a", {"weight": [3]})


def test_one_of_before_there_were_devices_is_of_the_processor(path):
    saved = torch.load(path, weights_only=True)
    del saved["places"], saved["device_random"]
    torch.save(saved | {"threads": 9}, path)
    read = Checkpoint.read(path, RECIPE, "a", SHAPES)
    assert (read.places, len(read.device_random)) == (["cpu, 9 threads"], 0)


@pytest.mark.parametrize(
    "change", [lambda saved: saved.pop("schedule"), lambda saved: saved.clear()]
)
def test_one_of_another_version_is_refused(path, change):
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)
    with pytest.raises(TrainingError, match="another version's checkpoint: delete it to begin"):
        Checkpoint.read(path, RECIPE, "a", SHAPES)
