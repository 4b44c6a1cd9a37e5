"""The numbers that the project shows are those of its result files."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

import ectorch as ec
from ectorch.experiments.data import load
from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.networks import LeNet300100
from ectorch.storage import safe_open

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "recipes/lenet-300-100"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())


def test_the_table_in_readme_is_the_one_of_expected_json():
    spec = importlib.util.spec_from_file_location("seeds", ROOT / "benchmarks/seeds.py")
    seeds = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeds)
    assert seeds.table(EXPECTED) in (ROOT / "README.md").read_text()


def test_every_seed_meets_the_demos_promise():
    assert [run["seed"] for run in EXPECTED["runs"]] == [0, 1, 2]
    for run in EXPECTED["runs"]:
        assert run["file_bytes"] <= 7000
        assert run["decoded_error_percent"] <= 1.95


def test_the_kept_file_is_that_of_the_first_seed_and_still_decodes():
    path = FOLDER / "seed-0.ect"
    assert path.stat().st_size == EXPECTED["runs"][0]["file_bytes"]
    with safe_open(path) as file:
        assert set(file.keys()) == set(LeNet300100().state_dict())
    assert ec.save(ec.load_file(path)) == path.read_bytes()


@pytest.mark.network
def test_the_kept_file_predicts_what_expected_json_says():
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    model = ec.load_model(LeNet300100(), FOLDER / "seed-0.ect").eval()
    test = evaluate(model, load("mnist").test)
    assert test.error_percent == EXPECTED["runs"][0]["decoded_error_percent"]
    assert test.predictions_sha256 == EXPECTED["runs"][0]["predictions_sha256"]
