"""Which monotone code lengths train better: held-out error and file bytes, three seeds each.

    python benchmarks/code_lengths.py recipes/lenet-300-100/recipe.toml

Writes benchmarks/results/code_lengths.json. The test set is not touched: 5,000 training images
are held out, and the decoded networks are evaluated on them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from pathlib import Path
from typing import Any

import torch

from ectorch.experiments.recipe import read_recipe
from ectorch.experiments.training import train

KEPT = ("seed", "evaluated_on", "file_bytes", "decoded_error_percent")
RULES = ("running_maximum", "isotonic")
RESULTS = Path(__file__).parent / "results/code_lengths.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for rule in RULES:
        last = []
        for seed in arguments.seeds:
            recipe = read_recipe(
                arguments.recipe,
                {
                    "seed": seed,
                    "holdout": 5000,
                    "threads": arguments.threads,
                    "constrain.config.lengths": rule,
                },
            )
            result = train(recipe, Path("runs") / f"code-lengths-{rule}-{seed}")
            last.append({key: result[key] for key in KEPT})
            print(rule, seed, last[-1], flush=True)
        rows.append({"lengths": rule, "runs": last} | _summary(last))
    RESULTS.parent.mkdir(exist_ok=True)
    machine = {"processor": platform.machine(), "torch": torch.__version__}
    table = {"recipe": str(arguments.recipe), "seeds": arguments.seeds, "rows": rows} | machine
    RESULTS.write_text(json.dumps(table, indent=2) + "\n")


def _summary(runs: list[dict[str, Any]]) -> dict[str, float]:
    summary = {}
    for key in ("file_bytes", "decoded_error_percent"):
        values = [run[key] for run in runs]
        summary |= {f"mean_{key}": statistics.mean(values), f"std_{key}": statistics.stdev(values)}
    return summary


if __name__ == "__main__":
    main()
