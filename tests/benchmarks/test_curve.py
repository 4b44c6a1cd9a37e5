"""A walk of two steps on real digits: each starts from the last, and another checkout goes on."""

import importlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

import ectorch as ec
from ectorch.storage.files import save

RECIPE = """
name = "small"
network = "lenet-300-100"
data = "digits"
threads = 1
holdout = 200
[pretrain]
epochs = {epochs}
batch = 100
[constrain]
epochs = 2
batch = 100
alpha = 0.05
[constrain.config]
keep_grid = true
"""
TABLE = """
[[curves]]
name = "digits"
seeds = [0, 1]
walk = [
    {{ name = "first", recipe = "{first}" }},
    {{ name = "second", recipe = "{second}", changes = {{ "constrain.alpha" = 0.2 }} }},
]
[quick]
curves = ["digits"]
epochs = 1
networks = {{}}
[[published]]
method = "X"
network = "lenet-300-100"
data = "digits"
kind = "B"
bytes = 9000
error_percent = 9.0
source = "made up for this test"
"""


TABLE_TAIL = TABLE.partition("[[published]]")[2]


@pytest.fixture
def walk(tmp_path, monkeypatch):
    for name, epochs in (("first", 3), ("second", 0)):
        (tmp_path / f"{name}.toml").write_text(RECIPE.format(epochs=epochs))
    table = TABLE.format(first=tmp_path / "first.toml", second=tmp_path / "second.toml")
    (tmp_path / "walk.toml").write_text(table)
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    curve = importlib.import_module("curve")

    def run(*more):
        given = [tmp_path / "walk.toml", "--out", tmp_path / "out", "--runs", tmp_path / "runs"]
        monkeypatch.setattr("sys.argv", ["curve.py", *map(str, given), "--jobs", "1", *more])
        curve.main()
        return json.loads((tmp_path / "out/results.json").read_text())["points"]

    return run


def git(*arguments):
    return subprocess.check_output(
        ["git", *arguments], cwd=Path(__file__).parent, text=True
    ).strip()


def with_one_seed(path):
    path.write_text(path.read_text().replace("[0, 1]", "[0]"))


def test_a_walk_goes_on_in_another_checkout(walk, tmp_path, capsys):
    points = walk("--logs")
    assert "4 runs, 4 to do" in capsys.readouterr().out
    assert [point["name"] for point in points] == ["first", "second"]
    first, second = (point["runs"] for point in points)
    commit = git("rev-parse", "HEAD")
    assert {run["commit"] for run in [*first, *second]} == {commit}
    assert (tmp_path / "out/results.md").read_text().count(commit[:10]) == 3
    assert [run["seed"] for run in first] == [0, 1]
    for before, after in zip(first, second, strict=True):
        assert after["file_bytes"] < before["file_bytes"]
        assert after["float_error_percent"] == before["float_error_percent"]
    for name in ("first", "second"):
        path = tmp_path / f"out/digits-{name}-seed-1.ect"
        result = json.loads(path.with_suffix(".json").read_text())
        assert result["file_bytes"] == path.stat().st_size == len(save(ec.load_file(path)))
        assert path.with_suffix(".jsonl").read_text().count("\n") >= 3
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.ect")}

    shutil.rmtree(tmp_path / "runs/walk/digits-second-seed-1")
    (tmp_path / "out/digits-second-seed-1.json").unlink()
    shutil.rmtree(tmp_path / "runs/walk/digits-first-seed-1")
    again = walk("--logs")
    assert "digits-second-seed-1: took 0 minutes before" in (said := capsys.readouterr().out)
    assert "4 runs, 1 to do" in said
    assert [run["predictions_sha256"] for run in again[1]["runs"]] == [
        run["predictions_sha256"] for run in second
    ]
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.ect")}
    assert (tmp_path / "out/curve.png").stat().st_size > 5000


def test_what_has_ended_can_be_gathered(walk, tmp_path):
    with_one_seed(tmp_path / "walk.toml")
    points = walk()
    shutil.rmtree(tmp_path / "runs/walk/digits-second-seed-0")
    assert walk("--ended") == points[:1]


def test_other_curves_keep_their_points(walk, tmp_path):
    with_one_seed(tmp_path / "walk.toml")
    points = walk()
    table = (tmp_path / "walk.toml").read_text().partition("[quick]")[0]
    more = table.replace('name = "digits"', 'name = "more"').replace("[0]", "[2]")
    (tmp_path / "walk.toml").write_text(table + more + "[[published]]" + TABLE_TAIL)
    both = walk("--only", "more")
    assert [point["curve"] for point in both] == ["digits", "digits", "more", "more"]
    assert both[:2] == points


def test_a_point_of_a_given_size_has_the_alpha_that_was_found(walk, tmp_path):
    asked = f'''[[curves]]
name = "asked"
seeds = [0]
recipe = "{tmp_path / "first.toml"}"
points = [{{ name = "small", changes = {{ target_ratio = 40.0, "constrain.epochs" = 6 }} }}]
'''
    (tmp_path / "walk.toml").write_text(asked + "[[published]]" + TABLE_TAIL)
    [point] = walk("--logs")
    log = (tmp_path / "out/asked-small-seed-0.jsonl").read_text().splitlines()
    assert point["alpha"] == json.loads(log[-2])["alpha"] != 0.05
    assert point["runs"][0]["file_bytes"] <= point["target_bytes"] == point["float_bytes"] // 40
    assert f"found for {point['target_bytes']:,}" in (tmp_path / "out/results.md").read_text()


def test_quick_runs_are_short_and_apart(walk, tmp_path):
    points = walk("--quick")
    epochs = [
        json.loads((tmp_path / f"runs/walk-quick/digits-{name}-seed-0/result.json").read_text())
        for name in ("first", "second")
    ]
    assert [r["recipe"]["pretrain"]["epochs"] for r in epochs] == [1, 0]
    assert [r["recipe"]["constrain"]["epochs"] for r in epochs] == [1, 1]
    assert len(points) == 2
    assert not list((tmp_path / "out").glob("*.jsonl"))


def test_a_step_of_a_walk_may_start_from_an_earlier_one(walk, tmp_path):
    plans = importlib.import_module("plans")
    (table,) = plans.read_table(tmp_path / "walk.toml")["curves"]
    table["walk"].append(table["walk"][1] | {"name": "third", "after": "first"})
    table["walk"].append(table["walk"][1] | {"name": "fourth"})
    _, second, third, fourth = plans.plan(table, tmp_path)
    for seed in (0, 1):
        assert third.runs[seed][0].start == second.runs[seed][0].start
        assert fourth.runs[seed][0].start == str(third.runs[seed][1] / "model.ect")
