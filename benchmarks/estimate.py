"""How far the live size is from the file that would be written then, all along a training.

    python benchmarks/estimate.py --out benchmarks/results/estimate.json

The loop of the README on MNIST (LeNet-300-100, no float training before): every hundredth step
measures the network with one `SizeMeter`, as a training does, and writes the file. The largest
relative gap is what counts: the live size shall be within 1 % and 64 bytes of the file.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from provenance import provenance, write_results
from torch.nn import functional as F

import ectorch as ec
from ectorch.experiments import data
from ectorch.experiments.inputs import pixels
from ectorch.experiments.networks import NETWORKS
from ectorch.storage.files import save

EVERY, BATCH = 100, 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--network", default="lenet-300-100")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--alpha", type=float, default=0.3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = provenance(seeds=[0])
    torch.manual_seed(0)
    train = data.load(arguments.data).train
    model = ec.prepare(NETWORKS[arguments.network]())
    optimizer = torch.optim.Adam(ec.param_groups(model, lr=4e-3))
    steps = arguments.epochs * (len(train) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    meter, rows = ec.SizeMeter(threads=1), []
    for step in range(steps):
        batch = train[torch.randint(len(train), (BATCH,))]
        loss = F.cross_entropy(model(pixels(batch.inputs)), batch.labels)
        alpha = arguments.alpha * ec.ramp(step / steps)
        loss = loss + ec.penalty(model, alpha, examples=len(train))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % EVERY == 0:
            rows.append(measure(model, meter, step + 1))
            print(rows[-1], flush=True)
    worst = max(rows, key=lambda row: abs(row["relative_gap"]))
    written = made | {
        "network": arguments.network,
        "data": arguments.data,
        "worst": worst,
        "all_within_1_percent_and_64_bytes": all(
            abs(row["live_bytes"] - row["file_bytes"]) <= 0.01 * row["file_bytes"] + 64
            for row in rows
        ),
        "rows": rows,
    }
    write_results(arguments.out, written)
    print(f"largest relative gap {worst['relative_gap']:+.3%} at step {worst['step']}")


def measure(model: torch.nn.Module, meter: ec.SizeMeter, step: int) -> dict[str, float]:
    """The live size, and that of the file of the very same network."""
    live = meter(model).total
    file = len(save(ec.finalize(copy.deepcopy(model)), threads=1))
    return {
        "step": step,
        "live_bytes": live,
        "file_bytes": file,
        "relative_gap": live / file - 1,
    }


if __name__ == "__main__":
    main()
