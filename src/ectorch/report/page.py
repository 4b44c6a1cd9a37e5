"""The page that shows results: self-contained, for a screen of any width and for paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import safetensors.numpy
from markupsafe import Markup

from ectorch.bitstream import Reader, load_file, write_atomic
from ectorch.experiments.baselines import add_baselines, read_baselines
from ectorch.report import figures
from ectorch.report.gather import ERROR, Point, Run, front, tasks_of

_Row = dict[str, Any]
COLUMNS = ("point", "alpha", "runs", "bytes", "ratio", "error, %", "float, %", "minutes")


def page(folder: Path, points: Sequence[Point]) -> str:
    """The page of the ``points`` that lie in ``folder``.

    Raises:
        FormatError: when a file of them is damaged.
        OSError: when it is missing.
    """
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).from_string((files("ectorch.report") / "page.html.jinja").read_text())
    return template.render(
        title=f"Results in {folder.resolve().name}",
        tasks=[_task(at, own, folder) for at, own in enumerate(tasks_of(points))],
        environment=_environment(points),
    )


def markdown(folder: Path, points: Sequence[Point]) -> str:
    """The tables of the page for a README."""
    parts = []
    for own in tasks_of(points):
        parts += [f"### {_title(own)}", "", _as_markdown(COLUMNS, _point_rows(own)), ""]
        baselines = _baseline_rows(read_baselines(folder, own[0].task))
        if baselines:
            parts += [_as_markdown(("stored as", "bytes", "ratio", "error, %"), baselines), ""]
    return "\n".join([*parts, _environment(points), ""])


def measure_baselines(folder: Path, points: Sequence[Point], say: Callable[[str], object]) -> None:
    """Measure, once, other ways to store the float networks that lie with the runs."""
    for own in tasks_of(points):
        kept = [
            (run.result["recipe"], run.before) for point in own for run in point.runs if run.before
        ]
        if kept and not read_baselines(folder, own[0].task):
            say(f"measuring other ways to store the float network of {_title(own)}")
            add_baselines(folder, own[0].task, *kept[0])


def _write_pictures(folder: Path, points: Sequence[Point], out: Path) -> str:
    """A picture a task: of several, each has its number before the suffix."""
    tasks = tasks_of(points)
    paths = []
    for at, own in enumerate(tasks):
        name = out.name if len(tasks) == 1 else f"{out.stem}-{at + 1}{out.suffix}"
        baselines = read_baselines(folder, own[0].task)
        figures.curve_picture("curve", own, baselines).save(out.with_name(name))
        paths.append(str(out.with_name(name)))
    return ", ".join(paths)


def _write_text(
    make: Callable[[Path, Sequence[Point]], str],
) -> Callable[[Path, Sequence[Point], Path], str]:
    def write(folder: Path, points: Sequence[Point], out: Path) -> str:
        write_atomic(out, make(folder, points).encode())
        return str(out)

    return write


WRITERS: dict[str, Callable[[Path, Sequence[Point], Path], str]] = {
    "html": _write_text(page),
    "md": _write_text(markdown),
    "png": _write_pictures,
    "svg": _write_pictures,
}


def _task(at: int, points: Sequence[Point], folder: Path) -> dict[str, Any]:
    baselines = read_baselines(folder, points[0].task)
    return {
        "title": _title(points),
        "curve": Markup(figures.curve_picture(f"task-{at}", points, baselines).svg()),
        "columns": COLUMNS,
        "points": _point_rows(points),
        "baselines": _baseline_rows(baselines),
        "files": [
            _file(f"task-{at}-file-{number}", point) for number, point in enumerate(front(points))
        ],
    }


def _title(points: Sequence[Point]) -> str:
    network, data, images = points[0].task
    return f"{network} on {data}, {images} error"


def _point_rows(points: Sequence[Point]) -> list[_Row]:
    best = front(points)
    rows = []
    for point in sorted(points, key=lambda point: point.mean("file_bytes")):
        size = point.mean("file_bytes")
        cells = [
            _cell(point.name),
            _cell(point.first.result["alpha"], ".3g"),
            _cell(len(point.runs)),
            _spread(point, "file_bytes", ",.0f"),
            _cell(point.first.result["float_bytes"] / size, ",.0f"),
            _spread(point, ERROR, ".2f"),
            _spread(point, "float_error_percent", ".2f"),
            _cell(point.mean("seconds") / 60, ".1f"),
        ]
        rows.append({"cells": cells, "front": point in best})
    return rows


def _baseline_rows(baselines: Sequence[Mapping[str, Any]]) -> list[_Row]:
    return [
        _row(
            _cell(row["name"]),
            _cell(row["file_bytes"], ","),
            _cell(baselines[0]["file_bytes"] / row["file_bytes"], ".1f"),
            _cell(row["error_percent"], ".2f"),
        )
        for row in baselines
    ]


def _file(name: str, point: Point) -> dict[str, Any]:
    """What is worth a look in the file of a point's first run."""
    run = point.first
    after = load_file(run.model)
    largest = figures.largest_matrices(after)
    with Reader(run.model) as reader:
        sizes = {entry.name: entry.size_bytes for entry in reader}
        overhead = reader.overhead_bytes
    shown = [
        (
            figures.size_picture(f"{name}-size", sizes | {"names, index, checksums": overhead}),
            "Where the bytes are.",
        ),
        (
            figures.map_picture(f"{name}-map", largest),
            "Shares of nonzero weights; a row is an output, a column an input.",
        ),
        (
            figures.histogram_picture(f"{name}-levels", largest, _before(run)),
            "Weights at each codebook value"
            + (", over those of the float network." if run.before else "."),
        ),
    ]
    if run.log:
        shown.append((figures.training_picture(f"{name}-log", run.log), "While it trained."))
    size, error = run.result["file_bytes"], run.result[ERROR]
    return {
        "title": f"{point.name}, seed {run.result['seed']}: {size:,} bytes, {error:.2f} %",
        "pictures": [
            {"svg": Markup(picture.svg()), "caption": caption} for picture, caption in shown
        ],
        "tensors": [_tensor(tensor, values, sizes[tensor]) for tensor, values in after.items()],
    }


