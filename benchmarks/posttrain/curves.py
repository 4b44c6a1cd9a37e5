"""Two methods at equal quality: bytes at a quality, and the Bjontegaard delta of rate.

A curve is what a method made, as points (bytes, quality). Quality on a finite test set is noisy,
errors above all: a smaller file may well seem the better one. So a curve is the lower convex hull
of its points, the logarithm of the bytes over the quality: no point and no chord lies below it.
Whoever measured more points, or with more settings, had more luck of this kind.

Between its points the logarithm of the bytes is a monotone cubic (PCHIP), never above their chord.
The Bjontegaard delta is the mean difference of these logarithms over the qualities that both curves
reach, told as a part of the bytes (G. Bjontegaard, VCEG-M33, 2001, there with a cubic fit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from scipy.interpolate import PchipInterpolator

Point: TypeAlias = tuple[float, float]
"""Bytes of a file, and its quality."""


def hull(points: Sequence[Point], lower_is_better: bool) -> list[Point]:
    """The points that no other and no chord undercuts, by bytes."""
    sign = 1 if lower_is_better else -1
    kept: list[Point] = []
    for size, quality in sorted(points, key=lambda point: (point[0], sign * point[1])):
        if kept and sign * quality >= sign * kept[-1][1]:  # a smaller file is as good
            continue
        while len(kept) > 1 and _is_above(kept[-1], kept[-2], (size, quality)):
            kept.pop()
        kept.append((size, quality))
    return kept


def _is_above(point: Point, worse: Point, better: Point) -> bool:
    """A point lies on or above the chord of two others."""
    share = (point[1] - worse[1]) / (better[1] - worse[1])
    chord = math.log(worse[0]) + share * math.log(better[0] / worse[0])
    return math.log(point[0]) >= chord


def bytes_at(points: Sequence[Point], quality: float, lower_is_better: bool) -> float | None:
    """Bytes at a quality, or None where the curve does not reach it."""
    curve = _Curve(points, lower_is_better)
    return curve.bytes_at(quality) if curve.worst <= curve.good(quality) <= curve.best else None


def bd_rate(
    ours: Sequence[Point],
    theirs: Sequence[Point],
    lower_is_better: bool,
    worst: float | None = None,
) -> float | None:
    """By what part of their bytes ours differ, in the mean over quality: -0.2 is a fifth less.

    Args:
        worst: the quality at which the range ends, where both curves go farther down.

    Returns:
        the delta, or None where there is no quality that both reach.
    """
    curves = [_Curve(points, lower_is_better) for points in (ours, theirs)]
    low, high = max(curve.worst for curve in curves), min(curve.best for curve in curves)
    if worst is not None:
        low = max(low, curves[0].good(worst))
    if not low < high:
        return None
    areas = [curve.log_bytes.integrate(low, high) for curve in curves]
    return math.expm1(float(areas[0] - areas[1]) / (high - low))


class _Curve:
    """The logarithm of bytes over how good a network is, which rises whatever the measure."""

    def __init__(self, points: Sequence[Point], lower_is_better: bool) -> None:
        self.sign = -1 if lower_is_better else 1
        kept = hull(points, lower_is_better)
        if len(kept) < 2:
            raise ValueError(f"{len(kept)} points that are better than smaller ones, expected 2")
        sizes, qualities = np.array(kept, np.float64).T
        good = self.sign * qualities
        self.worst, self.best = float(good[0]), float(good[-1])
        self.log_bytes = PchipInterpolator(good, np.log(sizes), extrapolate=False)

    def good(self, quality: float) -> float:
        return self.sign * quality

    def bytes_at(self, quality: float) -> float:
        return math.exp(float(self.log_bytes(self.good(quality))))
