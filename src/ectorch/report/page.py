"""The page that shows results: self-contained, for a screen of any width and for paper."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ectorch.bitstream import Reader, write_atomic
from ectorch.bitstream.file.index import Entry
from ectorch.experiments.baselines import add_baselines, read_baselines
from ectorch.experiments.own import is_own
from ectorch.report import figures
from ectorch.report.gather import ERROR, Point, front, roots, tasks_of
from ectorch.report.matrices import float_tensors, largest_matrices
from ectorch.report.tables import Summary, summary
from ectorch.report.text import as_markdown, markdown_table, printable

_Row = dict[str, Any]
COLUMNS = ("point", "alpha", "runs", "bytes", "ratio", "error, %", "float, %", "minutes")


def page(points: Sequence[Point]) -> str:
    """The page of ``points``.

    Raises:
        FormatError: when a file of them is damaged.
        OSError: when it is missing.
    """
    template = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    ).from_string((files("ectorch.report") / "page.html.jinja").read_text())
    return template.render(
        title=printable(f"Results in {', '.join(root.resolve().name for root in roots(points))}"),
        tasks=[_task(at, own) for at, own in enumerate(tasks_of(points))],
        environment=_environment(points),
    )


def markdown(points: Sequence[Point]) -> str:
    """The tables of the page for a README."""
    parts = []
    for own in tasks_of(points):
        parts += [
            f"### {as_markdown(_title(own))}",
            "",
            _markdown_table(COLUMNS, _point_rows(own)),
            "",
        ]
        baselines = _baseline_rows(_baselines(own))
        if baselines:
            parts += [_markdown_table(("stored as", "bytes", "ratio", "error, %"), baselines), ""]
    return "\n".join([*parts, as_markdown(_environment(points)), ""])


def measure_baselines(
    points: Sequence[Point],
    say: Callable[[str], object],
    trusted: Collection[str] = (),
) -> None:
    """Measure other ways to store the float networks that lie with the runs, once, and keep that.

    Args:
        trusted: names of a user's own networks and loaders that may be run: results may be a
            stranger's, and name any code.
    """
    for own in tasks_of(points):
        kept = [
            (run.root, run.result["recipe"], run.before)
            for point in own
            for run in point.runs
            if run.before
        ]
        if not kept or _baselines(own):
            continue
        network, data, _ = own[0].task
        if any(is_own(name) and name not in trusted for name in (network, data)):
            say(
                f"{_title(own)}: other ways to store the float network are measured with --network "
                f"{network} --data {data}, which runs that code"
            )
            continue
        say(f"measuring other ways to store the float network of {_title(own)}")
        root, recipe, before = kept[0]
        add_baselines(root, own[0].task, recipe, before)


def _write_pictures(form: str, points: Sequence[Point], out: Path) -> str:
    """A picture a task: of several, each has its number before the suffix."""
    tasks = tasks_of(points)
    paths = []
    for at, own in enumerate(tasks):
        name = out.name if len(tasks) == 1 else f"{out.stem}-{at + 1}{out.suffix}"
        baselines = _baselines(own)
        figures.curve_picture("curve", own, baselines).save(out.with_name(name), form)
        paths.append(str(out.with_name(name)))
    return ", ".join(paths)


def _write_text(
    make: Callable[[Sequence[Point]], str],
) -> Callable[[Sequence[Point], Path], str]:
    def write(points: Sequence[Point], out: Path) -> str:
        write_atomic(out, make(points).encode())
        return str(out)

    return write


WRITERS: dict[str, Callable[[Sequence[Point], Path], str]] = {
    "html": _write_text(page),
    "md": _write_text(markdown),
    "png": partial(_write_pictures, "png"),
    "svg": partial(_write_pictures, "svg"),
}


def _task(at: int, points: Sequence[Point]) -> dict[str, Any]:
    baselines = _baselines(points)
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


def _baselines(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Those of the task of ``points``, of the first of their folders that has any."""
    found = (read_baselines(root, points[0].task) for root in roots(points))
    return next(filter(None, found), [])


def _title(points: Sequence[Point]) -> str:
    network, data, images = points[0].task
    return printable(f"{network} on {data}, {images} error")


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
    with Reader(run.model) as reader:
        rows = [(e, summary(reader.read(e.name), e.size_bytes)) for e in reader]
        rest = reader.overhead_bytes
    sizes = {entry.name: own.size_bytes for entry, own in rows}
    shown = [(figures.size_picture(f"{name}-size", sizes, rest), "Where the bytes are.")]
    if largest := largest_matrices(run.model):
        before = float_tensors(run.before, largest)
        shown += [
            (
                figures.map_picture(f"{name}-map", largest),
                "Shares of nonzero weights; a row is an output, a column an input.",
            ),
            (
                figures.histogram_picture(f"{name}-levels", largest, before),
                "Weights at each codebook value"
                + (", over those of the float network." if before else "."),
            ),
        ]
    if run.log:
        shown.append((figures.training_picture(f"{name}-log", run.log), "While it trained."))
    size, error = run.result["file_bytes"], run.result[ERROR]
    title = f"{point.name}, seed {run.result['seed']}: {size:,} bytes, {error:.2f} %"
    return {
        "title": printable(title),
        "pictures": [
            {"svg": Markup(picture.svg()), "caption": caption} for picture, caption in shown
        ],
        "tensors": [_tensor(entry, own) for entry, own in rows],
    }


def _tensor(entry: Entry, own: Summary) -> _Row:
    items = max(own.items, 1)
    return _row(
        _cell(entry.name),
        _cell("x".join(map(str, entry.shape)) or "()"),
        _cell(own.levels, ","),
        _cell(100 * (own.items - own.nonzeros) / items, ".1f"),
        _cell(8 * own.size_bytes / items, ".3f"),
        _cell(own.size_bytes, ","),
    )


def _row(*cells: dict[str, Any]) -> _Row:
    return {"cells": cells, "front": False}


def _cell(value: Any, form: str = "") -> dict[str, Any]:
    """A value, by which the table is sorted, and how it reads."""
    if isinstance(value, str):
        value = printable(value)
    return {"value": value, "text": format(value, form)}


def _spread(point: Point, key: str, form: str) -> dict[str, Any]:
    return {"value": point.mean(key), "text": point.text(key, form)}


def _markdown_table(columns: Collection[str], rows: Iterable[_Row]) -> str:
    cells = ([as_markdown(cell["text"]) for cell in row["cells"]] for row in rows)
    return markdown_table(columns, cells)


def _environment(points: Sequence[Point]) -> str:
    """Versions, machines and commits of the runs, and of other ways to store, each once."""
    said = dict[str, None]()
    for run in (run for point in points for run in point.runs):
        versions = run.result.get("versions", {})
        machine = run.result.get("machine")
        words = [f"{name} {version}" for name, version in versions.items()]
        if machine:
            words.append(f"{machine['processor']}, {machine['threads']} threads")
            if machine.get("device", "cpu") != "cpu":
                words.append(" ".join(filter(None, (machine["device"], machine.get("card")))))
        if len(places := run.result.get("devices", [])) > 1:
            words.append(f"trained on {', then '.join(places)}")
        said[", ".join(words)] = None
    commits = dict.fromkeys(commit for point in points for commit in point.commits)
    for own in tasks_of(points):
        rows = _baselines(own)
        commits |= dict.fromkeys(row["commit"][:10] for row in rows if row.get("commit"))
    if commits:
        said[f"commit {', '.join(commits)}"] = None
    return printable("; ".join(filter(None, said)) or "not recorded")
