"""Curves of two methods: their hulls, bytes at a quality, and the Bjontegaard delta."""

import importlib
from pathlib import Path

import numpy as np
import pytest

ERRORS = [(80, 1.0), (70, 1.1), (60, 0.9), (50, 1.4), (40, 3.0), (45, 3.0)]
SIZES = np.geomspace(1000, 9000, 7)


@pytest.fixture
def curves(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("posttrain.curves")


def rising(sizes):
    """Cosines that depend on the logarithm of the bytes alone."""
    return [(size, 1 - 50 / size) for size in sizes]


def test_a_hull_leaves_out_what_a_smaller_file_equals(curves):
    assert curves.hull(ERRORS, lower_is_better=True) == [(40, 3.0), (50, 1.4), (60, 0.9)]
    found = curves.hull([(2, 0.5), (1, 0.5), (2, 0.9)], lower_is_better=False)
    assert found == [(1, 0.5), (2, 0.9)]


def test_no_chord_undercuts_a_hull(curves):
    random = np.random.default_rng(0)
    points = [(size, 20 / size + noise) for size, noise in random.uniform(0.1, 0.9, (200, 2))]
    kept = curves.hull(points, lower_is_better=True)
    sizes, errors = np.array(kept).T
    slopes = np.diff(np.log(sizes)) / np.diff(errors)
    assert (np.diff(slopes) < 0).all()
    chords = np.interp([-point[1] for point in points], -errors, np.log(sizes))
    within = [errors[-1] <= point[1] <= errors[0] for point in points]
    assert all((np.log([point[0] for point in points]) >= chords - 1e-9)[within])


@pytest.mark.parametrize("error", [3.0, 1.4, 0.9])
def test_bytes_at_a_point_are_its_bytes(curves, error):
    expected = {3.0: 40, 1.4: 50, 0.9: 60}[error]
    assert curves.bytes_at(ERRORS, error, lower_is_better=True) == pytest.approx(expected)


def test_between_points_bytes_rise_with_quality(curves):
    found = [curves.bytes_at(ERRORS, error, True) for error in np.linspace(3, 0.9, 50)]
    assert (np.diff(found) > 0).all()


@pytest.mark.parametrize("quality", [3.1, 0.8])
def test_a_curve_does_not_go_on_beyond_its_ends(curves, quality):
    assert curves.bytes_at(ERRORS, quality, lower_is_better=True) is None


def test_files_smaller_by_a_quarter_are_a_delta_of_a_quarter(curves):
    theirs = rising(SIZES)
    ours = [(0.75 * size, quality) for size, quality in theirs]
    assert curves.bd_rate(ours, theirs, lower_is_better=False) == pytest.approx(-0.25)
    assert curves.bd_rate(theirs, ours, lower_is_better=False) == pytest.approx(1 / 3)


def test_errors_and_cosines_are_the_same_curve_upside_down(curves):
    theirs = rising(SIZES)
    ours = [(0.9 * size**1.01, quality) for size, quality in theirs]
    errors = [[(size, 100 - 100 * quality) for size, quality in curve] for curve in (ours, theirs)]
    assert curves.bd_rate(*errors, lower_is_better=True) == pytest.approx(
        curves.bd_rate(ours, theirs, lower_is_better=False)
    )


def test_the_delta_is_of_the_range_that_is_asked_for(curves):
    theirs = rising(SIZES)
    ours = [(size * np.exp(9 * (1 - quality)), quality) for size, quality in theirs]
    whole = curves.bd_rate(ours, theirs, lower_is_better=False)
    good = curves.bd_rate(ours, theirs, lower_is_better=False, worst=theirs[4][1])
    assert 0 < 2 * good < whole


def test_where_no_quality_is_common_there_is_no_delta(curves):
    bad, good = [(1, 3.0), (2, 2.0)], [(3, 1.5), (4, 1.0)]
    assert curves.bd_rate(bad, good, lower_is_better=True) is None


def test_one_point_is_no_curve(curves):
    with pytest.raises(ValueError, match="1 points"):
        curves.bytes_at([(1, 3.0), (2, 3.0)], 3.0, lower_is_better=True)
