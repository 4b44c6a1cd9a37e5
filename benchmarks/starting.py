"""What `prepare` does to a trained network at once, and what training makes of it, by reach.

    python benchmarks/starting.py --out benchmarks/results/starting.json

scikit-learn's digits: 1,400 images train, 397 test; 30 float epochs, then 20 constrained ones,
three seeds. Nothing is chosen by what the test images say. The table of the page is written anew.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from provenance import ROOT, provenance, stamp, write_block, write_results
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.report.text import markdown_table

TRAINED, BATCH, ALPHA, SEEDS = 1400, 64, 0.1, (0, 1, 2)
FLOAT_EPOCHS, EPOCHS, FLOAT_LR = 30, 20, 1e-3
LR_OF_REACH = {1.33: 4e-3, 16.0: 1e-3}
LOOKED_AT = 5  # epochs after prepare
KEYS = ("float", "prepared", "on_the_way", "snapshot", "finalized", "file_bytes")


def dense() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def convolutional() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


NETWORKS = {"64-100-10": dense, "two convolutions with batch norms": convolutional}


def train(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    lr: float,
    constrained: bool,
    look: Callable[[], None] = lambda: None,
) -> None:
    images, labels = data
    groups = ec.param_groups(model, lr=lr) if constrained else model.parameters()
    optimizer = torch.optim.Adam(groups, lr)
    for epoch in range(epochs := EPOCHS if constrained else FLOAT_EPOCHS):
        if epoch == LOOKED_AT:
            look()
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            if constrained:
                alpha = ALPHA * ec.ramp(epoch / epochs)
                loss = loss + ec.penalty(model, alpha, examples=len(images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    images, labels = data
    right = (model.eval()(images).argmax(1) == labels).double().mean().item()
    model.train()
    return right


def run(network: str, reach: float, seed: int) -> dict[str, float]:
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    order = torch.randperm(len(images))
    trained, test = ((images[i], labels[i]) for i in (order[:TRAINED], order[TRAINED:]))
    model = NETWORKS[network]()
    train(model, trained, FLOAT_LR, constrained=False)
    found = {"float": accuracy(model, test)}
    ec.prepare(model, ec.Config(reach=reach))
    found["prepared"] = accuracy(model, test)

    def look() -> None:
        found["on_the_way"] = accuracy(model, test)
        found["snapshot"] = accuracy(ec.snapshot(model, trained[0].split(BATCH)), test)

    train(model, trained, LR_OF_REACH[reach], constrained=True, look=look)
    ec.finalize(model, trained[0].split(BATCH))
    found["finalized"] = accuracy(model, test)
    with tempfile.TemporaryDirectory() as folder:
        found["file_bytes"] = ec.save_file(model, Path(folder, "model.ect"))
    return found


def summary(network: str, reach: float) -> dict[str, Any]:
    runs = [run(network, reach, seed) for seed in SEEDS]
    means = {key: statistics.fmean(each[key] for each in runs) for key in KEYS}
    print(network, reach, means, flush=True)
    return {"network": network, "reach": reach, "mean": means, "runs": runs}


def table_of(written: dict[str, Any]) -> str:
    columns = ("network", "reach", "float", "just prepared (worst seed)")
    columns += (f"after {LOOKED_AT} epochs", "as a snapshot", "finalized", "file bytes")
    rows = []
    for row in written["rows"]:
        mean, worst = row["mean"], min(each["prepared"] for each in row["runs"])
        shown = [f"{mean[key]:.3f}" for key in KEYS[:-1]]
        shown[1] += f" ({worst:.3f})"
        rows.append([row["network"], f"{row['reach']:g}", *shown, f"{mean['file_bytes']:,.0f}"])
    return f"{markdown_table(columns, rows)}\n\n{stamp(written)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    made = provenance(SEEDS)
    rows = [summary(network, reach) for network in NETWORKS for reach in LR_OF_REACH]
    written = made | {"rows": rows}
    write_results(arguments.out, written)
    write_block(ROOT / "docs/guide/training.md", "starting", table_of(written))


if __name__ == "__main__":
    main()
