from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ectorch.errors import ConfigError
from ectorch.size.control import SizeControl, ramp

_share = st.floats(0, 1)


@settings(deadline=None)
@given(earlier=_share, later=_share, rise=_share)
def test_ramp_rises_from_0_to_1_and_stays(earlier, later, rise):
    earlier, later = sorted((earlier, later))
    assert 0 <= ramp(earlier, rise, 1.0) <= ramp(later, rise, 1.0) <= 1
    assert ramp(1.0, rise, 1.0) == 1
    assert later < rise or ramp(later, rise, 1.0) == 1


@pytest.mark.parametrize(("progress", "expected"), [(0, 0), (0.2, 0.25), (0.4, 0.5), (0.9, 1)])
def test_ramp_is_linear(progress, expected):
    assert ramp(progress, 0.8, peak=1.0) == pytest.approx(expected)


def test_no_ramp_starts_at_full_alpha():
    assert ramp(0.0, 0.0, peak=1.0) == 1


@settings(deadline=None)
@given(rise=st.floats(0.01, 0.5), peak=st.floats(1, 20), fall=st.floats(0.01, 0.4))
def test_a_peak_is_reached_and_released(rise, peak, fall):
    steps = [ramp(i / 1000, rise, peak, fall) for i in range(1001)]
    assert ramp(rise, rise, peak, fall) == pytest.approx(peak)
    assert max(steps) <= peak * (1 + 1e-9)
    assert steps[0] == 0
    assert steps[-1] == 1
    top = steps.index(max(steps))
    assert steps[: top + 1] == sorted(steps[: top + 1])
    assert steps[top:] == sorted(steps[top:], reverse=True)


def run(plant, target, alpha=0.1, steps=200):
    """Sizes of a training whose size follows alpha with a lag, as trainings do."""
    control = SizeControl(target, alpha)
    size, sizes = plant(0.0) * 20, []
    for step in range(steps):
        progress = step / steps
        control.observe(progress, size)
        wanted = math.log(plant(control.alpha_at(progress)))
        # weights move as far as the learning rate lets them
        share = 0.25 * (1 + math.cos(math.pi * progress)) / 2
        size = math.exp(math.log(size) + share * (wanted - math.log(size)))
        sizes.append(size)
    return sizes


@settings(deadline=None)
@given(
    target=st.floats(1e3, 1e5),
    scale=st.floats(0.2, 5),
    power=st.floats(0.4, 1.0),
    alpha=st.sampled_from([0.02, 0.1, 0.5]),
)
def test_control_finds_the_alpha_of_a_size(target, scale, power, alpha):
    def plant(alpha):
        return scale * 5e3 / (alpha + 0.003) ** power

    assume(plant(3.0) < target < plant(0.01))
    sizes = run(plant, target, alpha)
    assert sizes[-1] == pytest.approx(target, rel=0.05)
    assert min(sizes) > 0.5 * target


def test_control_resumes():
    whole, halves = SizeControl(500.0), SizeControl(500.0)
    for step in range(100):
        if step == 37:
            state, halves = halves.state_dict(), SizeControl(500.0)
            halves.load_state_dict(state)
        for control in (whole, halves):
            control.observe(step / 100, 900 - 4 * step)
        assert whole.alpha_at(step / 100) == halves.alpha_at(step / 100)


@pytest.mark.parametrize("wrong", [{"target_bytes": 0}, {"target_bytes": 9, "alpha": -1.0}])
def test_control_needs_something_to_find(wrong):
    with pytest.raises(ConfigError, match="expected more than 0"):
        SizeControl(**wrong)