def _before(run: Run) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(run.before) if run.before else {}


def _tensor(name: str, values: np.ndarray, size: int) -> _Row:
    return _row(
        _cell(name),
        _cell("x".join(map(str, values.shape)) or "()"),
        _cell(len(np.unique(values)), ","),
        _cell(100 * float(np.mean(values == 0)) if values.size else 0.0, ".1f"),
        _cell(8 * size / max(values.size, 1), ".3f"),
        _cell(size, ","),
    )


def _row(*cells: dict[str, Any]) -> _Row:
    return {"cells": cells, "front": False}


def _cell(value: Any, form: str = "") -> dict[str, Any]:
    """A value, by which the table is sorted, and how it reads."""
    return {"value": value, "text": format(value, form)}


def _spread(point: Point, key: str, form: str) -> dict[str, Any]:
    cell, spread = _cell(point.mean(key), form), point.spread(key)
    if spread is not None:
        cell["text"] += f" ± {spread:{form}}"
    return cell


def _as_markdown(columns: Iterable[str], rows: Iterable[_Row]) -> str:
    lines = [list(columns), ["---" for _ in columns]]
    lines += [[cell["text"] for cell in row["cells"]] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _environment(points: Sequence[Point]) -> str:
    """Versions and machines of the runs, each once."""
    said = dict[str, None]()
    for run in (run for point in points for run in point.runs):
        versions = run.result.get("versions", {})
        machine = run.result.get("machine", {})
        words = [f"{name} {version}" for name, version in versions.items()]
        if machine:
            words.append(f"{machine['processor']}, {machine['threads']} threads")
        said[", ".join(words)] = None
    return "; ".join(filter(None, said)) or "not recorded"
