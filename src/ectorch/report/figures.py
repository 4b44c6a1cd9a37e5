"""Vector pictures of a page: they follow its colours, and their marks carry values to show."""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from ectorch.bitstream import write_atomic
from ectorch.report.gather import ERROR, Point, front
from ectorch.report.text import printable, shortened

_SILENT: Any = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_INK = "#010203"  # becomes the colour of the page's text
_INKED = (
    *("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor"),
    *("xtick.color", "ytick.color", "grid.color"),
)
_SMALL = 9.5  # points: the least, more than 10 pixels on a phone
STYLE: Any = {  # keys of matplotlib's settings
    "svg.fonttype": "none",
    "text.parse_math": False,  # names may have dollars
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": _SMALL,
    "axes.labelsize": _SMALL,
    "xtick.labelsize": _SMALL,
    "ytick.labelsize": _SMALL,
    "legend.fontsize": _SMALL,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.framealpha": 0,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
} | dict.fromkeys(_INKED, _INK)
OURS, FRONT, THEIRS, FLOAT = "#2f7ed8", "#d1571f", "#8a8f98", "#7a869a"
_CLEAR_TO_INK = LinearSegmentedColormap.from_list("clear to ink", [f"{FRONT}00", f"{FRONT}ff"])
_WIDTH, _HEIGHT = 4.6, 3.2  # inches: letters stay readable on a phone
_MOST_BARS = 16
_REST = "names, index, checksums"
_LONG, _SHORT = 30, 22  # letters of a name
_HUGE = 1e300  # twice that is no float
_MAP_SIDE = 128
_MOST_LEVELS = 300  # with a mark each
Mark = Callable[[Any, str], None]
"""Gives an artist words to show."""


class Picture:
    """A figure in the making, whose marks can be given words to show.

    Args:
        name: part of every id in it, since ids are the page's.
    """

    def __init__(self, name: str, rows: int = 1, columns: int = 1, height: float = _HEIGHT) -> None:
        self._name, self._words = name, list[str]()
        self.figure: Figure
        self.figure, axes = plt.subplots(
            rows, columns, figsize=(_WIDTH, height), layout="constrained", squeeze=False
        )
        self.axes: list[Axes] = list(axes.flat)

    def save(self, path: Path, form: str) -> None:
        """Write it by itself, on white, as "png" or "svg"."""
        write_atomic(path, drawn(self.figure, form, dpi=150, facecolor="white"))

    def mark(self, artist: Any, words: str) -> None:
        """Show ``words`` where the pointer is on ``artist``."""
        artist.set_gid(f"{self._name}-mark-{len(self._words)}")
        self._words.append(printable(words))

    def svg(self) -> str:
        """The picture for a page; it can be drawn once."""
        with matplotlib.rc_context({"svg.hashsalt": self._name}):
            text = drawn(self.figure, "svg", metadata=_SILENT, transparent=True).decode()
        text = text[text.index("<svg") :].replace(_INK, "currentColor")
        text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
        for at, words in enumerate(self._words):
            plain = f'<g id="{self._name}-mark-{at}">'
            said = html.escape(words)
            shown = f'{plain[:-1]} class="mark" tabindex="0" data-tip="{said}" aria-label="{said}">'
            text = text.replace(plain, shown)
        return text


