"""What coding alone gives: float networks, rounded to a grid and stored, without any training.

    python benchmarks/posthoc.py runs/ablation --out benchmarks/results/posthoc.md

Takes the float networks of the runs of compare.py (their float.safetensors), rounds every weight
with one step a tensor, ``share`` of the tensor's standard deviation, to zero below ``dead`` steps,
leaves biases in float16, and evaluates what the file decodes to on the held-out images.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ectorch.experiments import data
from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import parse_recipe, under_present_keys
from ectorch.storage.files import load, save

SHARES = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
DEAD = (0.5, 0.7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--variant", default="all-0.3")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folders = sorted(arguments.runs.glob(f"{arguments.variant}-*"))
    points = []
    for dead in DEAD:
        for share in SHARES:
            runs = [measure(folder, share, dead) for folder in folders]
            points.append({"share": share, "dead": dead, "runs": runs})
            print(points[-1], flush=True)
    lines = ["| step / deviation | zero below | file bytes | held-out error |", "|---|---|---|---|"]
    for point in points:
        size, error = (
            statistics.mean(run[key] for run in point["runs"]) for key in ("bytes", "error")
        )
        lines.append(f"| {point['share']} | {point['dead']} steps | {size:,.0f} | {error:.2f} % |")
    arguments.out.write_text("\n".join(lines) + "\n")
    arguments.out.with_suffix(".json").write_text(json.dumps(points, indent=2) + "\n")


def measure(folder: Path, share: float, dead: float) -> dict[str, float]:
    """Bytes and held-out error of one run's float network, rounded."""
    recipe = parse_recipe(
        under_present_keys(json.loads((folder / "result.json").read_text())["recipe"])
    )
    state = safetensors.torch.load_file(folder / "float.safetensors")
    file = save({name: rounded(value, share, dead) for name, value in state.items()})
    model = NETWORKS[recipe.network]()
    model.load_state_dict(load(file))
    _, held_out = data.hold_out(data.load(recipe.data).train, recipe.holdout)
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
