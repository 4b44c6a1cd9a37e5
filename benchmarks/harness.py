"""Curves of recipes over seeds: trained side by side, and kept where `ectorch report` reads.

Runs go below a folder of their own, resume when interrupted, and are not repeated when they have
ended. A folder of results has ``results.json``, and an ``.ect`` file a run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from plans import Plan, Table, plan, walks
from provenance import provenance, write_results
from trainings import PROVENANCE_FILE, Run, train_all

from ectorch.experiments.result import LOG_FILE, MODEL_FILE, RESULT_FILE
from ectorch.experiments.training import train
from ectorch.report.gather import ERROR, POINTS_FILE, Point, gather
from ectorch.report.gather import Run as Kept

KEPT = (
    *("seed", "evaluated_on", "file_bytes", "ratio", "float_error_percent"),
    *("decoded_error_percent", "estimate_bytes", "mdl_bytes", "nonzeros", "predictions_sha256"),
    *("seconds", "commit", "dirty", "commit_from"),
)
AVERAGED = ("file_bytes", "float_error_percent", "decoded_error_percent", "seconds")
ORIGIN = KEPT[-3:]


def run_curves(
    table: Table,
    folder: Path,
    out: Path,
    jobs: int,
    only: Sequence[str] = (),
    quick: bool = False,
    logs: bool = False,
    ended: bool = False,
) -> list[Point]:
    """Train what has not ended, and keep its results.

    Args:
        table: its ``curves``, and how they are shortened.
        folder: of the runs.
        out: of the results; those of curves that are left out stay there.
        jobs: trainings at a time.
        only: names of curves, if not all.
        quick: shortened.
        logs: keep each run's result and log in ``out``, too, and take them from there.
        ended: train nothing, keep what has ended.

    Returns:
        all points in ``out``, curves in the order of the table.
    """
    made = provenance()
    only = only or (table["quick"]["curves"] if quick else [c["name"] for c in table["curves"]])
    curves = [
        plan(curve, folder, table["quick"] if quick else None)
        for curve in table["curves"]
        if curve["name"] in only
    ]
    kept = out / POINTS_FILE
    points = json.loads(kept.read_text())["points"] if kept.exists() else []
    before = {
        f"{point['curve']}-{point['name']}-seed-{run['seed']}": run
        for point in points
        for run in point["runs"]
    }
    for run in (run for curve in curves for point in curve for run in point.runs):
        if logs:
            _take_back(run, out)
        if run[1].name in before and not (run[1] / RESULT_FILE).exists():
            print(f"{run[1].name}: took {before[run[1].name]['seconds'] / 60:.0f} minutes before")
    if ended:
        curves = [own for curve in curves if (own := [p for p in curve if p.has_ended])]
        if not curves:
            raise SystemExit(f"no run below {folder} has ended")
    train_all([walk for curve in curves for walk in walks(curve)], jobs)
    out.mkdir(parents=True, exist_ok=True)
    points = [p for p in points if p["curve"] not in {curve[0].curve for curve in curves}]
    points += [point for curve in curves for point in _collect(curve, out, logs, before)]
    order = [curve["name"] for curve in table["curves"]]
    points = [point for point in points if point["curve"] in order]
    points.sort(key=lambda point: order.index(point["curve"]))
    last = json.loads((curves[-1][-1].runs[-1][1] / RESULT_FILE).read_text())
    made |= {key: last[key] for key in ("versions", "machine")}  # those of the trainings
    made["seeds"] = sorted({run["seed"] for point in points for run in point["runs"]})
    write_results(kept, made | {"points": points})
    return gather(out)


def draw_curve(axis: Axes, points: Iterable[Point], label: str) -> None:
    """Means of bytes and error, with their standard deviations."""
    points = sorted(points, key=lambda point: point.mean("file_bytes"))
    axis.errorbar(
        [point.mean("file_bytes") for point in points],
        [point.mean(ERROR) for point in points],
        xerr=[point.spread("file_bytes") or 0 for point in points],
        yerr=[point.spread(ERROR) or 0 for point in points],
        fmt="o-",
        capsize=3,
        label=label,
    )
    axis.set_xscale("log")
    axis.set_ylabel(f"{points[0].first.result['evaluated_on']} error, % (decoded)")


def _collect(curve: Sequence[Plan], out: Path, logs: bool, before: dict[str, Table]) -> list[Table]:
    """The results of a curve's points; the float network of a walk is that of its first step."""
    collected, floats = [], []
    for point in curve:
        results = []
        for recipe, folder in point.runs:
            train(recipe, folder)  # has ended: checks the recipe
            result = dict(gather(folder)[0].first.result)
            for own, kept in _kept(folder, out).items():
                if logs or own.name == MODEL_FILE:
                    shutil.copy(own, kept)
            results.append(result | _origin(folder, result, before.get(folder.name, {})))
        if point.in_walk:
            floats = floats or [result["float_error_percent"] for result in results]
            for result, error in zip(results, floats, strict=True):
                result["float_error_percent"] = error
        collected.append(_summary(point, results))
    return collected


def _summary(point: Plan, results: list[Table]) -> Table:
    own, recipe = Point([Kept("", "", result, Path()) for result in results]), point.runs[0][0]
    asked = recipe.constrain.alpha if recipe.constrain.epochs else 0.0
    return {
        "curve": point.curve,
        "name": point.name,
        **{key: results[0][key] for key in ("network", "data", "float_bytes")},
        "alpha": own.mean("alpha") if point.size else asked,  # or found on the way, the last
        "target_bytes": point.size,
        "runs": [{key: r[key] for key in KEPT if key in r} for r in results],
        "mean": {key: own.mean(key) for key in AVERAGED},
        "std": {key: own.spread(key) for key in AVERAGED},
    }


def _origin(folder: Path, result: Table, before: Table) -> Table:
    """The commit that a run began with: as it says itself, or as was kept of the same run."""
    path = folder / PROVENANCE_FILE
    if path.exists():
        before = json.loads(path.read_text())
    elif any(before.get(key) != result[key] for key in ("predictions_sha256", "seconds")):
        return {}
    return {key: before[key] for key in ORIGIN if key in before}


def _take_back(run: Run, out: Path) -> None:
    """Let a run that ended in another checkout have ended here."""
    kept = _kept(run[1], out)
    if (run[1] / RESULT_FILE).exists() or not all(path.exists() for path in kept.values()):
        return
    run[1].mkdir(parents=True, exist_ok=True)
    for own, path in kept.items():
        shutil.copy(path, own)


def _kept(folder: Path, out: Path) -> dict[Path, Path]:
    """Where each file of a run that --logs keeps lies in ``out``."""
    endings = {MODEL_FILE: ".ect", RESULT_FILE: ".json", LOG_FILE: ".jsonl"}
    return {folder / name: out / f"{folder.name}{end}" for name, end in endings.items()}
