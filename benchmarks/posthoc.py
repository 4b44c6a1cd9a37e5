"""What coding alone gives: float networks, rounded to a grid and stored, without any training.

    python benchmarks/posthoc.py --out benchmarks/results/posthoc.json

Trains the float network of a recipe for each seed, below runs/posthoc, where it is not repeated.
Rounds every weight with one step a tensor, ``share`` of the tensor's standard deviation, to zero
below ``dead`` steps, leaves biases in float16, and evaluates what the file decodes to on the
held-out images. Writes a table beside --out.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from provenance import provenance, stamp, write_results
from torch import Tensor

from ectorch.experiments import data
from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import read_recipe
from ectorch.experiments.result import FLOAT_FILE
from ectorch.experiments.split import hold_out
from ectorch.experiments.training import train
from ectorch.report.text import markdown_table
from ectorch.storage.files import load, save

SHARES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
DEAD = (0.5, 0.7)
CHANGES = {"holdout": 5000, "constrain.epochs": 0, "threads": 1}
COLUMNS = ("step / deviation", "zero below", "file bytes", "held-out error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="lenet-300-100")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    made = provenance(arguments.seeds)
    floats = []
    for seed in arguments.seeds:
        recipe = read_recipe(arguments.recipe, CHANGES | {"seed": seed})
        folder = Path("runs/posthoc") / f"{recipe.name}-seed-{seed}"
        train(recipe, folder)
        floats.append(safetensors.torch.load_file(folder / FLOAT_FILE))
    held_out = hold_out(data.load(recipe.data).train, recipe.holdout)[1]
    points = []
    for dead in DEAD:
        for share in SHARES:
            runs = [measure(recipe.network, state, share, dead, held_out) for state in floats]
            points.append({"share": share, "dead": dead, "runs": runs})
            print(points[-1], flush=True)
    written = made | {"network": recipe.network, "data": recipe.data, "points": points}
    write_results(arguments.out, written)
    arguments.out.with_suffix(".md").write_text(f"{table_of(points)}\n\n{stamp(written)}\n")


def table_of(points: list[dict[str, Any]]) -> str:
    rows = []
    for point in points:
        size, error = (
            statistics.mean(run[key] for run in point["runs"]) for key in ("bytes", "error")
        )
        rows.append([f"{point['share']}", f"{point['dead']} steps", f"{size:,.0f}"])
        rows[-1].append(f"{error:.2f} %")
    return markdown_table(COLUMNS, rows)


def measure(
    network: str, state: dict[str, Tensor], share: float, dead: float, held_out: data.Split
) -> dict[str, float]:
    """Bytes and held-out error of a float network, rounded."""
    file = save({name: rounded(value, share, dead) for name, value in state.items()})
    model = NETWORKS[network]()
    model.load_state_dict(load(file))
    return {"bytes": len(file), "error": evaluate(model.eval(), held_out).error_percent}


def rounded(value: Tensor, share: float, dead: float) -> Tensor:
    if value.ndim < 2:
        return value.half().float()
    step = (share * value.std()).bfloat16().float()
    index = (value.abs() / step + 1 - dead).floor()
    return value.sign() * index * step + 0.0


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
