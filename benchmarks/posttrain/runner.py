"""Real files of the trained networks: made to sizes, loaded back, compared, and judged.

    python benchmarks/posttrain [--networks NAME ...] [--methods NAME ...] [--seeds 0 1 2]

Files go to a temporary folder, points to runs/posttrain/points.jsonl as they are measured, and
those of the same sources are not measured again. At the end benchmarks/results/posttrain.json,
.md and .svg are written from the points, beside what posttrain-nncodec.json says of NNCodec:
--report does only that.

A file is what `ectorch.save_model` writes, its size that of the file. It is loaded into the float
network, has to be what was saved, bit for bit, and the quality is that of the loaded network on the
test data, once. Nothing is chosen by it. A seed draws the calibration inputs; what uses none is
measured once.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from pathlib import Path

import torch
from provenance import RESULTS, ROOT, git, provenance, write_results
from torch import nn

import ectorch as ec
from posttrain.log import Row, append_row, find_row, read_rows
from posttrain.methods import METHODS
from posttrain.networks import NETWORKS, load
from posttrain.report import as_markdown, draw
from posttrain.trained import Trained

LOG = ROOT / "runs/posttrain/points.jsonl"
OUT = RESULTS / "posttrain.json"
PEER = RESULTS / "posttrain-nncodec.json"
SEEDLESS = ("data-free", "nearest")
BITS = {  # a parameter, of the files that are asked for
    "mnist-cnn": (0.2, 0.25, 0.32, 0.4, 0.5, 0.65, 0.8, 1.0, 1.3, 1.7),
    "cifar10-cnn": (0.7, 0.9, 1.1, 1.4, 1.7, 2.0, 2.4, 2.8, 3.3, 4.0),
    "g2p-en": (1.3, 1.5, 1.75, 2.0, 2.3, 2.6, 3.0, 3.4, 3.8, 4.4),
    "minilm": (2.0, 2.5, 3.0, 3.5, 4.0, 4.6),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--log", type=Path, default=LOG)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--peer", type=Path, default=PEER, help="results of NNCodec")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    made = provenance(arguments.seeds)
    if not arguments.report:
        for name in arguments.networks:
            for method in arguments.methods:
                seeds = arguments.seeds[: 1 if method in SEEDLESS else None]
                for seed in seeds:
                    measure(name, method, seed, arguments.log)
    rows = [row for row in read_rows(arguments.log) if row["sources"] == sources()]
    peer = json.loads(arguments.peer.read_text())
    write_results(arguments.out, made | {"points": rows})
    text = as_markdown(rows, peer, made)
    arguments.out.with_suffix(".md").write_text(text)
    draw(rows, peer, arguments.out.with_suffix(".svg"))


def measure(name: str, method: str, seed: int, log: Path) -> None:
    """Measure what the log lacks of a network, method and seed."""
    known, own = read_rows(log), sources()
    for bits in BITS[name]:
        key = {"network": name, "method": method, "seed": seed, "bits": bits, "sources": own}
        if find_row(known, key) is None:
            row = key | point(load(name, seed), method, bits, seed)
            append_row(log, row)
            print(json.dumps(row), flush=True)


def point(trained: Trained, method: str, bits: float, seed: int) -> Row:
    """Make a file, load it back, and judge what was loaded.

    Raises:
        ValueError: where the file is larger than asked for, or gives other tensors than saved.
    """
    loaded = copy.deepcopy(trained.model)
    target = int(bits * trained.parameters / 8)
    start = time.perf_counter()
    network = METHODS[method](trained, target, seed)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.ect"
        ec.save_model(network, path)
        size = path.stat().st_size
        ec.load_model(loaded, path)
    if size > target:
        raise ValueError(f"{trained.name}, {method}: {size} bytes, asked for {target}")
    check_equal(network, loaded)
    more = {name: measured(loaded) for name, measured in trained.more.items()}
    return {
        "target_bytes": target,
        "bytes": size,
        "quality": trained.quality(loaded),
        **more,
        "seconds": round(seconds, 1),
        "commit": git("rev-parse", "HEAD").strip(),
    }


def check_equal(saved: nn.Module, loaded: nn.Module) -> None:
    """Raise ValueError unless two networks have the same tensors."""
    ours, theirs = saved.state_dict(), loaded.state_dict()
    if set(ours) != set(theirs):
        raise ValueError(f"other names came back: {set(ours) ^ set(theirs)}")
    for name, tensor in ours.items():
        if not torch.equal(tensor, theirs[name]):
            raise ValueError(f"{name}: other numbers came back")


def sources() -> str:
    """What stands for the code that makes files: the trees of it in the checkout's commit."""
    return "-".join(git("rev-parse", f"HEAD:{folder}").strip()[:10] for folder in ("src", "native"))
