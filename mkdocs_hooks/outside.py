"""What pages link to outside of docs/ joins the site: FORMAT.md as a page, tables, pictures.

Pages keep links that also work in a checkout; here they are turned to where the file is in the
site: FORMAT.md in format.md, all others below repository/.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from posixpath import dirname, relpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PLACES = {"FORMAT.md": "format.md"}
LINK = re.compile(r"(\]\()([^)\s#:]+)")  # of Markdown, without its anchor; none to another site


def on_files(files: Any, config: Any) -> Any:
    docs = Path(config.docs_dir)
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages()]
    waiting += [ROOT / source for source in PLACES]
    for page in waiting:  # grows by the pages that join
        if _place(page, docs) not in files.src_uris:
            files.append(_joined(page, config))
        for _, link in LINK.findall(page.read_text()):
            there = Path(os.path.normpath(page.parent / link))
            if not there.is_file() or _place(there, docs) in files.src_uris:
                continue
            if there.suffix == ".md":
                waiting.append(there)
            elif there.is_relative_to(ROOT) and not there.is_relative_to(docs):
                files.append(_joined(there, config))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    docs, source = Path(config.docs_dir), Path(page.file.abs_src_path)

    def turned(match: re.Match[str]) -> str:
        place = _place(Path(os.path.normpath(source.parent / match[2])), docs)
        if place not in files.src_uris:
            return match[0]  # mkdocs says what is wrong with it
        return match[1] + relpath(place, dirname(page.file.src_uri) or ".")

    return LINK.sub(turned, markdown)


def _joined(path: Path, config: Any) -> File:
    return File.generated(config, _place(path, Path(config.docs_dir)), abs_src_path=str(path))


def _place(path: Path, docs: Path) -> str:
    """Where a file of the repository is in the site."""
    if path.is_relative_to(docs):
        return path.relative_to(docs).as_posix()
    if not path.is_relative_to(ROOT):
        return ""
    inside = path.relative_to(ROOT).as_posix()
    return PLACES.get(inside, f"repository/{inside}")
