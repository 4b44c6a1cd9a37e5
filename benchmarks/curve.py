"""Rate-error curves of recipes over alphas and seeds: files, results, and one picture.

    python benchmarks/curve.py benchmarks/curves/mnist.toml --out results/mnist --jobs 2

A curve has a run for each of its alphas (or points) and seeds; or it is a walk, whose every step
starts from the file of the step before, or of the earlier one that it names (`after`). Runs go
below runs/<name of the table>/, resume when interrupted, and are not repeated when they are there.
Each file is evaluated once, after its training, by `ectorch train` itself: on the test set, where
choices were made on held-out images before, or on those, where a table holds them out. Writes into
--out: an .ect file a run, results.json, results.md and curve.png; with --logs also each run's
result and log, from which another checkout goes on. With --page, the table between its two marks
in that file is written anew. --quick: the reduced variant that the table describes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from pages import write_block
from trainings import Run, train_all

from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import read_recipe
from ectorch.experiments.result import LOG_FILE, MODEL_FILE, RESULT_FILE
from ectorch.experiments.target import target_bytes
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
    table = read_table(arguments.curves)
    path = arguments.out / "results.json"
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not arguments.redraw:
        only = arguments.only or (table["quick"]["curves"] if arguments.quick else None)
        folder = arguments.runs / (arguments.curves.stem + ("-quick" if arguments.quick else ""))
        curves = [
            points_of(curve, folder, table["quick"] if arguments.quick else {})
            for curve in table["curves"]
            if curve["name"] in (only or [curve["name"]])
        ]
        for run in (run for curve in curves for point in curve for run in point.runs):
            if arguments.logs:
                _take_back(run, arguments.out)
            _say_how_long(run, arguments.out)
        if arguments.ended:
            curves = [points for curve in curves if (points := list(filter(_has_ended, curve)))]
            if not curves:
                parser.error(f"no run below {folder} has ended")
        train_all([walk for curve in curves for walk in _walks(curve)], arguments.jobs)
        results = [r for curve in curves for r in _collect(curve, arguments.out, arguments.logs)]
        if only and path.exists():
            others = json.loads(path.read_text())["points"]
            results = [p for p in others if p["curve"] not in only] + results
            order = [curve["name"] for curve in table["curves"]]
            results.sort(key=lambda point: order.index(point["curve"]))
        first = json.loads((curves[0][0].runs[0][1] / RESULT_FILE).read_text())
        written = {"points": results, "versions": first["versions"], "machine": first["machine"]}
        path.write_text(json.dumps(written, indent=2) + "\n")
    results = json.loads(path.read_text())["points"]
    (arguments.out / "results.md").write_text(table_of(results) + "\n")
    draw(results, table["published"], arguments.out / "curve.png")
    if arguments.page:
        write_block(arguments.page, arguments.curves.stem, table_of(results))


@dataclass(frozen=True)
class Point:
    """One point of a curve: a run a seed."""

    curve: str
    name: str
    runs: list[Run]
    in_walk: bool = False

    @property
    def alpha(self) -> float:
        """The one that was asked for, or found for a size: then the mean of the last steps'."""
        recipe = self.runs[0][0]
        if not recipe.constrain.epochs:
            return 0.0
        return (
            statistics.mean(map(_found_alpha, self.runs)) if self.size else recipe.constrain.alpha
        )

    @property
    def size(self) -> int | None:
        """Bytes that were asked for, if any."""
        recipe = self.runs[0][0]
        return target_bytes(recipe, NETWORKS[recipe.network]()) or None


def read_table(path: Path) -> dict[str, Any]:
    """A table of curves."""
    return tomllib.loads(path.read_text())


def points_of(
    curve: dict[str, Any], folder: Path, quick: dict[str, Any] | None = None
) -> list[Point]:
    """The points of a curve; those of a walk in the order in which one starts from the other.

    Args:
        folder: of the runs.
        quick: how the table shortens them, if it does.
    """
    walk = curve.get("walk")
    steps = (
        walk
        or curve.get("points")
        or [
            {"name": f"alpha-{alpha:g}", "changes": {"constrain.alpha": alpha}}
            for alpha in curve.get("alphas", ())
        ]
    )
    points: list[Point] = []
    for step in steps:
        runs = []
        for at, seed in enumerate(curve["seeds"]):
            changes = {**curve.get("changes", {}), **step.get("changes", {}), "seed": seed}
            if walk and points:
                before = {point.name: point for point in points}[step.get("after", points[-1].name)]
                changes["start"] = str(before.runs[at][1] / MODEL_FILE)
            path = step.get("recipe", curve.get("recipe"))
            if quick:
                changes |= _shortened(path, changes, quick)
            name = f"{curve['name']}-{step['name']}-seed-{seed}"
            runs.append((read_recipe(path, changes), folder / name))
        points.append(Point(curve["name"], step["name"], runs, bool(walk)))
    return points


def _found_alpha(run: Run) -> float:
    records = map(json.loads, (run[1] / LOG_FILE).read_text().splitlines())
    return [float(record["alpha"]) for record in records if record.get("alpha")][-1]


