"""Points that were measured, a line of JSON each: whoever is interrupted goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """All rows; a last line that was not finished is none."""
    if not path.exists():
        return []
    whole, _, _ = path.read_text().rpartition("\n")
    return [json.loads(line) for line in whole.splitlines()]


def append_row(path: Path, row: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    if text and not text.endswith("\n"):  # of a process that was killed
        path.write_text(text.rpartition("\n")[0] + "\n" if "\n" in text else "")
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def find_row(rows: list[Row], key: Mapping[str, Any]) -> Row | None:
    """The first row that has every entry of a key."""
    return next((row for row in rows if row.items() >= key.items()), None)
