"""What `finalize`, `remove_dead_units` and `sort_units` change in random networks: nothing.

    python benchmarks/rewrites.py --networks 2000 --out benchmarks/results/rewrites.json

Every network of tests/cases/random_networks.py, by its seed, is rewritten in each way; outputs
before and after shall be equal up to rounding. The result says how many networks each way touched,
and the seeds of those whose outputs it changed.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from provenance import provenance, write_results
from torch import Tensor, nn

import ectorch as ec
from ectorch.rewrite.norms import discretize_norms
from ectorch.rewrite.units import remove_dead_units

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/cases"))
from random_networks import random_network

from ectorch.rewrite.units import sort_units

TOLERANCE = 1e-4  # of the largest output

REWRITES: dict[str, Callable[[nn.Module, Tensor], object]] = {
    "finalize": lambda model, inputs: ec.finalize(model),
    "finalize, forward_only": lambda model, inputs: ec.finalize(model, forward_only=True),
    "finalize with batches": lambda model, inputs: ec.finalize(model, [inputs]),
    "remove_dead_units": lambda model, inputs: remove_dead_units(model, forward_only=True),
    "sort_units": lambda model, inputs: sort_units(model, forward_only=True),
}


@dataclass(frozen=True)
class Change:
    seed: int
    rewrite: str
    touched: bool
    same: bool


def change_all(seeds: Iterable[int]) -> list[Change]:
    return [change(*random_network(seed), seed, rewrite) for seed in seeds for rewrite in REWRITES]


@torch.no_grad()
def change(net: nn.Module, inputs: Tensor, seed: int, rewrite: str) -> Change:
    if rewrite.startswith("finalize"):  # what it does to norms is not what is looked at
        discretize_norms(net, [inputs] if rewrite.endswith("batches") else ())
    before, expected = copy.deepcopy(net.state_dict()), net(inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # outputs that had to be compared to see a fault
        try:
            REWRITES[rewrite](net, inputs)
        except UserWarning:
            return Change(seed, rewrite, True, False)
    after = net.state_dict()
    touched = any(
        after[name].shape != before[name].shape or not torch.equal(after[name], before[name])
        for name in before
        if "weight" in name and before[name].ndim > 1
    )
    close = (net(inputs) - expected).abs().max() <= TOLERANCE * (expected.abs().max() + 1e-6)
    return Change(seed, rewrite, touched, bool(close))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    made = provenance()
    changes = change_all(range(arguments.networks))
    rows = {
        name: {
            "touched": sum(each.touched for each in changes if each.rewrite == name),
            "changed_seeds": [e.seed for e in changes if e.rewrite == name and not e.same],
        }
        for name in REWRITES
    }
    made["seeds"] = f"0 to {arguments.networks - 1}"
    write_results(arguments.out, made | {"tolerance": TOLERANCE, "rewrites": rows})
    print(json.dumps(rows, indent=2))
    sys.exit(any(row["changed_seeds"] for row in rows.values()))


if __name__ == "__main__":
    main()
