"""Every link of the built site leads somewhere: to a file that is there, an anchor that it has.

mkdocs checks the links of Markdown; this checks what came of them, docstrings and menus included.
Nothing may be loaded from another site either: pages work without a network.
"""

from __future__ import annotations

import logging
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

log = logging.getLogger("mkdocs.hooks.links")
LOADED = {("img", "src"), ("script", "src"), ("link", "href"), ("iframe", "src")}


class Page(HTMLParser):
    """The anchors of a page, what it links to and what it loads."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value for key, value in attrs if value is not None}
        self.anchors |= {given[key] for key in ("id", "name") if key in given}
        loaded = {given[key] for kind, key in LOADED if kind == tag and key in given}
        if given.get("rel") not in ("prev", "next", "canonical", "alternate"):
            self.loaded |= loaded
        if tag == "a" and "href" in given:
            self.links.add(given["href"])


def on_post_build(config: Any) -> None:
    for fault in faults(Path(config.site_dir)):
        log.warning(fault)  # ends a strict build


def faults(site: Path) -> list[str]:
    """One line for each link that leads nowhere, and each thing that comes from elsewhere."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        for link in sorted(page.links | page.loaded):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded and parts.scheme != "data":
                    found.append(f"{where}: loads {link}")
                continue
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not there.is_file():
                found.append(f"{where}: {link} is not there")
            elif parts.fragment and there in pages:
                anchor = unquote(parts.fragment)
                if anchor not in pages[there].anchors | {"__top", ""}:
                    found.append(f"{where}: {link} has no such anchor")
    return found
