"""Docstrings as Markdown: doctests are blocks of code; a name in single backticks is a link.

As in Sphinx, `name` stands for an object of ectorch and ``code`` for code. A link is made where the
reference has the object, the public one first; other names stay code.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

REFERENCE = Path(__file__).resolve().parents[1] / "docs/reference"
NAME = re.compile(r"(?<![`\w])`([\w.]+)`(?!`)")


class Docstrings(griffe.Extension):
    """Rewrites the docstrings of a package before they are parsed."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        if not obj.is_alias and obj.docstring:
            obj.docstring.value = NAME.sub(_linked, _fenced(obj.docstring.value))


def _fenced(text: str) -> str:
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        if line.lstrip().startswith(">>> ") and not inside:
            indent = line[: len(line) - len(line.lstrip())]
            lines += ["", f"{indent}```pycon"]
            inside = True
        elif inside and not line.strip():
            lines.append(f"{indent}```")
            inside = False
        lines.append(line)
    return "\n".join([*lines, f"{indent}```"] if inside else lines)


def _linked(match: re.Match[str]) -> str:
    name = match[1]
    for shown in _shown():
        if name in (shown, shown.rpartition(".")[2]) or f"ectorch.{name}" == shown:
            return f"[`{name.removeprefix('ectorch.')}`][{shown}]"
    return match[0]


@cache
def _shown() -> list[str]:
    """What pages of the reference show: their lines `::: name`."""
    pages = sorted(REFERENCE.glob("*.md"))
    names = [name for page in pages for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)]
    return sorted(names, key=lambda name: name.count("."))
