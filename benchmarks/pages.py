"""Tables of pages, each between two marks that name it."""

from __future__ import annotations

import subprocess
from pathlib import Path

BEGIN, END = "<!-- results of {} -->", "<!-- end of results -->"


def block(name: str, table: str) -> str:
    """What stands in a page: the table between its marks."""
    return f"{BEGIN.format(name)}\n{table}\n{END}"


def write_block(page: Path, name: str, table: str) -> None:
    """Write a table anew where its marks stand in a page.

    Raises:
        ValueError: when the page has no such marks.
    """
    before, begin, rest = page.read_text().partition(BEGIN.format(name))
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page}: no {BEGIN.format(name)} with {END} behind it")
    page.write_text(before + block(name, table) + after)


def commit_of(*files: Path) -> str:
    """The commit that last changed any of ``files``."""
    command = ["git", "log", "-1", "--format=%H", "--", *(file.name for file in files)]
    return subprocess.check_output(command, cwd=files[0].parent, text=True).strip()[:10]
