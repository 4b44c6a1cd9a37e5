"""Rate-error curves of recipes over alphas and seeds: files, results, and one picture.

    python benchmarks/curve.py benchmarks/curves/mnist.toml --out results/mnist --jobs 2

Runs go below runs/<name of the table>/, resume when interrupted, and are not repeated when they
are there. Each file is evaluated once on the test set, after its training, by `ectorch train`
itself; choices were made on held-out images before. Writes into --out: an .ect file a run,
results.json, results.md and curve.png. With --readme, the table of the first curves' data set
between the two marks in that file is written anew.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from trainings import train_all

from ectorch.experiments.recipe import read_recipe
from ectorch.experiments.result import LOG_FILE, MODEL_FILE
from ectorch.experiments.training import train

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KEPT = (
    "seed",
    "evaluated_on",
    "file_bytes",
    "ratio",
    "float_error_percent",
    "decoded_error_percent",
    "estimate_bytes",
    "mdl_bytes",
    "nonzeros",
    "predictions_sha256",
    "seconds",
)
AVERAGED = ("file_bytes", "float_error_percent", "decoded_error_percent", "seconds")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
LABELS = {"B": "bytes of a file", "H": "codebook and indices", "N": "nonzeros only"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--readme", type=Path)
    parser.add_argument("--redraw", action="store_true", help="train nothing: from results.json")
    arguments = parser.parse_args()
    table = tomllib.loads(arguments.curves.read_text())
    path = arguments.out / "results.json"
    if not arguments.redraw:
        folder = arguments.runs / arguments.curves.stem
        points = [point for curve in table["curves"] for point in _points(curve, folder)]
        train_all([run for point in points for run in point["runs"]], arguments.jobs)
        arguments.out.mkdir(parents=True, exist_ok=True)
        results = [_collect(point, arguments.out) for point in points]
        first = json.loads((points[0]["runs"][0][1] / "result.json").read_text())
        written = {"points": results, "versions": first["versions"], "machine": first["machine"]}
        path.write_text(json.dumps(written, indent=2) + "\n")
    results = json.loads(path.read_text())["points"]
    (arguments.out / "results.md").write_text(table_of(results) + "\n")
    draw(results, table["published"], arguments.out / "curve.png")
    if arguments.readme:
        before, _, rest = arguments.readme.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        short = table_of([point for point in results if point["data"] == results[0]["data"]])
        arguments.readme.write_text(f"{before}{BEGIN}\n{short}\n{END}{after}")


def _points(curve: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """The points of one curve: each an alpha, with a recipe and a folder a seed."""
    points = []
    for alpha in curve["alphas"]:
        runs = []
        for seed in curve["seeds"]:
            changes = {"constrain.alpha": alpha, "seed": seed, **curve.get("changes", {})}
            recipe = read_recipe(Path(curve["recipe"]), changes)
            name = f"{curve['name']}-alpha-{alpha:g}-seed-{seed}"
            runs.append((recipe, folder / name))
        points.append({"curve": curve["name"], "alpha": alpha, "runs": runs})
    return points


def _collect(point: dict[str, Any], out: Path) -> dict[str, Any]:
    results = []
    for recipe, folder in point["runs"]:
        result = train(recipe, folder)  # has ended: reads it, and checks that the recipe is this
        shutil.copy(folder / MODEL_FILE, out / f"{folder.name}.ect")
        results.append(result)
        print(json.loads((folder / LOG_FILE).read_text().splitlines()[-1]))
    columns = {key: [result[key] for result in results] for key in AVERAGED}
    single = len(results) == 1
    return {
        "curve": point["curve"],
        "network": results[0]["network"],
        "data": results[0]["data"],
        "float_bytes": results[0]["float_bytes"],
        "alpha": point["alpha"],
        "runs": [{key: result[key] for key in KEPT} for result in results],
        "mean": {key: statistics.mean(values) for key, values in columns.items()},
        "std": {
            key: None if single else statistics.stdev(values) for key, values in columns.items()
        },
    }


def table_of(points: list[dict[str, Any]]) -> str:
    """The points as Markdown: means and standard deviations over seeds."""
    lines = [
        "| network / data | alpha | seeds | file bytes | ratio | decoded test error | float | "
        "minutes a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for point in points:
        mean, std = point["mean"], point["std"]

        def spread(key: str, digits: int) -> str:
            text = f"{mean[key]:,.{digits}f}"  # noqa: B023 - called in this round alone
            return text if std[key] is None else f"{text} ± {std[key]:,.{digits}f}"  # noqa: B023

        lines.append(
            f"| {point['network']} / {point['data']} | {point['alpha']:g} | {len(point['runs'])} | "
            f"{spread('file_bytes', 0)} | {point['float_bytes'] / mean['file_bytes']:,.0f} | "
            f"{spread('decoded_error_percent', 2)} % | {spread('float_error_percent', 2)} % | "
            f"{mean['seconds'] / 60:.1f} |"
        )
    return "\n".join(lines)


def draw(points: list[dict[str, Any]], published: list[dict[str, Any]], path: Path) -> None:
    """A panel for each network and data set, with the published points where there are some."""
    panels = list(dict.fromkeys((point["network"], point["data"]) for point in points))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(6 * columns, 4.2 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        mine = [point for point in points if (point["network"], point["data"]) == panel]
        theirs = [p for p in published if (p["network"], p["data"]) == panel]
        _draw_panel(axis, mine, theirs)
        axis.set_title(f"{panel[0]} / {panel[1]}", fontsize=10)
    figure.savefig(path, dpi=110)


def _draw_panel(axis: Axes, points: list[dict[str, Any]], published: list[dict[str, Any]]) -> None:
    points = sorted(points, key=lambda point: point["mean"]["file_bytes"])
    axis.errorbar(
        [point["mean"]["file_bytes"] for point in points],
        [point["mean"]["decoded_error_percent"] for point in points],
        xerr=[point["std"]["file_bytes"] or 0 for point in points],
        yerr=[point["std"]["decoded_error_percent"] or 0 for point in points],
        fmt="o-",
        capsize=3,
        label="ectorch: mean and standard deviation, files",
    )
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
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(0.25)
    axis.set_xlabel("bytes")
    axis.set_ylabel("test error, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
