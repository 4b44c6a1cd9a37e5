"""Curves of recipes: which runs a table of them asks for, and in which order.

A curve is a table: `name`, `seeds`, a `recipe` and `changes` of it, and as its points `alphas`, or
`points` with a name and changes each; or it is a `walk`, whose every step starts from the file of
the step before, or of the earlier one that it names (`after`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainings import Run

from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import read_recipe
from ectorch.experiments.result import MODEL_FILE, RESULT_FILE
from ectorch.experiments.target import target_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Table = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """One point of a curve: a run a seed."""

    curve: str
    name: str
    runs: list[Run]
    in_walk: bool = False

    @property
    def size(self) -> int | None:
        """Bytes that were asked for, if any."""
        recipe = self.runs[0][0]
        return target_bytes(recipe, NETWORKS[recipe.network]()) or None

    @property
    def has_ended(self) -> bool:
        return all((folder / RESULT_FILE).exists() for _, folder in self.runs)


def read_table(path: Path) -> Table:
    return tomllib.loads(path.read_text())


def plan(curve: Table, folder: Path, quick: Table | None = None) -> list[Plan]:
    """The points of a curve; those of a walk in the order in which one starts from the other.

    Args:
        folder: of the runs.
        quick: how the table shortens them, if it does.
    """
    walk = curve.get("walk")
    steps = (
        walk
        or curve.get("points")
        or [
            {"name": f"alpha-{alpha:g}", "changes": {"constrain.alpha": alpha}}
            for alpha in curve.get("alphas", ())
        ]
    )
    points: list[Plan] = []
    for step in steps:
        runs = []
        for at, seed in enumerate(curve["seeds"]):
            changes = {**curve.get("changes", {}), **step.get("changes", {}), "seed": seed}
            if walk and points:
                before = {point.name: point for point in points}[step.get("after", points[-1].name)]
                changes["start"] = str(before.runs[at][1] / MODEL_FILE)
            path = step.get("recipe", curve.get("recipe"))
            if quick:
                changes |= _shortened(path, changes, quick)
            name = f"{curve['name']}-{step['name']}-seed-{seed}"
            runs.append((read_recipe(path, changes), folder / name))
        points.append(Plan(curve["name"], step["name"], runs, bool(walk)))
    return points


def _shortened(path: Path, changes: Table, quick: Table) -> Table:
    recipe = read_recipe(path, changes)
    epochs = {
        f"{stage}.epochs": min(quick["epochs"], getattr(recipe, stage).epochs)
        for stage in ("pretrain", "constrain", "finetune")
    }
    return {"network": quick["networks"].get(recipe.network, recipe.network), **epochs}


def walks(curve: Sequence[Plan]) -> list[list[Run]]:
    """What has to be trained in this order; a run that depends on no other is alone."""
    if curve[0].in_walk:
        return [list(runs) for runs in zip(*(point.runs for point in curve), strict=True)]
    return [[run] for point in curve for run in point.runs]
