"""Bytes against held-out error of variants of a recipe, several seeds each, in one picture.

    python benchmarks/compare.py benchmarks/variants/relaxations.toml [--only NAME ...]

Writes benchmarks/results/<name>.json and .png, and .md where the variants name a baseline: the
bytes of each over those of the baseline's curve at equal held-out error. The test set is not
touched: training images are held out, and the decoded networks are evaluated on them. A run that
has ended in runs/ is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from trainings import Run, train_all

from ectorch.experiments.recipe import read_recipe
from ectorch.experiments.training import train

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RESULTS = Path(__file__).parent / "results"
COLLAPSED_PERCENT = 50
KEPT = ("seed", "evaluated_on", "file_bytes", "decoded_error_percent", "float_error_percent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", type=Path)
    parser.add_argument("--only", nargs="*", help="names of variants; writes no results")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    arguments = parser.parse_args()
    table = tomllib.loads(arguments.variants.read_text())
    name = arguments.variants.stem
    points = []
    for variant in table["variants"]:
        if arguments.only and variant["name"] not in arguments.only:
            continue
        key = variant["key"]
        for value in variant["values"]:
            changes = table["changes"] | variant.get("changes", {}) | {key: value}
            point = {"variant": variant["name"], "key": key, "value": value, "changes": changes}
            points.append(point | {"runs": [_run(table, name, point, s) for s in table["seeds"]]})
    train_all([[run] for point in points for run in point["runs"]], arguments.jobs)
    for point in points:
        results = [train(*run) for run in point["runs"]]  # they have ended: reads them
        point["runs"] = [{key: result[key] for key in KEPT} for result in results]
        point |= _summary(point["runs"])
    if arguments.only:
        return
    machine = {
        "processor": platform.machine(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    RESULTS.mkdir(exist_ok=True)
    written = {"recipe": table["recipe"], "points": points} | machine
    (RESULTS / f"{name}.json").write_text(json.dumps(written, indent=2) + "\n")
    _draw(points, RESULTS / f"{name}.png")
    if "baseline" in table:
        (RESULTS / f"{name}.md").write_text(table_of(points, table["baseline"]) + "\n")


def _run(table: dict[str, Any], name: str, point: dict[str, Any], seed: int) -> Run:
    recipe = read_recipe(Path(table["recipe"]), point["changes"] | {"seed": seed})
    assert recipe.holdout, "choices are made on held-out images"
    return recipe, Path("runs") / name / f"{point['variant']}-{point['value']}-{seed}"


def table_of(points: list[dict[str, Any]], baseline: str) -> str:
    """Each point beside the baseline's bytes at its error: log bytes piecewise linear in error."""
    curve = sorted(
        (point["mean_decoded_error_percent"], math.log(point["mean_file_bytes"]))
        for point in points
        if point["variant"] == baseline
    )
    lines = [
        "| variant | | file bytes | held-out error | bytes of the baseline there | ratio |",
        "|---|---|---|---|---|---|",
    ]
    for point in points:
        error, size = point["mean_decoded_error_percent"], point["mean_file_bytes"]
        equal = math.exp(_line(curve, error))
        lines.append(
            f"| {point['variant']} | {point['key'].split('.')[-1]} {point['value']} | "
            f"{size:,.0f} ± {point['std_file_bytes']:,.0f} | "
            f"{error:.2f} ± {point['std_decoded_error_percent']:.2f} % | {equal:,.0f} | "
            f"{size / equal:.2f} |"
        )
    return "\n".join(lines)


def _line(curve: list[tuple[float, float]], x: float) -> float:
    """Piecewise linear through ``curve``, sorted by x, and beyond its ends."""
    pieces = [*itertools.pairwise(curve)]
    (x0, y0), (x1, y1) = next((piece for piece in pieces if x <= piece[1][0]), pieces[-1])
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def _summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    summary = {}
    for key in ("file_bytes", "decoded_error_percent"):
        values = [run[key] for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        summary |= {f"mean_{key}": statistics.mean(values), f"std_{key}": spread}
    return summary


def _draw(points: list[dict[str, Any]], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    title = "lines: means over seeds, dots: seeds"
    collapsed = [p for p in points if p["mean_decoded_error_percent"] > COLLAPSED_PERCENT]
    if collapsed:
        names = ", ".join(f"{p['variant']} {p['value']}" for p in collapsed)
        title += f"; collapsed and not drawn: {names}"
    points = [point for point in points if point not in collapsed]
    for (variant, group), color in zip(
        itertools.groupby(points, key=lambda point: point["variant"]),
        plt.rcParams["axes.prop_cycle"].by_key()["color"],
        strict=False,
    ):
        rows = list(group)
        axis.plot(
            [row["mean_file_bytes"] for row in rows],
            [row["mean_decoded_error_percent"] for row in rows],
            "o-",
            color=color,
            label=variant,
        )
        runs = [run for row in rows for run in row["runs"]]
        axis.plot(
            [run["file_bytes"] for run in runs],
            [run["decoded_error_percent"] for run in runs],
            ".",
            color=color,
            alpha=0.4,
        )
    axis.set_xscale("log")
    axis.set_xlabel("bytes of the file")
    axis.set_ylabel("error on held-out images, % (decoded)")
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
