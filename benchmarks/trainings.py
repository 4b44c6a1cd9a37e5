"""Trainings of recipes side by side, each in a process of its own."""

from __future__ import annotations

import multiprocessing
from functools import partial
from pathlib import Path

from provenance import provenance, write_results
from rich.console import Console

from ectorch.experiments.recipe import Recipe
from ectorch.experiments.training import train
from ectorch.report.progress import progress_bar

PROVENANCE_FILE = "provenance.json"  # in a run's folder: of the code that began it
Run = tuple[Recipe, Path]
"""A recipe, and the folder of its run."""


def train_all(walks: list[list[Run]], jobs: int) -> None:
    """Train what has not ended yet, ``jobs`` walks at a time; a line each run as it ends.

    Args:
        walks: runs one after the other: a later one may start from the file of an earlier one.
    """
    left = [[run for run in walk if not (run[1] / "result.json").exists()] for walk in walks]
    left = [walk for walk in left if walk]
    print(f"{sum(map(len, walks))} runs, {sum(map(len, left))} to do", flush=True)
    # a process a walk: torch's threads are set once in a process
    with multiprocessing.get_context("spawn").Pool(jobs, maxtasksperchild=1) as pool:
        for done, _ in enumerate(pool.imap_unordered(_train_walk, left, chunksize=1), 1):
            if len(left) > 1:
                print(f"{done}/{len(left)}", flush=True)


def _train_walk(walk: list[Run]) -> None:
    for recipe, folder in walk:
        if not folder.exists():
            write_results(folder / PROVENANCE_FILE, provenance([recipe.seed]))
        with progress_bar(Console(force_terminal=False)) as show:
            told = partial(show, point=folder.name) if len(walk) > 1 else lambda progress: None
            result = train(recipe, folder, told, _is_orphan)
        print(
            f"{folder.name}: {result['file_bytes']:,} bytes, "
            f"{result['decoded_error_percent']:.2f} % ({result['evaluated_on']}), "
            f"{result['seconds']:.0f} s",
            flush=True,
        )


def _is_orphan() -> bool:
    """Whether the process that asked for the training is gone: it may be run anew by another."""
    parent = multiprocessing.parent_process()
    return parent is not None and not parent.is_alive()
