"""The table of README: of each network the smallest file that errs no more than the float network.

    python benchmarks/headline.py

Reads results.json of results/mnist and results/cifar10, as `benchmarks/curve.py` wrote them; means
over the seeds. The commit of a row is the one that last changed the files of its runs: commit new
results first.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import commit_of, write_block

ROOT = Path(__file__).parents[1]
RESULTS = (ROOT / "results/mnist", ROOT / "results/cifar10")
HEADS = (
    "network / data",
    "float bytes",
    "file bytes",
    "ratio",
    "test error of the decoded file",
    "of the float network",
    "seeds",
    "commit",
)


def headlines() -> list[tuple[Path, dict[str, Any]]]:
    """The point of each network, on the first data set that it has, with the folder it is from."""
    chosen: dict[str, tuple[Path, dict[str, Any]]] = {}
    data: dict[str, str] = {}
    for folder in RESULTS:
        points = json.loads((folder / "results.json").read_text())["points"]
        for point in points:
            mean, network = point["mean"], point["network"]
            if data.setdefault(network, point["data"]) != point["data"]:
                continue
            if mean["decoded_error_percent"] > mean["float_error_percent"]:
                continue
            best = chosen.get(network)
            if best is None or mean["file_bytes"] < best[1]["mean"]["file_bytes"]:
                chosen[network] = folder, point
    return [*chosen.values()]


def files_of(folder: Path, point: dict[str, Any]) -> list[Path]:
    name = f"{point['curve']}-{point['name']}"
    return [folder / f"{name}-seed-{run['seed']}.ect" for run in point["runs"]]


def table_of(rows: list[tuple[dict[str, Any], str]]) -> str:
    """Points and their commits as Markdown."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---" * len(HEADS) + "|"]
    for point, commit in rows:
        mean, std = point["mean"], point["std"]

        def spread(key: str, digits: int, unit: str = "") -> str:
            text = f"{mean[key]:,.{digits}f}"  # noqa: B023 - called in this round alone
            beside = std[key]  # noqa: B023
            return text + (unit if beside is None else f" ± {beside:,.{digits}f}{unit}")

        lines.append(
            f"| {point['network']} / {point['data']} | {point['float_bytes']:,} "
            f"| {spread('file_bytes', 0)} | {point['float_bytes'] / mean['file_bytes']:,.0f} "
            f"| {spread('decoded_error_percent', 2, ' %')} "
            f"| {spread('float_error_percent', 2, ' %')} | {len(point['runs'])} | {commit} |"
        )
    return "\n".join(lines)


def main() -> None:
    rows = [(point, commit_of(*files_of(folder, point))) for folder, point in headlines()]
    write_block(ROOT / "README.md", "headline", table_of(rows))


if __name__ == "__main__":
    main()
