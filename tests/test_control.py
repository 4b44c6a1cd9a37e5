from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ectorch.control import ramp

_share = st.floats(0, 1)


@settings(deadline=None)
@given(earlier=_share, later=_share, over=_share)
def test_ramp_rises_from_0_to_1_and_stays(earlier, later, over):
    earlier, later = sorted((earlier, later))
    assert 0 <= ramp(earlier, over, 1.0) <= ramp(later, over, 1.0) <= 1
    assert ramp(1.0, over, 1.0) == 1
    assert later < over or ramp(later, over, 1.0) == 1


@pytest.mark.parametrize(("progress", "expected"), [(0, 0), (0.2, 0.25), (0.4, 0.5), (0.9, 1)])
def test_ramp_is_linear(progress, expected):
    assert ramp(progress, 0.8, peak=1.0) == pytest.approx(expected)


def test_no_ramp_starts_at_full_alpha():
    assert ramp(0.0, 0.0, peak=1.0) == 1


@settings(deadline=None)
@given(over=st.floats(0.01, 0.5), peak=st.floats(1, 20), release=st.floats(0.01, 0.4))
def test_a_peak_is_reached_and_released(over, peak, release):
    steps = [ramp(i / 1000, over, peak, release) for i in range(1001)]
    assert ramp(over, over, peak, release) == pytest.approx(peak)
    assert max(steps) <= peak * (1 + 1e-9)
    assert steps[0] == 0
    assert steps[-1] == 1
    top = steps.index(max(steps))
    assert steps[: top + 1] == sorted(steps[: top + 1])
    assert steps[top:] == sorted(steps[top:], reverse=True)
