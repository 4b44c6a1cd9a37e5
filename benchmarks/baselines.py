"""Other ways to store the float networks of a table of curves: real bytes and errors, for reports.

    python benchmarks/baselines.py benchmarks/curves/mnist.toml --out results/mnist

Trains what comes before the constraint of each curve's first point and seed, checks that its error
is the one in results.json, and writes baselines.json beside it, where `ectorch report` finds it.
Float networks go below runs/<name of the table>-float/, and are not trained again when they are
there; that of a walk's first step is taken from the walk's run.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from plans import plan, read_table
from provenance import provenance, write_results

from ectorch.experiments.baselines import BASELINES_FILE, add_baselines, read_baselines
from ectorch.experiments.result import FLOAT_FILE
from ectorch.experiments.training import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curves", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    made, table = provenance(), read_table(arguments.curves)
    kept = json.loads((arguments.out / "results.json").read_text())["points"]
    errors = {p["curve"]: p["runs"][0]["float_error_percent"] for p in reversed(kept)}
    for curve in table["curves"]:
        if curve["name"] not in errors:
            continue
        recipe, folder = plan(curve, arguments.runs / arguments.curves.stem)[0].runs[0]
        if recipe.constrain.epochs:
            recipe = replace(recipe, constrain=replace(recipe.constrain, epochs=0))
            folder = arguments.runs / f"{arguments.curves.stem}-float" / curve["name"]
        result = train(recipe, folder)
        if result["float_error_percent"] != errors[curve["name"]]:
            raise SystemExit(
                f"{folder}: a float error of {result['float_error_percent']} %, but that of "
                f"{arguments.out} is {errors[curve['name']]} %: another machine or version"
            )
        task = recipe.network, recipe.data, result["evaluated_on"]
        if not read_baselines(arguments.out, task):
            add_baselines(arguments.out, task, recipe.as_dict(), folder / FLOAT_FILE)
            _name_commit(arguments.out / BASELINES_FILE, made)
        for row in read_baselines(arguments.out, task):
            print(
                f"{recipe.network} / {recipe.data}, {row['name']}: {row['file_bytes']:,} bytes, "
                f"{row['error_percent']:.2f} %",
                flush=True,
            )


def _name_commit(path: Path, made: dict[str, Any]) -> None:
    """In the rows that were added last."""
    rows = json.loads(path.read_text())
    origin = {key: made[key] for key in ("commit", "dirty")}
    write_results(path, [origin | row for row in rows])  # what a row says itself stays


if __name__ == "__main__":
    main()
