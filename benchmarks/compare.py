"""Bytes against held-out error of variants of a recipe, several seeds each, in one picture.

    python benchmarks/compare.py benchmarks/variants/relaxations.toml [--only NAME ...]

Writes benchmarks/results/<name>.json and .png. The test set is not touched: training images are
held out, and the decoded networks are evaluated on them. A run that has ended in runs/ is not
repeated, so several processes may share the work with --only, and one without it collects.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch

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
    parser.add_argument("--seeds", type=int, nargs="*")
    arguments = parser.parse_args()
    table = tomllib.loads(arguments.variants.read_text())
    name = arguments.variants.stem
    points = []
    for variant in table["variants"]:
        if arguments.only and variant["name"] not in arguments.only:
            continue
        for value in variant["values"]:
            changes = table["changes"] | variant.get("changes", {}) | {variant["key"]: value}
            label = f"{variant['name']}-{value}"
            runs = []
            for seed in arguments.seeds or table["seeds"]:
                recipe = read_recipe(Path(table["recipe"]), changes | {"seed": seed})
                assert recipe.holdout, "choices are made on held-out images"
                result = train(recipe, Path("runs") / name / f"{label}-{seed}")
                runs.append({key: result[key] for key in KEPT})
                print(label, runs[-1], flush=True)
            point = {"variant": variant["name"], "key": variant["key"], "value": value}
            points.append(point | {"changes": changes, "runs": runs} | _summary(runs))
    if arguments.only or arguments.seeds:
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
