"""Where results come from: what every results file says of its making, and every table below it.

A results file is one JSON object. Beside what was measured it has the keys of `provenance`, or,
where it is older than these, what `history.py` found of them, with ``commit_from: "history"``.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
FROM_HISTORY = {"commit_from": "history"}
_CODE = ("src", "native", "benchmarks", "tests/cases", ":!benchmarks/results")
_PACKAGES = ("torch", "numpy")
_DIGITS = 10


def provenance(seeds: Iterable[int] = (), packages: Iterable[str] = ()) -> dict[str, Any]:
    """What is known before anything is measured: call it first.

    Args:
        seeds: of everything that is drawn.
        packages: whose versions matter beside torch's and numpy's.

    Returns:
        `commit` of the checkout; `dirty`, whether code in it differs from that; `command`,
        `machine`, with the mean number of running processes as `load`; `versions`; `seeds`.

    Raises:
        subprocess.CalledProcessError: where there is no checkout.
    """
    import ectorch

    versions = {name: importlib.metadata.version(name) for name in (*_PACKAGES, *packages)}
    return {
        "commit": git("rev-parse", "HEAD").strip(),
        "dirty": bool(git("status", "--porcelain", "--", *_CODE)),
        "command": _command(),
        "machine": {
            "processor": platform.machine(),
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "load": round(os.getloadavg()[0], 2),
        },
        "versions": {
            "ectorch": ectorch.__version__,
            **versions,
            "python": platform.python_version(),
        },
        "seeds": list(seeds),
    }


def stamp(written: Mapping[str, Any]) -> str:
    """The line below a table of a results file: command and commit."""
    command = f"`{written['command']}`, commit" if "command" in written else "Commit"
    commit = written["commit"][:_DIGITS]
    changed = " with changes that are not in it" if written.get("dirty") else ""
    found = " (which brought these results)" if written.get("commit_from") else ""
    return f"{command} {commit}{changed}{found}."


def write_results(path: Path, written: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(written, indent=2) + "\n")


def write_block(page: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- results of NAME -->`` and ``<!-- end of results -->``.

    Raises:
        ValueError: where the page has no such marks.
    """
    begin, end = f"<!-- results of {name} -->", "<!-- end of results -->"
    block = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    new, count = block.subn(lambda _: f"{begin}\n{text}\n{end}", page.read_text())
    if count != 1:
        raise ValueError(f"{page}: {count} blocks {begin} ... {end}, expected 1")
    page.write_text(new)


def git(*arguments: str) -> str:
    return subprocess.check_output(["git", "-C", str(ROOT), *arguments], text=True)


def _command() -> str:
    script, *arguments = sys.argv
    path = Path(script).resolve()
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name
    return shlex.join(["python", str(shown), *arguments])


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
