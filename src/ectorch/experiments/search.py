"""The smallest file whose error on held-out images stays below a limit."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ectorch.bitstream import write_atomic
from ectorch.errors import RecipeError
from ectorch.experiments.progress import Progress
from ectorch.experiments.recipe import Recipe
from ectorch.experiments.result import FLOAT_FILE, LOG_FILE, MODEL_FILE, RESULT_FILE
from ectorch.experiments.sweep import point_recipe
from ectorch.experiments.training import train

_FIRST = 1 / 8  # of the recipe's alpha
_FACTOR = 2.0  # of alpha from one point to the next
_MOST_RISES = 10
_HALVINGS = 2  # of the last factor, where the error has crossed its limit


def smallest(
    recipe: Recipe,
    out: Path,
    on_progress: Callable[[str, Progress], None] = lambda point, progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Raise alpha from file to file until the held-out error is above ``recipe.target_error``.

    It starts at an eighth of the recipe's alpha; every later point goes on from the best file so
    far, as in `ectorch.experiments.sweep`. Between the last good alpha and the first bad one the
    search halves the (logarithmic) interval. Points are runs of their own below ``out`` and resume;
    the best one's files are copied to ``out``.

    Returns:
        the result of the smallest file that is good enough.

    Raises:
        RecipeError: when the first point is not good enough: its error and alpha.
        TrainingError, DataError, Interrupted: as `train`.
    """
    limit = recipe.target_error
    if limit is None:
        raise RecipeError(f"{recipe.name}: no target_error")
    plain = replace(recipe, target_error=None)
    best: tuple[Path, dict[str, Any]] | None = None
    tried = 0

    def is_good(alpha: float) -> bool:
        nonlocal best, tried
        tried += 1
        folder = out / f"point-{tried}"
        start = str(best[0] / MODEL_FILE) if best else ""
        float_file = best[0] / FLOAT_FILE if best else None
        chosen = point_recipe(plain, alpha, start)
        show = partial(on_progress, folder.name)
        result = train(chosen, folder, show, should_stop, float_file)
        good: bool = result["decoded_error_percent"] <= limit
        if good and (best is None or result["file_bytes"] < best[1]["file_bytes"]):
            best = folder, result
        return good

    alpha = recipe.constrain.alpha * _FIRST
    good = is_good(alpha)
    if best is None:
        raise RecipeError(
            f"target_error: already at alpha {alpha:g} the error is above {limit:g} % "
            f"({out / 'point-1'}): a higher limit, a lower alpha, or more epochs"
        )
    for _ in range(_MOST_RISES):
        alpha *= _FACTOR
        good = is_good(alpha)
        if not good:
            break
    factor = _FACTOR
    for _ in range(0 if good else _HALVINGS):
        factor = math.sqrt(factor)
        alpha = alpha * factor if good else alpha / factor
        good = is_good(alpha)
    for name in (MODEL_FILE, RESULT_FILE, LOG_FILE, FLOAT_FILE):
        write_atomic(out / name, (best[0] / name).read_bytes())
    return best[1]
