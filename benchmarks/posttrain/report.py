"""What the runner measured beside what NNCodec does: bytes at equal quality, and a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from provenance import stamp

from ectorch.bitstream import write_atomic
from ectorch.report.figures import FRONT, OURS, STYLE, THEIRS, drawn
from ectorch.report.text import markdown_table
from posttrain.curves import Point, bd_rate, bytes_at, hull
from posttrain.log import Row

INTRODUCTION = """\
# Compression after training

`benchmarks/posttrain/runner.py` says what is measured, `networks.py` which networks these are, \
`nncodec.py` how NNCodec was run. Bytes are those of whole files at equal quality of the decoded \
network on test data, means over seeds of the calibration inputs; in brackets their ratio to \
NNCodec at the best of all its settings, point by point, chosen on the test data in its favour. \
Between points bytes are interpolated, on the lower hull of each curve (`curves.py`). A dash: the \
curve does not reach that quality for every seed. BD-rate: the mean difference of bytes to \
NNCodec's over the qualities of the table, with the standard deviation over seeds. The dotted line \
of the picture is the float network."""
PEER_DEFAULT = "dq"  # what `nncodec.nn.encode` does unasked


@dataclass(frozen=True)
class Measure:
    """How a network's quality is told.

    Attributes:
        levels: the qualities of the table, best first; the range of the delta ends at the last.
    """

    words: str
    lower_is_better: bool
    levels: tuple[float, ...]
    float_quality: float


MEASURES = {
    "mnist-cnn": Measure("error, %", True, (1.0, 1.2, 1.5, 2.0, 3.0), 0.95),
    "cifar10-cnn": Measure("error, %", True, (20.0, 20.5, 21.0, 22.0, 25.0), 19.86),
    "g2p-en": Measure("words wrong, %", True, (33.5, 34.0, 35.0, 37.0, 40.0), 32.77),
    "minilm": Measure("cosine", False, (0.995, 0.99, 0.98, 0.97, 0.95), 1.0),
}
COLOURS = {"feedback": OURS, "measured": "#e0a030", "data-free": "#3aa676", "nearest": "#9a6fd0"}


def as_markdown(rows: Sequence[Row], peer: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    """The tables of the results page."""
    machine, versions = made["machine"], peer["peer"]
    parts = [
        INTRODUCTION,
        f"{machine['cpu']}, {machine['threads']} thread; ectorch {made['versions']['ectorch']}, "
        f"torch {made['versions']['torch']}; NNCodec {versions['nncodec']}.",
    ]
    for network, measure in MEASURES.items():
        theirs = [row for row in peer["points"] if row["network"] == network]
        ours = [row for row in rows if row["network"] == network]
        if theirs and ours:
            parts += [f"## {network}", _table(measure, ours, theirs)]
    return "\n\n".join([*parts, stamp(made), f"NNCodec: {stamp(peer)}"]) + "\n"


def _table(measure: Measure, ours: Sequence[Row], theirs: Sequence[Row]) -> str:
    """A line a method: bytes at each quality, and in brackets their ratio to NNCodec's best."""
    best = _points(theirs)
    default = _points(row for row in theirs if row["setting"] == PEER_DEFAULT)
    methods = {"NNCodec, best": [best], "NNCodec, default": [default]}
    methods |= {row["method"]: _curves(ours, row["method"]) for row in ours}
    references = [_at(best, level, measure) for level in measure.levels]
    lines = []
    for method, curves in methods.items():
        cells = []
        for level, reference in zip(measure.levels, references, strict=True):
            found = [_at(curve, level, measure) for curve in curves]
            reached = [size for size in found if size is not None]
            cells.append(_cell(reached if len(reached) == len(found) else [], reference))
        delta = _percent([_delta(curve, best, measure) for curve in curves])
        lines.append([method, str(len(curves)), *cells, delta])
    levels = [f"{level:g}" for level in measure.levels]
    columns = [f"bytes at {measure.words}", "seeds", *levels, "BD-rate"]
    return markdown_table(columns, lines)


def _curves(rows: Sequence[Row], method: str) -> list[list[Point]]:
    """Of a method, one a seed."""
    own = [row for row in rows if row["method"] == method]
    seeds = dict.fromkeys(row["seed"] for row in own)
    return [_points(row for row in own if row["seed"] == seed) for seed in seeds]


def _points(rows: Any) -> list[Point]:
    return [(row["bytes"], row["quality"]) for row in rows]


def _is_curve(points: Sequence[Point], measure: Measure) -> bool:
    return len(hull(points, measure.lower_is_better)) > 1


def _at(points: Sequence[Point], level: float, measure: Measure) -> float | None:
    known = _is_curve(points, measure)
    return bytes_at(points, level, measure.lower_is_better) if known else None


def _delta(points: Sequence[Point], best: Sequence[Point], measure: Measure) -> float | None:
    known = _is_curve(points, measure) and _is_curve(best, measure)
    return bd_rate(points, best, measure.lower_is_better, measure.levels[-1]) if known else None


def _cell(sizes: Sequence[float], reference: float | None) -> str:
    if not sizes:
        return "-"
    mean = statistics.mean(sizes)
    return f"{mean:,.0f}" if reference is None else f"{mean:,.0f} ({mean / reference:.3f})"


def _percent(deltas: Sequence[float | None]) -> str:
    known = [100 * delta for delta in deltas if delta is not None]
    if len(known) < len(deltas) or not known:
        return "-"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):+.1f}{spread} %"


@matplotlib.rc_context(STYLE)
def draw(rows: Sequence[Row], peer: Mapping[str, Any], path: Path) -> None:
    """A panel a network (an SVG): files, and their hull, of the methods in `COLOURS`."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for axis, (network, measure) in zip(axes.flat, MEASURES.items(), strict=True):
        theirs = [row for row in peer["points"] if row["network"] == network]
        _line(axis, measure, [_points(theirs)], "NNCodec, best of its settings", THEIRS)
        default = [row for row in theirs if row["setting"] == PEER_DEFAULT]
        _line(axis, measure, [_points(default)], "NNCodec, default", FRONT)
        ours = [row for row in rows if row["network"] == network]
        for method, colour in COLOURS.items():
            _line(axis, measure, _curves(ours, method), method, colour)
        worst = measure.levels[-1]
        span = abs(worst - measure.float_quality)
        ends = (measure.float_quality, worst) if measure.lower_is_better else (worst, 1.0)
        axis.set_ylim(ends[0] - 0.08 * span, ends[1] + 0.08 * span)
        axis.axhline(measure.float_quality, color=THEIRS, linewidth=0.8, linestyle=":")
        axis.set_xscale("log")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter("B"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.set(title=network, xlabel="file", ylabel=measure.words)
        axis.grid(visible=True)
    axes.flat[0].legend()
    write_atomic(path, drawn(figure, "svg", facecolor="white"))
    plt.close(figure)


def _line(
    axis: Axes, measure: Measure, curves: Sequence[Sequence[Point]], label: str, colour: str
) -> None:
    for index, curve in enumerate(curves):
        if not curve:
            continue
        kept = hull(curve, measure.lower_is_better)
        axis.plot(*zip(*kept, strict=True), color=colour, label="" if index else label)
        axis.plot(*zip(*curve, strict=True), ".", color=colour, alpha=0.4, markersize=4)
