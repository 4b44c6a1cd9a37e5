"""Run a recipe over several seeds; write expected.json and the first seed's file beside it.

    python benchmarks/seeds.py recipes/lenet-300-100/recipe.toml --seeds 0 1 2 --readme README.md

With --readme, the table of results between the two marks in that file is written anew. Runs go
below runs/, resume when interrupted, and are not repeated when they are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from ectorch.experiments.recipe import read_recipe
from ectorch.experiments.result import MODEL_FILE
from ectorch.experiments.training import train

KEPT = (
    "seed",
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
AVERAGED = ("file_bytes", "float_error_percent", "decoded_error_percent")
BEGIN, END = "<!-- results -->", "<!-- end of results -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--readme", type=Path)
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        recipe = read_recipe(arguments.recipe, {"seed": seed})
        out = arguments.runs / f"{recipe.name}-seed-{seed}"
        results.append(train(recipe, out))
        print({key: results[-1][key] for key in AVERAGED}, flush=True)
        if seed == arguments.seeds[0]:
            shutil.copy(out / MODEL_FILE, arguments.recipe.with_name(f"seed-{seed}.ect"))
    expected = summarise(results)
    text = json.dumps(expected, indent=2) + "\n"
    arguments.recipe.with_name("expected.json").write_text(text)
    if arguments.readme:
        before, _, rest = arguments.readme.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        arguments.readme.write_text(f"{before}{BEGIN}\n{table(expected)}\n{END}{after}")


def summarise(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs, mean and standard deviation over seeds, and where it was run."""
    columns = {key: [result[key] for result in results] for key in AVERAGED}
    first = results[0]
    return {
        "name": first["name"],
        "data": first["data"],
        "float_bytes": first["float_bytes"],
        "runs": [{key: result[key] for key in KEPT} for result in results],
        "mean": {key: statistics.mean(values) for key, values in columns.items()},
        "std": {key: statistics.stdev(values) for key, values in columns.items()},
        "versions": first["versions"],
        "machine": first["machine"],
    }


def table(expected: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        f"{expected['name']} on {expected['data']}, {expected['float_bytes']:,} bytes as 32-bit "
        "floats; the file's bytes, and the error of the network decoded from it:",
        "",
        "| seed | file bytes | ratio | float test error | decoded test error |",
        "|---|---|---|---|---|",
    ]
    for run in expected["runs"]:
        lines.append(
            f"| {run['seed']} | {run['file_bytes']:,} | {run['ratio']:.0f} | "
            f"{run['float_error_percent']:.2f} % | {run['decoded_error_percent']:.2f} % |"
        )
    mean, std = expected["mean"], expected["std"]
    lines.append(
        f"| mean ± std | {mean['file_bytes']:,.0f} ± {std['file_bytes']:,.0f} | "
        f"{expected['float_bytes'] / mean['file_bytes']:.0f} | "
        f"{mean['float_error_percent']:.2f} ± {std['float_error_percent']:.2f} % | "
        f"{mean['decoded_error_percent']:.2f} ± {std['decoded_error_percent']:.2f} % |"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
