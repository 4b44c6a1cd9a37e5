"""Trainings of recipes side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from ectorch.experiments.recipe import Recipe
from ectorch.experiments.training import train

Run = tuple[Recipe, Path]
"""A recipe, and the folder of its run."""


def train_all(runs: list[Run], jobs: int) -> None:
    """Train what has not ended yet, ``jobs`` at a time; a line each as it ends."""
    left = [run for run in runs if not (run[1] / "result.json").exists()]
    print(f"{len(runs)} runs, {len(left)} to do", flush=True)
    # a process a run: torch's threads are set once in a process
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        for done, line in enumerate(pool.imap_unordered(_train, left, chunksize=1), 1):
            print(f"{done}/{len(left)} {line}", flush=True)


def _train(run: Run) -> str:
    result = train(*run)
    return (
        f"{run[1].name}: {result['file_bytes']:,} bytes, {result['decoded_error_percent']:.2f} % "
        f"({result['evaluated_on']}), {result['seconds']:.0f} s"
    )
