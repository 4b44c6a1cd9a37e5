"""Bytes against held-out error of variants of a recipe, several seeds each, in one picture.

    python benchmarks/compare.py benchmarks/variants/relaxations.toml [--only NAME ...]

Each variant is a curve of `harness`, its points are the values of one key. Writes into --out
(benchmarks/results/<name of the table>) results.json, curve.png and results.md; where the variants
name a baseline, with the bytes of each over those of the baseline's curve at equal held-out error.
The test set is not touched: training images are held out, and the decoded networks are evaluated on
them. A run that has ended in runs/ is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from harness import draw_curve, run_curves
from plans import Table, read_table
from provenance import RESULTS, stamp

from ectorch.experiments.recipe import read_recipe
from ectorch.report.gather import ERROR, POINTS_FILE, Point, front
from ectorch.report.text import markdown_table

COLLAPSED_PERCENT = 50
COLUMNS = ("variant", "", "file bytes", "held-out error", "commit")
AT_EQUAL_ERROR = ("bytes of the baseline there", "ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", nargs="*", help="names of variants to train")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    arguments = parser.parse_args()
    table, name = read_table(arguments.variants), arguments.variants.stem
    out = arguments.out or RESULTS / name
    curves = {"curves": curves_of(table)}
    points = run_curves(curves, Path("runs") / name, out, arguments.jobs, arguments.only)
    written = json.loads((out / POINTS_FILE).read_text())
    shown = table_of(points, table.get("baseline"))
    (out / "results.md").write_text(f"{shown}\n\n{stamp(written)}\n")
    draw(points, out / "curve.png")


def curves_of(table: Table) -> list[Table]:
    """A curve a variant: points of one name have their values one after the other."""
    recipe = read_recipe(table["recipe"], table["changes"])
    assert recipe.holdout, "choices are made on held-out images"
    curves: dict[str, Table] = {}
    for variant in table["variants"]:
        shared = {"name": variant["name"], "recipe": table["recipe"], "seeds": table["seeds"]}
        curve = curves.setdefault(variant["name"], shared | {"points": []})
        key = variant["key"]
        for value in variant["values"]:
            changes = table["changes"] | variant.get("changes", {}) | {key: value}
            curve["points"].append({"name": f"{key.split('.')[-1]}-{value}", "changes": changes})
    return list(curves.values())


def table_of(points: Sequence[Point], baseline: str | None) -> str:
    """Each point beside the baseline's bytes at its error: log bytes piecewise linear in error."""
    own = [point for point in points if point.first.curve == baseline]
    curve = [(point.mean(ERROR), math.log(point.mean("file_bytes"))) for point in front(own)][::-1]
    rows = []
    for point in points:
        size = point.text("file_bytes", ",.0f")
        row = [point.first.curve, point.first.point, size, f"{point.text(ERROR, '.2f')} %"]
        row.append(", ".join(point.commits))
        if curve:
            equal = math.exp(_line(curve, point.mean(ERROR)))
            row += [f"{equal:,.0f}", f"{point.mean('file_bytes') / equal:.2f}"]
        rows.append(row)
    return markdown_table([*COLUMNS, *(AT_EQUAL_ERROR if curve else ())], rows)


def _line(curve: list[tuple[float, float]], x: float) -> float:
    """Piecewise linear through ``curve``, sorted by x, and beyond its ends; or its one y."""
    if len(curve) == 1:
        return curve[0][1]
    pieces = [*itertools.pairwise(curve)]
    (x0, y0), (x1, y1) = next((piece for piece in pieces if x <= piece[1][0]), pieces[-1])
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def draw(points: Sequence[Point], path: Path) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    title = "means and standard deviations over seeds"
    collapsed = [point for point in points if point.mean(ERROR) > COLLAPSED_PERCENT]
    if collapsed:
        title += f"; collapsed and not drawn: {', '.join(point.name for point in collapsed)}"
    left = [point for point in points if point not in collapsed]
    for name, group in itertools.groupby(left, key=lambda point: point.first.curve):
        draw_curve(axis, group, name)
    axis.set_xlabel("bytes of the file")
    axis.set_title(title, fontsize=9)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