def drawn(figure: Figure, form: str, **how: Any) -> bytes:
    """The figure as a file of that form; it is closed."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing")  # a browser has more letters
        figure.savefig(buffer, format=form, **how)
    plt.close(figure)
    return buffer.getvalue()


@matplotlib.rc_context(STYLE)
def curve_picture(
    name: str, points: Sequence[Point], baselines: Sequence[Mapping[str, Any]]
) -> Picture:
    """Bytes against error: every point, the front, and other ways to store the network."""
    picture = Picture(name)
    axis = picture.axes[0]
    best = front(points)
    curves = list(dict.fromkeys(point.first.curve for point in points))
    for curve in curves:
        own = [point for point in points if point.first.curve == curve]
        own.sort(key=lambda point: point.mean("file_bytes"))
        axis.plot(
            [point.mean("file_bytes") for point in own],
            [point.mean(ERROR) for point in own],
            color=OURS,
            lw=1,
            alpha=0.6,
        )
    for point in points:
        colour = FRONT if point in best else OURS
        place = point.mean("file_bytes"), point.mean(ERROR)
        if len(point.runs) > 1:
            across, along = point.spread("file_bytes"), point.spread(ERROR)
            axis.errorbar(*place, along, across, color=colour, lw=1, capsize=2)
        picture.mark(axis.plot(*place, "o", color=colour, ms=6)[0], _words(point))
        alpha = f"alpha {point.first.result['alpha']:.2g}"
        axis.annotate(alpha, place, (4, 4), textcoords="offset points", fontsize=_SMALL)
    for row in baselines:
        place = row["file_bytes"], row["error_percent"]
        (mark,) = axis.plot(*place, "s", color=THEIRS, ms=5)
        picture.mark(mark, f"{row['name']}: {place[0]:,} bytes, {place[1]:.2f} %")
        label = shortened(row["name"], _SHORT)
        axis.annotate(
            label, place, (2, 5), textcoords="offset points", fontsize=_SMALL, rotation=45
        )
    axis.plot([], [], "o", color=FRONT, label="on the front")
    if len(best) < len(points):
        axis.plot([], [], "o", color=OURS, label="behind it")
    if baselines:
        axis.plot([], [], "s", color=THEIRS, label="stored otherwise")
    _scale_bytes(
        axis, [mark["file_bytes"] for mark in [*baselines, *(p.first.result for p in points)]]
    )
    axis.margins(0.12)
    axis.set_ylabel(shortened(f"{points[0].task[2]} error, %", _LONG))
    axis.grid()
    picture.figure.legend(loc="outside upper center", ncols=3)
    return picture


def _scale_bytes(axis: Axes, sizes: Sequence[float]) -> None:
    """A logarithmic axis, with so many numbers that they have room side by side."""
    span = max(sizes) / min(sizes)
    steps = (1,) if span > 50 else (1, 2, 5) if span > 5 else range(1, 10)
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("bytes")


@matplotlib.rc_context(STYLE)
def histogram_picture(
    name: str, after: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
) -> Picture:
    """Weights of the float network, where they are known, and how many have each codebook value."""
    picture = Picture(name, len(after), height=1.9 * len(after))
    for axis, (tensor, values) in zip(picture.axes, after.items(), strict=True):
        draw_histogram(axis, tensor, values, before.get(tensor), picture.mark)
        axis.set_ylabel("share")
    return picture


def draw_histogram(
    axis: Axes, tensor: str, after: np.ndarray, before: np.ndarray | None, mark: Mark
) -> None:
    """Shares of the float values, if given, in bins, and of the values that they are now."""
    zero = f"{np.mean(after == 0):.1%} zero"
    axis.set_title(f"{shortened(tensor, _LONG)}: {zero}", loc="left", fontsize=_SMALL)
    after = _finite(after)
    before = None if before is None else _finite(before)
    if not after.size:
        return
    if before is not None and before.size:
        reach = max(float(np.abs(before).max()), float(np.abs(after).max()), 1e-12)
        edges = np.linspace(-reach, reach, 81).tolist()
        weights = np.full(before.size, 1 / before.size)
        axis.hist(before.ravel(), edges, weights=weights, color=FLOAT, alpha=0.6)
    levels, counts = np.unique(after, return_counts=True)
    shares = counts / after.size
    axis.vlines(levels, 1e-9, shares, color=FRONT, lw=2)
    marked = zip(levels, counts, shares, strict=True) if len(levels) <= _MOST_LEVELS else ()
    for level, count, share in marked:
        (dot,) = axis.plot(level, share, "o", color=FRONT, ms=4)
        mark(dot, f"{tensor}: {level:.5g}, {count:,} weights ({share:.2%})")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_ylim(0.3 / after.size, 2)


@matplotlib.rc_context(STYLE)
def map_picture(name: str, tensors: Mapping[str, np.ndarray]) -> Picture:
    """Where nonzero weights are: rows are a layer's outputs, columns its inputs."""
    columns = min(2, len(tensors))
    rows = -(-len(tensors) // columns)
    picture = Picture(name, rows, columns, height=2.3 * rows)
    for axis in picture.axes[len(tensors) :]:
        axis.set_visible(False)
    for axis, (tensor, values) in zip(picture.axes, tensors.items(), strict=False):
        density = _density(values.reshape(len(values), -1) != 0)
        title = f"{shortened(tensor, _SHORT)}\nup to {density.max():.1%}"
        top = max(float(density.max()), 1e-12)
        axis.imshow(
            density, cmap=_CLEAR_TO_INK, vmin=0, vmax=top, aspect="auto", interpolation="none"
        )
        axis.set_title(title, loc="left")
        axis.tick_params(labelbottom=False, labelleft=False, length=0)
    return picture


@matplotlib.rc_context(STYLE)
def size_picture(name: str, sizes: Mapping[str, int], rest: int) -> Picture:
    """Bytes of a file by tensor, the largest by name; ``rest`` is what is no tensor."""
    picture = Picture(name, height=0.6 + 0.24 * min(len(sizes) + 1, _MOST_BARS + 2))
    draw_sizes(picture.axes[0], sizes, rest, picture.mark)
    return picture


def draw_sizes(axis: Axes, sizes: Mapping[str, int], rest: int, mark: Mark) -> None:
    """A bar for each of the largest, and one for the others."""
    largest = set(sorted(sizes, key=lambda tensor: -sizes[tensor])[:_MOST_BARS])
    bars = [(tensor, size) for tensor, size in sizes.items() if tensor in largest]
    if len(sizes) > _MOST_BARS:
        bars.append(("others", sum(sizes.values()) - sum(size for _, size in bars)))
    bars.append((_REST, rest))
    for at, (tensor, size) in enumerate(bars):
        (bar,) = axis.barh(at, size, color=OURS)
        share = size / (sum(sizes.values()) + rest)
        mark(bar, f"{tensor}: {size:,} bytes ({share:.1%})")
        axis.annotate(f"{size:,}", (size, at), (3, -3), textcoords="offset points", fontsize=_SMALL)
    axis.set_yticks(range(len(bars)), _labels([tensor for tensor, _ in bars]))
    axis.invert_yaxis()
    axis.margins(x=0.2)
    axis.set_xlabel("bytes")


def _labels(names: Sequence[str]) -> list[str]:
    """Short names, with numbers where two would be the same."""
    labels = [shortened(name, _SHORT + 2) for name in names]
    if len(set(labels)) == len(labels):
        return labels
    return [f"{at}. {label}" for at, label in enumerate(labels, 1)]


@matplotlib.rc_context(STYLE)
def training_picture(name: str, log: Sequence[Mapping[str, Any]]) -> Picture:
    """What was measured at the end of each epoch: loss, error, bytes, alpha, gap."""
    rows = (
        ("loss", "loss, nats"),
        ("error_percent", "error, %"),
        ("size_bytes", "bytes"),
        ("alpha", "alpha"),
        ("gap_percent", "soft - hard error"),
    )
    known = [row for row in rows if any(record[row[0]] is not None for record in log)]
    known = known or [*rows[:1]]
    picture = Picture(name, len(known), height=1.5 * len(known))
    for axis, (key, label) in zip(picture.axes, known, strict=True):
        own = [(at + 1, record) for at, record in enumerate(log) if record[key] is not None]
        values = [record[key] for _, record in own]
        axis.plot([at for at, _ in own], values, color=OURS, lw=1)
        for (at, record), value in zip(own, values, strict=True):
            (mark,) = axis.plot(at, value, "o", color=OURS, ms=3)
            where = f"{record['stage']} epoch {record['epoch']}"
            picture.mark(mark, f"{where}: {label} {value:,.5g}")
        axis.set_xlim(0.5, len(log) + 0.5)
        axis.set_ylabel(label)
        axis.grid()
    picture.axes[-1].set_xlabel("epochs of all stages")
    return picture


def _words(point: Point) -> str:
    size, error = point.mean("file_bytes"), point.mean(ERROR)
    return f"{point.name}: {size:,.0f} bytes (x{_ratio(point):,.0f}), {error:.2f} %"


def _ratio(point: Point) -> float:
    ratio: float = point.first.result["float_bytes"] / point.mean("file_bytes")
    return ratio


def _finite(values: np.ndarray) -> np.ndarray:
    """(n,) those that can be drawn."""
    finite: np.ndarray = values[np.abs(values) < _HUGE]
    return finite


def _density(nonzero: np.ndarray) -> np.ndarray:
    """Means over blocks, so that no side is longer than a map's."""
    for dimension in (0, 1):
        length = nonzero.shape[dimension]
        starts = np.linspace(0, length, min(length, _MAP_SIDE), endpoint=False).astype(int)
        widths = np.diff([*starts, length])
        sums = np.add.reduceat(nonzero.astype(float), starts, axis=dimension)
        nonzero = sums / (widths[:, None] if dimension == 0 else widths)
    return nonzero
