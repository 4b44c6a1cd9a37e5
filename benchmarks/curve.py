"""Rate-error curves of recipes over alphas and seeds: files, results, and one picture.

    python benchmarks/curve.py benchmarks/curves/mnist.toml --out results/mnist --jobs 2

A curve has a run for each of its alphas (or points) and seeds; or it is a walk, whose every step
starts from the file of the step before, or of the earlier one that it names (`after`). Runs go
below runs/<name of the table>/, resume when interrupted, and are not repeated when they are there.
Each file is evaluated once, after its training, by `ectorch train` itself: on the test set, where
choices were made on held-out images before, or on those, where a table holds them out. Writes into
--out: an .ect file a run, results.json, results.md and curve.png; with --logs also each run's
result and log, from which another checkout goes on. With --page, the table between its two marks
in that file is written anew. --quick: the reduced variant that the
table describes.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from harness import draw_curve, run_curves
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from plans import read_table
from provenance import stamp, write_block

from ectorch.report.gather import ERROR, POINTS_FILE, Point, gather
from ectorch.report.text import markdown_table

LABELS = {"B": "bytes of a file", "H": "codebook and indices", "N": "nonzeros only"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--page", type=Path)
    parser.add_argument("--redraw", action="store_true", help="train nothing: from results.json")
    parser.add_argument("--ended", action="store_true", help="train nothing: what has ended")
    parser.add_argument("--only", nargs="*", help="names of curves to train")
    parser.add_argument("--logs", action="store_true", help="keep results and logs, and use them")
    parser.add_argument("--quick", action="store_true", help="fewer epochs of a smaller network")
    arguments = parser.parse_args()
    table, name, out = read_table(arguments.curves), arguments.curves.stem, arguments.out
    if not arguments.redraw:
        run_curves(
            table,
            arguments.runs / (f"{name}-quick" if arguments.quick else name),
            out,
            arguments.jobs,
            arguments.only,
            arguments.quick,
            arguments.logs,
            arguments.ended,
        )
    points, written = gather(out), json.loads((out / POINTS_FILE).read_text())
    (out / "results.md").write_text(f"{table_of(points)}\n\n{stamp(written)}\n")
    draw(points, table["published"], out / "curve.png")
    if arguments.page:
        write_block(arguments.page, name, table_of(points))


def table_of(points: Sequence[Point]) -> str:
    """The points as Markdown: means and standard deviations over seeds."""
    on = points[0].task[2]
    columns = ("network / data", "alpha", "seeds", "file bytes", "ratio")
    columns += (f"decoded {on} error", "float", "minutes a run", "commit")
    return markdown_table(columns, map(_row, points))


def _row(point: Point) -> list[str]:
    network, data, _ = point.task
    result = point.first.result
    asked = f", found for {result['target_bytes']:,}" if result.get("target_bytes") else ""
    return [
        f"{network} / {data}",
        f"{result['alpha']:.3g}{asked}",
        str(len(point.runs)),
        point.text("file_bytes", ",.0f"),
        f"{result['float_bytes'] / point.mean('file_bytes'):,.0f}",
        f"{point.text(ERROR, ',.2f')} %",
        f"{point.text('float_error_percent', ',.2f')} %",
        f"{point.mean('seconds') / 60:.1f}",
        ", ".join(point.commits),
    ]


def draw(points: Sequence[Point], published: list[dict[str, Any]], path: Path) -> None:
    """A panel for each network and data set, with the published points where there are some."""
    panels = list(dict.fromkeys(point.task[:2] for point in points))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6 * columns, 4.2 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        mine = [point for point in points if point.task[:2] == panel]
        theirs = [p for p in published if (p["network"], p["data"]) == panel]
        _draw_panel(axis, mine, theirs)
        axis.set_title(f"{panel[0]} / {panel[1]}", fontsize=10)
    figure.savefig(path, dpi=110)


def _draw_panel(axis: Axes, points: Sequence[Point], published: list[dict[str, Any]]) -> None:
    several = any(len(point.runs) > 1 for point in points)
    label = "ectorch: files" + (", mean and standard deviation" if several else "")
    draw_curve(axis, points, label)
    for kind, marker in zip(LABELS, "s^v", strict=True):
        chosen = [p for p in published if p["kind"] == kind]
        if not chosen:
            continue
        axis.plot(
            [p["bytes"] for p in chosen],
            [p["error_percent"] for p in chosen],
            marker,
            color="0.35",
            mfc="none" if kind != "B" else "0.35",
            label=f"published, {LABELS[kind]}",
        )
    for p in published:
        if "error_percent" not in p:
            axis.axvline(p["bytes"], color="0.35", ls=":", label=f"{p['method']}: error unknown")
    published = [p for p in published if "error_percent" in p]
    for side, p in zip(itertools.cycle((1, -1)), published, strict=False):
        axis.annotate(
            p["method"],
            (p["bytes"], p["error_percent"]),
            xytext=(3, 4 * side),
            textcoords="offset points",
            rotation=30 * side,
            va="bottom" if side > 0 else "top",
            fontsize=7,
        )
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(0.25)
    axis.set_xlabel("size of the file")
    axis.tick_params(axis="x", labelsize=8)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
