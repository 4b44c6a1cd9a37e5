"""A rate-error curve in one go: each point starts from the file of the one before."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ectorch.bitstream import write_atomic
from ectorch.errors import ConfigError, RecipeError, TrainingError
from ectorch.experiments import data as data_sets
from ectorch.experiments.checkpoint import CHECKPOINT_FILE
from ectorch.experiments.progress import Progress
from ectorch.experiments.recipe import Recipe
from ectorch.experiments.result import FLOAT_FILE, MODEL_FILE, RESULT_FILE, SWEEP_FILE
from ectorch.experiments.split import most_held_out
from ectorch.experiments.training import train

_HELD_OUT = 5000
_SHARE = 0.25  # of the recipe's constrained epochs, for each point but the first


def sweep(
    recipe: Recipe,
    out: Path,
    points: int,
    span: float = 16.0,
    on_progress: Callable[[str, Progress], None] = lambda point, progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[dict[str, Any]]:
    """Train files whose alphas rise by equal factors, by ``span`` in all, around the recipe's.

    The first point is the recipe itself at its lowest alpha; every later one goes on from the file
    before, on its grid, for a quarter of the epochs. Points are runs of their own below ``out``:
    they resume where they were stopped, and none that has ended is repeated.

    Returns:
        the result of each point, in the order of alpha; they are in ``out``/sweep.json, too.

    Raises:
        ConfigError: for fewer than two points, a span of 1 or less, or a recipe with a target.
        TrainingError: when ``out`` is the folder of a training; and as `train`.
        DataError, RecipeError, Interrupted: as `train`.
    """
    if points < 2 or not 1 < span < math.inf:
        raise ConfigError(f"{points} points that span {span}: expected 2 and more than 1 at least")
    if not (out / SWEEP_FILE).exists() and any(
        (out / name).exists() for name in (RESULT_FILE, CHECKPOINT_FILE)
    ):
        raise TrainingError(f"{out} holds a training, and no sweep: choose another --out")
    results: list[dict[str, Any]] = []
    start, float_file = "", None
    for at in range(points):
        alpha = recipe.constrain.alpha * span ** (at / (points - 1) - 0.5)
        name = f"point-{at + 1}"
        chosen = point_recipe(recipe, alpha, start)
        show = partial(on_progress, name)
        result = train(chosen, out / name, show, should_stop, float_file)
        start, float_file = str(out / name / MODEL_FILE), out / name / FLOAT_FILE
        results.append({"point": name, "alpha": alpha} | result)
        write_atomic(out / SWEEP_FILE, (json.dumps(results, indent=2) + "\n").encode())
    return results


def with_holdout(recipe: Recipe) -> Recipe:
    """``recipe`` with examples held out: its own, else 5,000, or a sixth of all where that is less.

    Raises:
        DataError: when the data cannot be had.
        RecipeError: when there are too few to hold any out.
    """
    if recipe.holdout:
        return recipe
    train_split = data_sets.load(recipe.data).train
    most = most_held_out(train_split)
    if not most:
        raise RecipeError(f"{recipe.data}: {len(train_split)} training examples, none to hold out")
    return replace(recipe, holdout=min(_HELD_OUT, most))


def point_recipe(recipe: Recipe, alpha: float, start: str) -> Recipe:
    """``recipe`` at another alpha; from the file ``start`` on its grid, in a quarter of its epochs.

    Raises:
        ConfigError: when it has a target of its own.
    """
    if recipe.targets():
        raise ConfigError(f"{recipe.name} has a target: a sweep is over alpha")
    stage = replace(recipe.constrain, alpha=alpha)
    if not start:
        return replace(recipe, constrain=stage)
    epochs = math.ceil(_SHARE * stage.epochs)
    stage = replace(stage, epochs=epochs, config={**stage.config, "keep_grid": True})
    none = replace(recipe.pretrain, epochs=0)
    reduce = replace(recipe.reduce, epochs=0)
    return replace(recipe, start=start, pretrain=none, reduce=reduce, constrain=stage)
