"""The numbers that the project shows are those of its result files, and those of real files."""

import importlib
import json
import shutil
from pathlib import Path

import pytest

import ectorch as ec
from ectorch.experiments.data import load
from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.networks import NETWORKS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "results/mnist"
POINTS = json.loads((FOLDER / "results.json").read_text())["points"]
RUNS = [(point, run) for point in POINTS for run in point["runs"]]
FASHION = [point for point in POINTS if point["data"] == "fashion-mnist"]
MNIST = [point for point in POINTS if point["data"] == "mnist"]


def path_of(point, run):
    return FOLDER / f"{point['curve']}-alpha-{point['alpha']:g}-seed-{run['seed']}.ect"


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_the_tables_are_those_of_the_results(benchmarks):
    table_of = benchmarks("curve").table_of
    assert table_of(POINTS) in (FOLDER / "results.md").read_text()
    assert table_of(MNIST) in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("network", "most_bytes", "most_error_percent"),
    [
        ("lenet-300-100", 3500, 1.9),
        ("lenet-300-100", 6500, 1.6),
        ("lenet-5-caffe", 2000, 1.0),
        ("lenet-5-caffe", 2900, 0.69),
    ],
)
def test_means_over_five_seeds_beat_the_published_sizes(network, most_bytes, most_error_percent):
    assert any(
        point["network"] == network
        and [run["seed"] for run in point["runs"]] == [0, 1, 2, 3, 4]
        and point["mean"]["file_bytes"] <= most_bytes
        and point["mean"]["decoded_error_percent"] <= most_error_percent
        for point in MNIST
    )


@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5-caffe"])
def test_the_other_data_set_has_a_curve_of_six_points(network):
    alphas = {point["alpha"] for point in FASHION if point["network"] == network}
    assert len(alphas) == 6


@pytest.mark.parametrize(("point", "run"), RUNS, ids=[path_of(*both).stem for both in RUNS])
def test_sizes_are_those_of_files_that_decode(point, run):
    path = path_of(point, run)
    assert path.stat().st_size == run["file_bytes"]
    with ec.safe_open(path) as file:
        assert set(file.keys()) == set(NETWORKS[point["network"]]().state_dict())
    assert ec.save(ec.load_file(path)) == path.read_bytes()
    assert run["evaluated_on"] == "test"


def test_no_other_files_lie_with_them():
    assert {p.name for p in FOLDER.glob("*.ect")} == {path_of(*both).name for both in RUNS}


@pytest.mark.network
@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5-caffe"])
def test_kept_files_predict_what_the_results_say(network):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    point = next(point for point in MNIST if point["network"] == network)
    run = point["runs"][0]
    test = evaluate(
        ec.load_model(NETWORKS[network](), path_of(point, run)).eval(), load("mnist").test
    )
    assert test.error_percent == run["decoded_error_percent"]
    assert test.predictions_sha256 == run["predictions_sha256"]
