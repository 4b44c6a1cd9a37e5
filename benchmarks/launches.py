"""What a constrained step asks of a GPU, counted without one: launches, and bytes of memory.

    python benchmarks/launches.py

Writes benchmarks/results/launches.json and launches.md. Networks stand on torch's meta device,
where nothing is computed; our kernels' launches are recorded with the sizes of what they read and
write. An operation of torch counts as one launch unless it only looks at a tensor otherwise. What
a step takes in time is not in here: `python benchmarks/step.py --device cuda` measures that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from provenance import RESULTS, provenance, stamp, write_results
from step_networks import CASES, CONFIGS, Case
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import ectorch as ec
from ectorch.constrain.kernels import cuda
from ectorch.constrain.modules import constrained_parameters
from ectorch.report.text import markdown_table

NETWORKS = {"lenet-300-100": 256, "vgg-like": 512, "gpt2": 8}  # and their batches
FORWARDS = ("nearest", "sampled", "moments")
_NO_LAUNCH = frozenset(
    ("empty", "empty_like", "empty_strided", "new_empty", "detach", "alias", "lift_fresh")
)


class Launches(TorchDispatchMode):
    """Counts operations that work on memory, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.of_torch: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        if not (func.is_view or name in _NO_LAUNCH):
            self.of_torch[name] += 1
        return func(*args, **(kwargs or {}))


class Programs:
    """In the place of our programs: each launch is recorded with the bytes of its tensors."""

    def __init__(self) -> None:
        self.launches: list[tuple[str, int]] = []
        import triton.language

        self.tl = triton.language

    def __getattr__(self, name: str) -> Any:
        launches = self.launches

        class Program:
            def __getitem__(self, grid: Any) -> Any:
                def launch(*arguments: Any, **options: Any) -> None:
                    seen = {id(t): t for t in arguments if isinstance(t, Tensor)}
                    launches.append((name, sum(t.nbytes for t in seen.values())))

                return launch

        return Program()


@contextmanager
def recorded() -> Iterator[Programs]:
    programs = Programs()
    with (
        mock.patch.object(cuda, "_programs", return_value=programs),
        mock.patch.object(cuda, "serves", lambda tensor: tensor.is_meta),
    ):
        yield programs


def count(
    model: nn.Module, case: Case, batch: int, refresh: bool | None
) -> tuple[int, list[tuple[str, int]]]:
    """Launches of torch, and those of ours with their bytes, of a step without its optimizer.

    Args:
        refresh: None for a plain step.
    """
    x, y = (tensor.to("meta") for tensor in case.batch(batch))
    with recorded() as programs:
        for _ in range(2):  # the first one brings tables to the device
            programs.launches.clear()
            model.zero_grad()
            with Launches() as counted:
                loss = case.loss(model, x, y)
                if refresh is not None:
                    loss = loss + ec.penalty(model, 0.5, 60000, refresh)
                loss.backward()
    return sum(counted.of_torch.values()), programs.launches


def measure(name: str, batch: int) -> list[dict[str, Any]]:
    case = CASES[name]
    plain = case.build().to("meta")
    weights = sum(p.numel() for p in plain.parameters())
    of_plain, _ = count(plain, case, batch, None)
    rows = []
    for forward in FORWARDS:
        model = ec.prepare(case.build(), CONFIGS[f"bracket {forward}"])
        many = sum(1 for _ in constrained_parameters(model))
        model.to("meta")
        for refresh in (False, True):
            of_torch, ours = count(model, case, batch, refresh)
            rows.append(
                {
                    **{"network": name, "batch": batch, "weights": weights, "constrained": many},
                    **{"forward": forward, "refresh": refresh, "plain": of_plain},
                    "added_by_torch": of_torch - of_plain,
                    "ours": dict(Counter(name for name, _ in ours)),
                    "bytes_a_weight": sum(size for _, size in ours) / weights
                    # by address
                    + sum(4 for name, _ in ours if name in ("count_blocks", "charge_blocks")),
                }
            )
    return rows


def as_markdown(written: dict[str, Any]) -> str:
    columns = ("network", "batch", "constrained", "forward", "refresh", "plain", "torch's", "ours",
               "bytes a weight")  # fmt: skip
    rows = [
        [
            *(row["network"], str(row["batch"]), str(row["constrained"]), row["forward"]),
            *("yes" if row["refresh"] else "no", str(row["plain"]), f"+{row['added_by_torch']}"),
            *(f"+{sum(row['ours'].values())}", f"{row['bytes_a_weight']:.1f}"),
        ]
        for row in written["rows"]
    ]
    return f"""# Launches of a constrained step on a GPU

Counted without one, forward to gradients, the optimizer left out: how many parameters are \
constrained, how often a plain step launches, what a constrained one adds of torch's operations \
and of our kernels, and how many bytes these read and write for each weight. Not measured on a GPU.

{markdown_table(columns, rows)}

{stamp(written)}
"""


def main() -> None:
    made = provenance(seeds=[0])
    torch.manual_seed(0)
    rows = [row for name, batch in NETWORKS.items() for row in measure(name, batch)]
    written = made | {"rows": rows}
    write_results(RESULTS / "launches.json", written)
    (RESULTS / "launches.md").write_text(as_markdown(written))


if __name__ == "__main__":
    main()
