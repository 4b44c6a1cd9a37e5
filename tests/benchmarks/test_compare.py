"""Bytes at equal error are read off the baseline's curve."""

import importlib
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
