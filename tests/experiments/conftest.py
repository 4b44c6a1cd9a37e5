"""What trainings share: the recipe of a small network, and a run of it."""

import json

import pytest

from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.training import Interrupted, train

RECIPE = {
    "name": "small",
    "data": "digits",
    "threads": 1,
    "pretrain": {"epochs": 2, "batch": 100, "lr": 4e-3},
    "constrain": {
        "epochs": 3,
        "batch": 100,
        "alpha": 0.02,
        "lr": 4e-3,
        "config": {"bias": "grid", "forward": "sampled", "reach": 3.0},
    },
    "finetune": {"epochs": 1, "batch": 100, "lr": 1e-4},
}


@pytest.fixture(scope="module")
def table(small):
    """The recipe of a small network."""
    return RECIPE | {"network": small}


@pytest.fixture(scope="module")
def sized(table):
    """The same recipe, long enough to come to a size that is asked for."""
    return table | {"constrain": {"epochs": 6, "batch": 100, "lr": 4e-3, "alpha": 0.02}}


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    """The folder of a run that has ended, and its result."""
    out = tmp_path_factory.mktemp("finished")
    return out, train(parse_recipe(table), out)


@pytest.fixture(scope="session")
def train_in_parts():
    """Gives the file of a run that is interrupted after so many steps, and goes on each time."""

    def call(recipe, out, stops):
        steps = 0

        def count(progress):
            nonlocal steps
            steps += 1

        for stop in stops:
            with pytest.raises(Interrupted):
                train(recipe, out, count, lambda stop=stop: steps == stop)
        train(recipe, out, count)
        return (out / "model.ect").read_bytes()

    return call


@pytest.fixture(scope="session")
def epochs_of():
    """Gives the records of a run's log that tell of an epoch of a stage."""

    def call(out, stage):
        records = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        return [record for record in records if record.get("stage") == stage]

    return call
