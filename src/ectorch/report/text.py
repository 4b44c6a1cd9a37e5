"""Words that others chose, made fit to be shown: in a terminal, a table, a picture, in Markdown."""

from __future__ import annotations

import html
import re
from collections.abc import Collection, Iterable

from rich.text import Text

_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")


def printable(text: str) -> str:
    """``text`` with characters that steer and do not show as Python writes them: ``\\x1b``."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def cell(text: str) -> Text:
    """A cell of a table, without markup; what does not fit goes on below."""
    return Text(printable(text), overflow="fold")


def as_markdown(text: str) -> str:
    """``text`` in a table of Markdown: no HTML, no links, no formatting."""
    return _MARKDOWN.sub(r"\\\1", html.escape(printable(text), quote=False))


def markdown_table(columns: Collection[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; cells stand in it as they are."""
    head, *lines = (f"| {' | '.join(cells)} |" for cells in (columns, *rows))
    return "\n".join([head, "|" + "---|" * len(columns), *lines])


def shortened(text: str, length: int) -> str:
    """``text`` for a picture: its ends, where it is longer; not for what must be told apart."""
    text = printable(text)
    kept = (length - 1) // 2
    return text if len(text) <= length else f"{text[:kept]}…{text[-kept:]}"
