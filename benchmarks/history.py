"""The commit of results that are older than `provenance`, as git's history has it.

    python benchmarks/history.py results/mnist/results.json benchmarks/results/step.json

A file gets the commit that last changed what it says; each run of a ``results.json``, and each row
of ``baselines.json``, the first one that had it. All are marked, ``commit_from: "history"``. What
names its commit is left as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from provenance import FROM_HISTORY, git, write_results

TOLD_APART = ("predictions_sha256", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", help="JSON files of the checkout")
    for path in parser.parse_args().results:
        written, versions = json.loads(path.read_text()), list(history(path))
        for run in _parts(written):
            if "commit" not in run:
                run |= {"commit": first(run, versions)} | FROM_HISTORY
        if "commit" not in written and isinstance(written, dict):
            written = {"commit": versions[-1][0]} | FROM_HISTORY | written
        write_results(path, written)


def _parts(written: Any) -> list[dict[str, Any]]:
    """What was measured at different times: runs, or the rows of a file that is a list."""
    if isinstance(written, list):
        return written
    return [run for point in written.get("points", ()) for run in point["runs"]]


def history(path: Path) -> Iterator[tuple[str, Any]]:
    """Commits that changed a file, oldest first, and what it said then."""
    log = git("log", "--follow", "--reverse", "--format=%x00%H", "--name-status", "--", str(path))
    for entry in log.split("\0")[1:]:
        commit, *changed = entry.split()
        if changed[0] in ("A", "M"):  # not moved as it was
            yield commit, json.loads(git("show", f"{commit}:{changed[-1]}"))


def first(run: dict[str, Any], versions: list[tuple[str, Any]]) -> str:
    own = {key: run[key] for key in TOLD_APART if key in run} or run
    return next(
        commit for commit, said in versions for kept in _parts(said) if own.items() <= kept.items()
    )


if __name__ == "__main__":
    main()
