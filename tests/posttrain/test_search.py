import math

import pytest

from ectorch.errors import MismatchError
from ectorch.posttrain.search import slope_for_quality, slope_for_size


@pytest.mark.parametrize("start", [1e-12, 1e-6, 1.0])
@pytest.mark.parametrize("tilt", [0.1, 0.5, 2.0])
def test_it_ends_within_a_percent_below(start, tilt):
    calls = []

    def size(slope):
        calls.append(slope)
        return int(500 + 1e6 / (1 + (slope / 1e-7) ** tilt) + (hash(slope) % 7))

    slope = slope_for_size(size, 40_000, start)
    assert 39_600 <= size(slope) <= 40_000
    assert len(calls) <= 15


def test_a_size_below_the_smallest_says_the_smallest():
    with pytest.raises(MismatchError, match=r"takes 5\d\d bytes, 300 were asked for"):
        slope_for_size(lambda slope: int(500 + 1000 / (1 + slope)), 300, 1.0)


def test_sizes_in_jumps_end_below():
    assert slope_for_size(lambda slope: 900 if slope > 1 else 2000, 1500, 1e-3) > 1


def test_quality_is_met_by_the_largest_slope():
    slope = slope_for_quality(lambda slope: slope <= 3e-5, 1.0)
    assert 3e-5 / 1.05 <= slope <= 3e-5
    assert slope_for_quality(lambda slope: slope <= 3e-5, 1e-9) == pytest.approx(slope, rel=0.05)


def test_a_quality_that_nothing_has():
    with pytest.raises(MismatchError, match="no grid is fine enough"):
        slope_for_quality(lambda slope: False, 1.0)
    assert slope_for_quality(lambda slope: True, 1.0) > 1e9
    assert math.isfinite(slope_for_quality(lambda slope: True, 1.0))
