"""The slope at which a file has a size, or a network a quality."""

from __future__ import annotations

import math
from collections.abc import Callable

from ectorch.errors import MismatchError

LEAST_SHARE = 0.99  # of a size that is asked for
_AIM = 0.996
_MOST_TRIES = 14
_WIDEST = 64.0  # a factor of slope that a try may go
_FINEST = 1.05  # a factor of slope: what lies closer is as good
_FARTHEST = 1e12


def slope_for_size(size: Callable[[float], int], target_bytes: int, start: float) -> float:
    """The slope whose file takes no more than ``target_bytes``, and 99 % of them where it can.

    Args:
        size: in bytes, of the file at a slope; falls with it, but for a few bytes.
        start: slope to begin at.

    Raises:
        MismatchError: when no file is small enough.
    """
    tried: dict[float, int] = {}
    slope = start
    for _ in range(_MOST_TRIES):
        tried[slope] = now = size(slope)
        if LEAST_SHARE * target_bytes <= now <= target_bytes:
            return slope
        slope = _next(tried, target_bytes)
        if slope in tried:
            break
    fitting = [each for each in tried if tried[each] <= target_bytes]
    if not fitting:
        raise MismatchError(
            f"the smallest file of this network takes {min(tried.values()):,} bytes, "
            f"{target_bytes:,} were asked for"
        )
    return max(fitting, key=lambda each: tried[each])


def _next(tried: dict[float, int], target_bytes: int) -> float:
    """Sizes fall with slopes along a curve that is nearly straight where both are logarithms."""
    aim = math.log(_AIM * target_bytes)
    points = sorted((math.log(slope), math.log(size)) for slope, size in tried.items())
    large = [point for point in points if point[1] > aim]
    small = [point for point in points if point[1] <= aim]
    if large and small:
        (x0, y0), (x1, y1) = large[-1], small[0]
        if x1 < x0:  # sizes that rise by a few bytes
            x0, y0, x1, y1 = x1, y1, x0, y0
        share = (y0 - aim) / (y0 - y1) if y0 != y1 else 0.5
        return math.exp(x0 + min(max(share, 0.05), 0.95) * (x1 - x0))
    end, other = (points[-1], points[-2:-1]) if large else (points[0], points[1:2])
    tilt = (end[1] - other[0][1]) / (end[0] - other[0][0]) if other else -0.5
    far = (aim - end[1]) / tilt if tilt < -0.01 else math.copysign(math.log(_WIDEST), end[1] - aim)
    far = min(max(1.2 * far, -math.log(_WIDEST)), math.log(_WIDEST))
    return math.exp(end[0] + far)


def slope_for_quality(holds: Callable[[float], bool], start: float) -> float:
    """The largest slope, to a factor of 1.05, at which a network is still good enough.

    Raises:
        MismatchError: when none is.
    """
    good: float | None = None
    bad: float | None = None
    slope = start
    while good is None or bad is None:
        if holds(slope):
            good = slope
            slope *= 4
        else:
            bad = slope
            slope /= 4
        if good is not None and good > start * _FARTHEST:
            return good
        if bad is not None and bad < start / _FARTHEST:
            raise MismatchError("no grid is fine enough for the quality that is asked for")
    while bad / good > _FINEST:
        middle = math.sqrt(good * bad)
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return good
