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
    named = set(_pages(config.nav))
    pages = {title: _in_order(docs / folder) for title, folder in SECTIONS.items()}
    pages["Guide"] += [page for page in sorted(docs.glob("*.md")) if page.name not in named]
    sections = [
        {title: [str(p.relative_to(docs)) for p in pages[title]]} if title in pages else {title: of}
        for item in config.nav
        for title, of in (item.items() if isinstance(item, dict) else [(None, item)])
    ]
    config.nav = [
        section.get(None) or section for section in sections if list(section.values()) != [[]]
    ]
    return config


def _pages(nav: Any) -> list[str]:
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in _pages(part)]


def _in_order(folder: Path) -> list[Path]:
    index = folder / "index.md"
    words = index.read_text() if index.exists() else ""
    told = [folder / name for name in re.findall(r"\]\(([\w.-]+\.md)[)#]", words)]
    known = sorted(folder.glob("*.md"))
    order = [index, *told, *known]
    return [page for page in dict.fromkeys(order) if page in known]
