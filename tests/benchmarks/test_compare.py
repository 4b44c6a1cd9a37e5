"""Variants of a recipe are curves; bytes at equal error are read off the baseline's."""

import importlib
import json
from pathlib import Path

import pytest

from ectorch.report.gather import Point, Run


@pytest.fixture
def compare(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("compare")


def point(variant, size, error):
    result = {"seed": 0, "file_bytes": size, "decoded_error_percent": error, "commit": "c" * 40}
    return Point([Run(variant, "alpha 1", result, Path())])


def test_ratios_follow_the_curve_in_log_bytes(compare):
    curve = [point("all", 4000, 1.0), point("all", 1000, 2.0)]
    others = [point("half way", 4000, 1.5), point("beyond", 500, 3.0)]
    rows = compare.table_of([*curve, *others], "all").splitlines()[2:]
    ratios = [float(row.split("|")[-2]) for row in rows]
    assert ratios == [1.0, 1.0, 2.0, 2.0]


def test_a_variant_on_three_points_has_a_finer_line(compare):
    points = [point("all", 4000, 1.0), point("all", 2000, 1.2), point("all", 1000, 2.0)]
    row = compare.table_of([*points, point("x", 2000, 1.1)], "all").splitlines()[-1]
    assert row.split("|")[-3].strip() == "2,828"


RECIPE = """
name = "small"
network = "lenet-300-100"
data = "digits"
threads = 1
[pretrain]
epochs = 3
batch = 50
[constrain]
epochs = 1
batch = 50
alpha = 0.1
"""
VARIANTS = """
recipe = "{recipe}"
baseline = "all"
seeds = [0]
[changes]
holdout = 200
[[variants]]
name = "all"
key = "constrain.alpha"
values = [0.1, 0.3]
[[variants]]
name = "ternary"
key = "constrain.config.levels"
values = [3]
"""


def test_variants_are_trained_kept_and_shown(compare, tmp_path, monkeypatch):
    (tmp_path / "small.toml").write_text(RECIPE)
    table = VARIANTS.format(recipe=tmp_path / "small.toml")
    (tmp_path / "variants.toml").write_text(table)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare.py", "variants.toml", "--out", "out", "--jobs", "1"])
    compare.main()
    points = json.loads(Path("out/results.json").read_text())["points"]
    names = [("all", "alpha-0.1"), ("all", "alpha-0.3"), ("ternary", "levels-3")]
    assert [(point["curve"], point["name"]) for point in points] == names
    ratios = [line.split("|")[-2] for line in Path("out/results.md").read_text().splitlines()[2:5]]
    assert " 1.00 " in ratios[:2]  # the baseline, over itself
    assert float(ratios[2]) > 0
    assert Path("out/curve.png").stat().st_size > 5000