def _shortened(path: Path, changes: dict[str, Any], quick: dict[str, Any]) -> dict[str, Any]:
    recipe = read_recipe(path, changes)
    epochs = {
        f"{stage}.epochs": min(quick["epochs"], getattr(recipe, stage).epochs)
        for stage in ("pretrain", "constrain", "finetune")
    }
    return {"network": quick["networks"].get(recipe.network, recipe.network), **epochs}


def _walks(curve: list[Point]) -> list[list[Run]]:
    """What has to be trained in this order; a run that depends on no other is alone."""
    if curve[0].in_walk:
        return [list(runs) for runs in zip(*(point.runs for point in curve), strict=True)]
    return [[run] for point in curve for run in point.runs]


def _kept(folder: Path, out: Path) -> dict[Path, Path]:
    """Where each file of a run that --logs keeps lies in ``out``."""
    endings = {MODEL_FILE: ".ect", RESULT_FILE: ".json", LOG_FILE: ".jsonl"}
    return {folder / name: out / (folder.name + ending) for name, ending in endings.items()}


def _has_ended(point: Point) -> bool:
    return all((folder / RESULT_FILE).exists() for _, folder in point.runs)


def _take_back(run: Run, out: Path) -> None:
    """Let a run that ended in another checkout have ended here."""
    kept = _kept(run[1], out)
    if (run[1] / RESULT_FILE).exists() or not all(path.exists() for path in kept.values()):
        return
    run[1].mkdir(parents=True, exist_ok=True)
    for own, path in kept.items():
        shutil.copy(path, own)


def _say_how_long(run: Run, out: Path) -> None:
    if (run[1] / RESULT_FILE).exists() or not (out / "results.json").exists():
        return
    for point in json.loads((out / "results.json").read_text())["points"]:
        for before in point["runs"]:
            if run[1].name == f"{point['curve']}-{point['name']}-seed-{before['seed']}":
                print(f"{run[1].name}: took {before['seconds'] / 60:.0f} minutes before")


def _collect(curve: list[Point], out: Path, logs: bool) -> list[dict[str, Any]]:
    """The results of a curve's points; the float network of a walk is that of its first step."""
    collected, floats = [], None
    for point in curve:
        results = []
        for recipe, folder in point.runs:
            result = train(recipe, folder)  # has ended: reads it, and checks the recipe
            for own, kept in _kept(folder, out).items():
                if logs or own.name == MODEL_FILE:
                    shutil.copy(own, kept)
            results.append(result)
        if point.in_walk:
            floats = floats or [result["float_error_percent"] for result in results]
            for result, error in zip(results, floats, strict=True):
                result["float_error_percent"] = error
        collected.append(_summary(point, results))
    return collected


def _summary(point: Point, results: list[dict[str, Any]]) -> dict[str, Any]:
    columns = {key: [result[key] for result in results] for key in AVERAGED}
    single = len(results) == 1
    return {
        "curve": point.curve,
        "name": point.name,
        "network": results[0]["network"],
        "data": results[0]["data"],
        "float_bytes": results[0]["float_bytes"],
        "alpha": point.alpha,
        "target_bytes": point.size,
        "runs": [{key: result[key] for key in KEPT} for result in results],
        "mean": {key: statistics.mean(values) for key, values in columns.items()},
        "std": {
            key: None if single else statistics.stdev(values) for key, values in columns.items()
        },
    }


def table_of(points: list[dict[str, Any]]) -> str:
    """The points as Markdown: means and standard deviations over seeds."""
    lines = [
        "| network / data | alpha | seeds | file bytes | ratio | "
        f"decoded {points[0]['runs'][0]['evaluated_on']} error | float | "
        "minutes a run |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for point in points:
        mean, std = point["mean"], point["std"]

        def spread(key: str, digits: int) -> str:
            text = f"{mean[key]:,.{digits}f}"  # noqa: B023 - called in this round alone
            return text if std[key] is None else f"{text} ± {std[key]:,.{digits}f}"  # noqa: B023

        alpha = f"{point['alpha']:.3g}"
        if point.get("target_bytes"):
            alpha += f", found for {point['target_bytes']:,}"
        lines.append(
            f"| {point['network']} / {point['data']} | {alpha} | {len(point['runs'])} | "
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
    several = any(point["std"]["file_bytes"] for point in points)
    axis.errorbar(
        [point["mean"]["file_bytes"] for point in points],
        [point["mean"]["decoded_error_percent"] for point in points],
        xerr=[point["std"]["file_bytes"] or 0 for point in points],
        yerr=[point["std"]["decoded_error_percent"] or 0 for point in points],
        fmt="o-",
        capsize=3,
        label="ectorch: files" + (", mean and standard deviation" if several else ""),
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
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.margins(0.25)
    axis.set_xlabel("size of the file")
    axis.tick_params(axis="x", labelsize=8)
    axis.set_ylabel(f"{points[0]['runs'][0]['evaluated_on']} error, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
