"""What alpha, levels, reach and the length of a training do to a small network: accuracy, bytes.

    python benchmarks/first_network.py --out benchmarks/results/first-network.json

The network of docs/guide/first-network.md, two convolutions with batch norms, on scikit-learn's
digits: 1,400 images train, 397 test. Every run is that page's loop with one thing changed. Nothing
is chosen by what the test images say. The tables of the pages are written anew; --redraw writes
them from the file and trains nothing.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import tempfile
import warnings
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from provenance import ROOT, provenance, stamp, write_block, write_results
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

import ectorch as ec

TRAINED, BATCH, SEEDS = 1400, 64, (0, 1, 2)
FLOAT_LR, FLOAT_EPOCHS = 1e-3, 30
DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Setting:
    """One training.

    Attributes:
        trained: starts from a network trained in float, not from random values.
    """

    alpha: float = 0.1
    levels: int = 33
    reach: float = 1.33
    epochs: int = 20
    lr: float = 4e-3
    rise: float = 0.5
    peak: float = 2.5
    fall: float = 0.3
    trained: bool = False


DEFAULT = Setting()
HIGH = replace(DEFAULT, alpha=3.0)
# table -> what a row is called -> its setting
TABLES: dict[str, dict[str, Setting]] = {
    "alpha": {
        f"{alpha:g}": replace(DEFAULT, alpha=alpha)
        for alpha in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
    },
    "levels": {f"{levels}": replace(DEFAULT, levels=levels) for levels in (3, 5, 9, 33, 129)},
    "reach": {
        f"{reach:g}": replace(DEFAULT, reach=float(reach)) for reach in (0.7, 1.33, 3, 8, 16)
    },
    "epochs": {f"{epochs}": replace(DEFAULT, epochs=epochs) for epochs in (5, 10, 20, 40)},
    "start": {
        "random values": DEFAULT,
        "random values, 3 epochs": replace(DEFAULT, epochs=3),
        "a trained network": replace(DEFAULT, trained=True),
        "a trained network, 3 epochs": replace(DEFAULT, trained=True, epochs=3),
        "a trained network, 3 epochs, reach 16, lr 1e-3": replace(
            DEFAULT, trained=True, epochs=3, reach=16.0, lr=1e-3
        ),
    },
    "remedies": {
        "alpha 3": HIGH,
        "alpha 3, twice the epochs": replace(HIGH, epochs=40),
        "alpha 3, no overshoot (peak 1)": replace(HIGH, peak=1.0),
        "alpha 3, a longer rise (0.7)": replace(HIGH, rise=0.7),
        "alpha 3, from a trained network": replace(HIGH, trained=True),
        "alpha 1": replace(DEFAULT, alpha=1.0),
    },
}
PAGES = {
    "alpha": ("guide/first-network.md", "how-to/alpha-levels-reach.md"),
    "levels": ("how-to/alpha-levels-reach.md",),
    "reach": ("how-to/alpha-levels-reach.md",),
    "epochs": ("how-to/alpha-levels-reach.md",),
    "start": ("how-to/trained-network.md",),
    "remedies": ("how-to/accuracy-collapses.md",),
}
KEYS = ("accuracy", "file_bytes", "nonzero_share")


def network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )


def train_float(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    optimizer = torch.optim.Adam(model.parameters(), FLOAT_LR)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def shrink(model: nn.Module, images: Tensor, labels: Tensor, setting: Setting) -> None:
    """The loop of the page."""
    ec.prepare(model, ec.Config(levels=setting.levels, reach=setting.reach))
    optimizer = torch.optim.Adam(ec.param_groups(model, lr=setting.lr))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.epochs)
    for epoch in range(setting.epochs):
        progress = epoch / setting.epochs
        alpha = setting.alpha * ec.ramp(progress, setting.rise, setting.peak, setting.fall)
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss = loss + ec.penalty(model, alpha, examples=len(images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    ec.finalize(model, batches=[images])


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return (model.eval()(images).argmax(1) == labels).double().mean().item()


@functools.cache  # tables have the default in common
def run(setting: Setting | None, seed: int) -> dict[str, float]:
    """What one training came to; without a setting that of the float network."""
    torch.manual_seed(seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float()[:, None] / 16, torch.tensor(digits.target)
    order = torch.randperm(len(images))
    trained, test = ((images[i], labels[i]) for i in (order[:TRAINED], order[TRAINED:]))
    model = network()
    if setting is None or setting.trained:
        train_float(model, *trained, FLOAT_EPOCHS)
    if setting is not None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*has no nonzero left")  # told by the table
            shrink(model, *trained, setting)
    with tempfile.TemporaryDirectory() as folder:
        size = ec.save_model(model, path := Path(folder, "model.ect"))
        decoded = ec.load_model(network(), path)
    weights = [p for p in decoded.parameters() if p.ndim > 1]
    return {
        "accuracy": accuracy(decoded, *test),
        "file_bytes": size,
        "nonzero_share": sum(int(p.count_nonzero()) for p in weights)
        / sum(p.numel() for p in weights),
    }


def summary(name: str, setting: Setting | None) -> dict[str, Any]:
    runs = [run(setting, seed) for seed in SEEDS]
    columns = {key: [each[key] for each in runs] for key in KEYS}
    row = {
        "name": name,
        "setting": setting and asdict(setting),
        "mean": {key: statistics.fmean(column) for key, column in columns.items()},
        "std": {key: statistics.stdev(column) for key, column in columns.items()},
        "runs": runs,
    }
    print(name, row["mean"], flush=True)
    return row


def table_of(written: dict[str, Any], table: str) -> str:
    """One table as Markdown: means and standard deviations over the seeds."""
    head = "" if table in ("start", "remedies") else f"{table} "
    lines = [
        f"| {head}| accuracy of the decoded network | file bytes | nonzero weights |",
        "|---|---|---|---|",
    ]
    for row in [written["float"], *written["tables"][table]]:
        mean, std = row["mean"], row["std"]
        lines.append(
            f"| {row['name']} | {mean['accuracy']:.3f} ± {std['accuracy']:.3f} "
            f"| {mean['file_bytes']:,.0f} ± {std['file_bytes']:,.0f} "
            f"| {100 * mean['nonzero_share']:.0f} % |"
        )
    seeds = f"mean and standard deviation over {len(written['seeds'])} seeds"
    return "\n".join([*lines, "", f"{stamp(written)} {seeds[0].upper()}{seeds[1:]}."])


def write_pages(written: dict[str, Any]) -> None:
    for table, pages in PAGES.items():
        for page in pages:
            write_block(DOCS / page, f"first-network {table}", table_of(written, table))


def measured() -> dict[str, Any]:
    torch.set_num_threads(1)
    return provenance(SEEDS, ("scikit-learn",)) | {
        "float": summary("float, not constrained", None),
        "tables": {
            table: [summary(name, setting) for name, setting in rows.items()]
            for table, rows in TABLES.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--redraw", action="store_true", help="train nothing: tables from --out")
    arguments = parser.parse_args()
    if not arguments.redraw:
        write_results(arguments.out, measured())
    write_pages(json.loads(arguments.out.read_text()))


if __name__ == "__main__":
    main()
