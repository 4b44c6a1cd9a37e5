"""The table of README: of each network the smallest file that errs no more than the float network.

    python benchmarks/headline.py

Reads results/mnist and results/cifar10, as `benchmarks/curve.py` wrote them; means over the seeds.
"""

from __future__ import annotations

from provenance import ROOT, write_block

from ectorch.report.gather import ERROR, Point, gather
from ectorch.report.text import markdown_table

FOLDERS = (ROOT / "results/mnist", ROOT / "results/cifar10")
HEADS = ("network / data", "float bytes", "file bytes", "ratio", "test error of the decoded file")
HEADS += ("of the float network", "seeds", "commit")


def headlines() -> list[Point]:
    """The point of each network, on the first data set that it has."""
    data: dict[str, str] = {}
    chosen: dict[str, Point] = {}
    for point in (point for folder in FOLDERS for point in gather(folder)):
        network, own, _ = point.task
        if data.setdefault(network, own) != own:
            continue
        if point.mean(ERROR) > point.mean("float_error_percent"):
            continue
        best = chosen.setdefault(network, point)
        if point.mean("file_bytes") < best.mean("file_bytes"):
            chosen[network] = point
    return [*chosen.values()]


def table() -> str:
    """As Markdown."""
    return markdown_table(HEADS, map(_row, headlines()))


def _row(point: Point) -> list[str]:
    network, data, _ = point.task
    floats = point.first.result["float_bytes"]
    return [
        f"{network} / {data}",
        f"{floats:,}",
        point.text("file_bytes", ",.0f"),
        f"{floats / point.mean('file_bytes'):,.0f}",
        f"{point.text(ERROR, ',.2f')} %",
        f"{point.text('float_error_percent', ',.2f')} %",
        str(len(point.runs)),
        ", ".join(point.commits),
    ]


def main() -> None:
    write_block(ROOT / "README.md", "headline", table())


if __name__ == "__main__":
    main()
