"""The pages of a folder make its section: whoever adds one need not edit mkdocs.yml.

A section is in the order of its index.md, which links its pages; pages that it does not name follow
by name. What lies in docs/ itself and stands nowhere else belongs to the guide.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

SECTIONS = {"Guide": "guide", "How to": "how-to"}


def on_config(config: Any) -> Any:
    docs = Path(config.docs_dir)
    elsewhere = set(_pages(config.nav))
    filled = []
    for part in config.nav:
        title = next(iter(part)) if isinstance(part, dict) else None
        if title in SECTIONS:
            pages = _in_order(docs / SECTIONS[title])
            if title == "Guide":
                pages += [page for page in sorted(docs.glob("*.md")) if page.name not in elsewhere]
            part = {title: [page.relative_to(docs).as_posix() for page in pages]}
        if part != {title: []}:
            filled.append(part)
    config.nav = filled
    return config


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    parts = nav.values() if isinstance(nav, dict) else nav
    return [page for part in parts for page in _pages(part)]


def _in_order(folder: Path) -> list[Path]:
    index = folder / "index.md"
    words = index.read_text() if index.exists() else ""
    told = [folder / name for name in re.findall(r"\]\(([\w.-]+\.md)[)#]", words)]
    known = sorted(folder.glob("*.md"))
    order = [index, *told, *known]
    return [page for page in dict.fromkeys(order) if page in known]
