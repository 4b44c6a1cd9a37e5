"""Steps on a GPU: plain and constrained in pairs, as they stand, compiled, and as CUDA graphs.

Called by ``python benchmarks/step.py --device cuda``, which says what comes out.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from step_networks import CASES, CONFIGS, Case
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import ectorch as ec
from ectorch.report.text import markdown_table

REFRESH = 4
WARM_UP = 8
MODES = ("eager", "compiled", "graph")
BATCHES = {"lenet-300-100": (256,), "vgg-like": (128, 512), "gpt2": (8,)}
FORWARDS = ("nearest", "sampled", "moments")
OURS = ("round_block", "by_step_block", "sum_to_log_gaps", "count_blocks", "sum_counts",
        "charge_blocks", "moments_block", "moments_back_block", "deviate_block",
        "deviate_back_block")  # fmt: skip


@dataclass
class Subject:
    """A network under training on a GPU; ``steps`` are called in turn, the first one counts."""

    case: Case
    model: nn.Module
    optimizer: torch.optim.Optimizer
    x: Tensor
    y: Tensor
    constrained: bool
    steps: dict[bool, Callable[[], None]] = field(default_factory=dict)

    @classmethod
    def of(cls, case: Case, config: ec.Config | None, batch: int, device: str) -> Subject:
        torch.manual_seed(0)
        model = case.build().to(device)
        x, y = (tensor.to(device) for tensor in case.batch(batch))
        if config is not None:
            ec.prepare(model, config)
        groups = model.parameters() if config is None else ec.param_groups(model, lr=1e-3)
        on_gpu = device == "cuda"
        optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=on_gpu or None, capturable=on_gpu)
        return cls(case, model.train(), optimizer, x, y, config is not None)

    def objective(self, refresh: bool) -> Tensor:
        with torch.autocast(self.x.device.type, torch.bfloat16):
            loss = self.case.loss(self.model, self.x, self.y)
        if self.constrained:
            loss = loss + ec.penalty(self.model, 0.5, 60000, refresh)
        return loss

    def step(self, refresh: bool, objective: Callable[[bool], Tensor] | None = None) -> None:
        self.optimizer.zero_grad()
        (objective or self.objective)(refresh).backward()
        self.optimizer.step()

    def make(self, mode: str) -> None:
        """Fill ``steps`` by what a step with and one without a refresh is in this mode."""
        for refresh in (True, False) if self.constrained else (False,):
            if mode == "eager":
                self.steps[refresh] = partial(self.step, refresh)
            elif mode == "compiled":
                whole = torch.compile(self.objective, fullgraph=True)
                self.steps[refresh] = partial(self.step, refresh, whole)
            else:
                self.steps[refresh] = self._captured(refresh)

    def _captured(self, refresh: bool) -> Callable[[], None]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self.step(refresh)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad()
        with torch.cuda.graph(graph):
            self.objective(refresh).backward()
            self.optimizer.step()
        return graph.replay

    def seconds(self, refresh: bool) -> float:
        """Of one step, from an idle device to an idle device."""
        _wait(self.x)
        start = time.perf_counter()
        self.steps[refresh if self.constrained else False]()
        _wait(self.x)
        return time.perf_counter() - start

    def peak_bytes(self) -> int:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        self.optimizer.zero_grad()
        self.step(True)
        _wait(self.x)
        return torch.cuda.max_memory_allocated() - before


def measure(
    name: str, batch: int, forward: str, mode: str, samples: int, device: str
) -> dict[str, Any]:
    """Median of steps in pairs, with a refresh every fourth step and at every step."""
    torch.compiler.reset()
    case, label = CASES[name], f"bracket {forward}"
    plain = Subject.of(case, None, batch, device)
    weights = sum(p.numel() for p in plain.model.parameters())
    subject = Subject.of(case, CONFIGS[label], batch, device)
    for each in (plain, subject):
        each.make(mode)
    pairs = [
        (plain.seconds(False), subject.seconds(at % REFRESH == 0), at % REFRESH == 0)
        for at in range(-WARM_UP, samples)
    ][WARM_UP:]
    theirs = statistics.median(pair[0] for pair in pairs)
    counted = statistics.median(ours for _, ours, counts in pairs if counts)
    others = statistics.median(ours for _, ours, counts in pairs if not counts)
    row = {
        **{"network": name, "batch": batch, "weights": weights, "config": label, "mode": mode},
        "plain_milliseconds": 1e3 * theirs,
        "ratio_refresh_4": (counted + (REFRESH - 1) * others) / REFRESH / theirs,
        "ratio_every_step": counted / theirs,
        "ratio_no_refresh": others / theirs,
    }
    if mode == "eager" and device == "cuda":
        more = subject.peak_bytes() - plain.peak_bytes()
        row["added_peak_floats_a_weight"] = more / 4 / weights
        row["kernels"] = _shares(subject)
    return row


def _shares(subject: Subject) -> dict[str, Any]:
    """Launches, and microseconds of the device in each of our kernels, of a step that counts."""
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        subject.step(True)
        _wait(subject.x)
    on_device = [e for e in profiler.events() if e.device_type.name == "CUDA"]
    ours: Counter[str] = Counter()
    for event in on_device:
        found = next((name for name in OURS if name in event.name), "torch's")
        ours[found] += event.device_time
    return {"launches": len(on_device), "microseconds": dict(ours)}


def run(
    names: list[str], forwards: list[str], modes: list[str], samples: int, device: str = "cuda"
) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        for batch in BATCHES[name]:
            for forward in forwards:
                for mode in modes if forward == "nearest" else modes[:1]:
                    row = measure(name, batch, forward, mode, samples, device)
                    rows.append(row)
                    print(
                        f"{name} {batch} {forward} {mode}: plain {row['plain_milliseconds']:.2f} "
                        f"ms, x{row['ratio_refresh_4']:.2f} (every step "
                        f"x{row['ratio_every_step']:.2f})",
                        flush=True,
                    )
    return rows


def as_markdown(written: dict[str, Any], stamp: str) -> str:
    columns = ("network", "batch", "forward", "mode", "plain, ms", "refresh 4", "every step",
               "floats a weight", "our kernels' share")  # fmt: skip
    rows = []
    for row in written["rows"]:
        times = row.get("kernels", {}).get("microseconds", {})
        share = 1 - times.get("torch's", 0) / sum(times.values()) if times else None
        more = row.get("added_peak_floats_a_weight")
        rows.append(
            [
                *(row["network"], str(row["batch"]), row["config"].split()[1], row["mode"]),
                f"{row['plain_milliseconds']:.2f}",
                f"{row['ratio_refresh_4']:.2f}",
                f"{row['ratio_every_step']:.2f}",
                "" if more is None else f"{more:+.2f}",
                "" if share is None else f"{100 * share:.0f} %",
            ]
        )
    return f"""# The cost of a constrained step on a GPU

{written["machine"]["card"]}, torch {written["versions"]["torch"]}, triton \
{written["versions"]["triton"]}; bfloat16 autocast, fused AdamW, 33 levels. Times are those of a \
plain step of the same network in the same mode, medians of pairs; levels are counted every \
fourth step, or at every one.

{markdown_table(columns, rows)}

{stamp}
"""


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
