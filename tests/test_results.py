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
from ectorch.report.gather import gather
from ectorch.storage.files import save

ROOT = Path(__file__).parents[1]
FOLDERS = [ROOT / "results/mnist", ROOT / "results/cifar10"]
POINTS = {folder: json.loads((folder / "results.json").read_text())["points"] for folder in FOLDERS}
KEPT = {
    folder / f"{point['curve']}-{point['name']}-seed-{run['seed']}.ect": (point, run)
    for folder, points in POINTS.items()
    for point in points
    for run in point["runs"]
}
LYING = {path for folder in POINTS for path in folder.glob("*.ect")}


# the smallest file of each network; benchmarks/reevaluate.py codes and asks all of them
SMALLEST = {}
for path, (point, _) in sorted(KEPT.items(), key=lambda kept: -kept[1][1]["file_bytes"]):
    SMALLEST[point["network"]] = path


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_the_tables_are_those_of_the_results(benchmarks):
    table_of = benchmarks("curve").table_of
    for folder in FOLDERS:
        points = gather(folder)
        assert table_of(points) in (folder / "results.md").read_text()
        assert table_of(points) in (ROOT / f"docs/results/{folder.name}.md").read_text()


def test_the_table_of_the_first_hour_is_that_of_its_results(benchmarks):
    written = json.loads((ROOT / "benchmarks/results/starting.json").read_text())
    assert benchmarks("starting").table_of(written) in (ROOT / "docs/guide/training.md").read_text()


def test_the_tables_of_the_first_network_are_those_of_its_results(benchmarks):
    first_network = benchmarks("first_network")
    written = json.loads((ROOT / "benchmarks/results/first-network.json").read_text())
    for table, pages in first_network.PAGES.items():
        assert [row["name"] for row in written["tables"][table]] == [*first_network.TABLES[table]]
        for page in pages:
            assert first_network.table_of(written, table) in (ROOT / "docs" / page).read_text()


def test_the_rows_of_readme_and_the_presets_are_those_of_the_results(benchmarks):
    assert benchmarks("headline").table() in (ROOT / "README.md").read_text()
    written = json.loads((ROOT / "benchmarks/results/coder.json").read_text())
    assert benchmarks("presets").table_of(written) in (ROOT / "docs/how-to/coders.md").read_text()


@pytest.mark.slow  # some have millions of weights
@pytest.mark.parametrize("path", sorted({*KEPT, *LYING}), ids=lambda path: path.stem)
def test_sizes_are_those_of_files_that_decode(path):
    point, run = KEPT[path]
    assert path.stat().st_size == run["file_bytes"]
    shapes = {name: t.shape for name, t in NETWORKS[point["network"]]().state_dict().items()}
    assert {name: t.shape for name, t in ec.load_file(path).items()} == shapes


@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5-caffe", "resnet-20"])
def test_what_is_decoded_is_written_again_byte_for_byte(network):
    path = SMALLEST[network]
    assert save(ec.load_file(path)) == path.read_bytes()


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("network", ["lenet-300-100", "lenet-5-caffe", "resnet-20"])
def test_kept_files_predict_what_the_results_say(network):
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    path = SMALLEST[network]
    point, run = KEPT[path]
    model = ec.load_model(NETWORKS[network](), path).eval()
    test = evaluate(model, load(point["data"]).test)
    assert test.error_percent == run["decoded_error_percent"]
    assert test.predictions_sha256 == run["predictions_sha256"]
