"""What a folder of results holds: runs, the points they make, the front among these."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ectorch.errors import DataError
from ectorch.experiments.record import Epoch, Reported, Table, inside, read_lines, read_record
from ectorch.experiments.result import FLOAT_FILE, LOG_FILE, MODEL_FILE, RESULT_FILE

POINTS_FILE = "results.json"
ERROR = "decoded_error_percent"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Run:
    """A training that ended.

    Attributes:
        curve: runs of one curve are joined by a line.
        point: runs of one point differ in their seed alone.
        result: as in ``result.json``.
        model: the file; it may be missing.
        log: a record an epoch; empty where none was kept.
        before: the float network, where it was kept.
        root: the folder that was asked for.
    """

    curve: str
    point: str
    result: Mapping[str, Any]
    model: Path
    log: list[dict[str, Any]] = field(default_factory=list)
    before: Path | None = None
    root: Path = Path()


@dataclass(frozen=True)
class Point:
    """Runs of one recipe; numbers are means over them."""

    runs: Sequence[Run]

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def name(self) -> str:
        return f"{self.first.curve} {self.first.point}".strip()

    @property
    def task(self) -> tuple[str, str, str]:
        """What errors are compared on: network, data, images."""
        result = self.first.result
        return result["network"], result["data"], result["evaluated_on"]

    def mean(self, key: str) -> float:
        return statistics.mean(float(run.result[key]) for run in self.runs)

    def spread(self, key: str) -> float | None:
        """Standard deviation over the runs; None for one run."""
        values = [float(run.result[key]) for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 else None

    def text(self, key: str, form: str) -> str:
        """The mean as ``form`` has numbers, and the spread of several runs: ``"3,008 ± 39"``."""
        spread = self.spread(key)
        return f"{self.mean(key):{form}}" + ("" if spread is None else f" ± {spread:{form}}")

    @property
    def commits(self) -> list[str]:
        """Of the code that made the runs, in ten digits, as far as it was recorded."""
        told = (run.result.get("commit", "") for run in self.runs)
        return list(dict.fromkeys(commit[:10] for commit in told if commit))


def gather(*folders: Path) -> list[Point]:
    """The points of a run's folder, of a folder of runs, or of one with a ``results.json``.

    Of several such folders the curves of each bear its name, or its path where names are alike: a
    folder is read once, and runs of two make no curve together.

    Raises:
        DataError: when there is none, or a file is no result.
    """
    once = [*{folder.resolve(): folder for folder in folders}.values()]
    runs = [run for folder in once for run in _runs_in(folder)]
    if len(once) > 1:
        names = [folder.resolve().name for folder in once]
        alike = len({*names}) < len(names)
        told = dict(zip(once, once if alike else names, strict=True))
        runs = [replace(run, curve=f"{told[run.root]}: {run.curve}") for run in runs]
    return [Point(own) for own in _grouped(runs, lambda run: (run.root, run.curve, run.point))]


def roots(points: Iterable[Point]) -> list[Path]:
    """The folders that were asked for, each once."""
    return [*dict.fromkeys(run.root for point in points for run in point.runs)]


def _runs_in(folder: Path) -> list[Run]:
    if (folder / RESULT_FILE).exists():
        runs = [_run(folder, folder, "")]
    elif (folder / POINTS_FILE).exists():
        runs = _kept_runs(folder)
    else:
        paths = sorted(folder.glob(f"*/{RESULT_FILE}"), key=lambda path: _natural(str(path)))
        runs = [_run(folder, path.parent, path.parent.name) for path in paths]
    if not runs:
        raise DataError(
            f"{folder}: neither {RESULT_FILE} nor {POINTS_FILE}, here or a folder below"
        )
    return runs


def tasks_of(points: Sequence[Point]) -> list[list[Point]]:
    """The points whose errors can be compared, together."""
    return _grouped(points, lambda point: point.task)


def front(points: Iterable[Point]) -> list[Point]:
    """The points than which none is both smaller and better, in the order of size."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.mean("file_bytes"), p.mean(ERROR))):
        if not best or point.mean(ERROR) < best[-1].mean(ERROR):
            best.append(point)
    return best


def _run(root: Path, folder: Path, point: str) -> Run:
    result = read_record(inside(root, folder / RESULT_FILE), Reported)
    records = _records(inside(root, folder / LOG_FILE))
    told = [record["alpha"] for record in records if record["alpha"] is not None]
    alpha = {"alpha": told[-1] if told else result["recipe"]["constrain"]["alpha"]}
    before = inside(root, folder / FLOAT_FILE)
    model = inside(root, folder / MODEL_FILE)
    kept = before if before.exists() else None
    return Run(result["name"], point, alpha | result, model, records, kept, root)


def _kept_runs(folder: Path) -> list[Run]:
    """As `benchmarks/harness.py` keeps them."""
    table = read_record(inside(folder, folder / POINTS_FILE), Table)
    runs = []
    for point in table["points"]:
        shared = {key: table[key] for key in ("versions", "machine") if key in table} | point
        for result in shared.pop("runs"):
            name = f"{point['curve']}-{point['name']}-seed-{result['seed']}"
            path = inside(folder, folder / f"{name}.ect")
            records = _records(inside(folder, folder / f"{name}.jsonl"))
            run = Run(point["curve"], point["name"], shared | result, path, records, root=folder)
            runs.append(run)
    return runs


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [record for record in read_lines(path, Epoch) if record["epoch"] is not None]


def _grouped(items: Iterable[_T], key: Callable[[_T], object]) -> list[list[_T]]:
    """Items of equal keys together, in the order of their first."""
    groups: dict[object, list[_T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts point-2 before point-10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text)]
