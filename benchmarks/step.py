"""What a constrained training step costs: time and peak memory against a plain step, and its parts.

    python benchmarks/step.py
    python benchmarks/step.py --networks vgg-like --configs "bracket nearest" --batches 128
        --samples 20 --precision bfloat16 --name step-vgg-like
    python benchmarks/step.py --device cuda

Writes benchmarks/results/step.json and step.md, or those of another --name. Plain and constrained
steps alternate in one process, 50 pairs; the levels are counted at every fourth step, whose median
enters with its share of a quarter. Peak memory is that of torch's allocator above what is held
before the step. Leave the machine alone meanwhile.

On CUDA it is step-cuda.json and step-cuda.md: bfloat16, fused AdamW, steps as they stand, compiled,
and captured as CUDA graphs, with the share of each of our kernels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import step_cuda
import torch
from provenance import RESULTS, provenance, stamp, write_results
from step_networks import CASES, CONFIGS, Case
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import ectorch as ec
from ectorch.report.text import markdown_table

REFRESH = 4
WARM_UP = 8
PARTS = ("forward", "penalty", "backward", "optimizer")
DEFAULT_CASES = ("lenet-300-100", "lenet-5-caffe", "transformer", "vgg-block")


@dataclass
class Subject:
    """A network under training, plain or constrained."""

    case: Case
    model: nn.Module
    optimizer: torch.optim.Optimizer
    constrained: bool
    precision: str

    @classmethod
    def of(cls, case: Case, config: ec.Config | None, precision: str) -> Subject:
        torch.manual_seed(0)
        model = case.build()
        if config is None:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            return cls(case, model, optimizer, False, precision)
        ec.prepare(model, config)
        optimizer = torch.optim.Adam(ec.param_groups(model, lr=1e-3))
        return cls(case, model, optimizer, True, precision)

    def step(self, x: Tensor, y: Tensor, refresh: bool) -> list[float]:
        """One step; seconds of each of `PARTS`."""
        times = [time.perf_counter()]
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            loss = self.case.loss(self.model, x, y)
        times.append(time.perf_counter())
        if self.constrained:
            loss = loss + ec.penalty(self.model, 0.5, 60000, refresh)
        times.append(time.perf_counter())
        self.optimizer.zero_grad()
        loss.backward()
        times.append(time.perf_counter())
        self.optimizer.step()
        times.append(time.perf_counter())
        return [after - before for before, after in itertools.pairwise(times)]

    def peak_bytes(self, x: Tensor, y: Tensor) -> int:
        """Most bytes that torch held during one step with a refresh, beyond those before it."""
        self.optimizer.zero_grad()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            self.step(x, y, refresh=True)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            profiler.export_chrome_trace(str(path))
            events = json.loads(path.read_text())["traceEvents"]
        changes = [e for e in events if e.get("name") == "[memory]"]
        held = peak = 0
        for event in sorted(changes, key=lambda e: e["ts"]):
            held += event["args"]["Bytes"]
            peak = max(peak, held)
        return peak


def measure(
    name: str, batch: int, samples: int, configs: list[str], precision: str
) -> list[dict[str, object]]:
    case = CASES[name]
    x, y = case.batch(batch)
    plain = Subject.of(case, None, precision)
    weights = sum(p.numel() for p in plain.model.parameters())
    rows: list[dict[str, object]] = []
    for label in configs:
        subject = Subject.of(case, CONFIGS[label], precision)
        pairs = [
            (plain.step(x, y, False), subject.step(x, y, i % REFRESH == 0))
            for i in range(-WARM_UP, samples)
        ][WARM_UP:]
        theirs = _median([pair[0] for pair in pairs])
        counted = _median([pair[1] for pair in pairs[::REFRESH]])
        others = _median([ours for i, (_, ours) in enumerate(pairs) if i % REFRESH])
        ours = [(a + (REFRESH - 1) * b) / REFRESH for a, b in zip(counted, others, strict=True)]
        shares = {
            part: (after - before) / theirs[-1]
            for part, before, after in zip(PARTS, theirs, ours, strict=False)
        }
        more = (subject.peak_bytes(x, y) - plain.peak_bytes(x, y)) / 4 / weights
        rows.append(
            {
                "network": name,
                "batch": batch,
                "weights": weights,
                "config": label,
                "time_ratio": ours[-1] / theirs[-1],
                "plain_milliseconds": 1e3 * theirs[-1],
                "added_by_part": shares,
                "added_peak_floats_a_weight": more,
            }
        )
        print(
            f"{name} {batch} {label}: x{rows[-1]['time_ratio']:.2f}, +{more:.2f} floats a weight",
            flush=True,
        )
    return rows


def _median(steps: list[list[float]]) -> list[float]:
    """Of each part over the steps, and of the whole step."""
    return [statistics.median(part) for part in zip(*steps, strict=True)] + [
        statistics.median(map(sum, steps))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*")
    parser.add_argument("--configs", nargs="*", default=list(CONFIGS))
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--name", help="of the results; step, or step-cuda")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batches", type=int, nargs="*", default=[128, 256])
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda":
        on_cuda(arguments.networks, arguments.samples, arguments.name or "step-cuda")
        return
    made = provenance(seeds=[0])
    rows = [
        row
        for name in arguments.networks or DEFAULT_CASES
        for batch in arguments.batches
        for row in measure(name, batch, arguments.samples, arguments.configs, arguments.precision)
    ]
    written = made | {"precision": arguments.precision, "rows": rows}
    name = arguments.name or "step"
    write_results(RESULTS / f"{name}.json", written)
    (RESULTS / f"{name}.md").write_text(as_markdown(written))


def on_cuda(networks: list[str] | None, samples: int, name: str) -> None:
    made = provenance(seeds=[0], packages=["triton"])
    made["machine"]["card"] = torch.cuda.get_device_name()
    names = networks or [*step_cuda.BATCHES]
    rows = step_cuda.run(names, [*step_cuda.FORWARDS], [*step_cuda.MODES], samples)
    written = made | {"rows": rows}
    write_results(RESULTS / f"{name}.json", written)
    (RESULTS / f"{name}.md").write_text(step_cuda.as_markdown(written, stamp(written)))


def as_markdown(written: dict[str, Any]) -> str:
    columns = ("network", "batch", "relaxation, forward", "time", *PARTS, "memory")
    rows = [
        [
            *(row["network"], str(row["batch"]), row["config"], f"{row['time_ratio']:.2f}"),
            *(f"{row['added_by_part'][part]:+.2f}" for part in PARTS),
            f"{row['added_peak_floats_a_weight']:+.2f}",
        ]
        for row in written["rows"]
    ]
    return f"""# The cost of a constrained step

Time is that of a plain step of the same network; the parts say what each adds to it (0.5: half a \
plain step), memory is what the peak of a step gains, in floats a weight. \
{written["machine"]["threads"]} threads, {written["precision"]}, \
torch {written["versions"]["torch"]}; categorical has 9 levels, the others 33.

{markdown_table(columns, rows)}

{stamp(written)}
"""


if __name__ == "__main__":
    main()
