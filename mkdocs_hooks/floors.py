"""The floors of the package as a picture, from the contracts that import-linter checks.

    python mkdocs_hooks/floors.py      # writes docs/assets/floors.svg

A box is a room; what lies lower may be imported from above, never the other way round, and rooms
beside each other do not import each other. A room that has floors of its own shows them.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs/assets/floors.svg"
WIDTH, MARGIN, GAP, LINE, HEAD = 760, 12, 8, 21, 30  # pixels


def main() -> None:
    PICTURE.write_text(picture(floors_of((ROOT / "pyproject.toml").read_text())))


def floors_of(pyproject: str) -> dict[str, list[list[str]]]:
    """Container -> its floors from top to bottom, each the rooms on it."""
    contracts = tomllib.loads(pyproject)["tool"]["importlinter"]["contracts"]
    return {
        contract["containers"][0]: [
            [room.strip(" ()") for room in floor.split("|")] for floor in contract["layers"]
        ]
        for contract in contracts
        if contract["type"] == "layers"
    }


def picture(floors: dict[str, list[list[str]]]) -> str:
    boxes: list[str] = []
    y = MARGIN
    for rooms in floors["ectorch"]:
        inner = [floors.get(f"ectorch.{room}", []) for room in rooms]
        height = HEAD + max(len(lines) for lines in inner) * LINE + (6 if any(inner) else 0)
        # a room that shows floors takes the place of three that do not
        shares = [3 if lines else 1 for lines in inner]
        free = WIDTH - 2 * MARGIN - GAP * (len(rooms) - 1)
        x = float(MARGIN)
        for room, lines, share in zip(rooms, inner, shares, strict=True):
            width = free * share / sum(shares)
            boxes += _box(x, y, width, height, room, lines)
            x += width + GAP
        y += height + GAP
    height = y - GAP + MARGIN
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">',
            "<title>The rooms of ectorch; imports go down only</title>",
            "<style>text { font: 13px ui-monospace, Menlo, Consolas, monospace; fill: #1b1f3b; } "
            ".room { font-weight: bold; font-size: 14px; } .back { fill: #ffffff; } "
            ".box { fill: #e8eaf6; stroke: #5c6bc0; } .floor { fill: #ffffff; }</style>",
            f'<rect class="back" width="{WIDTH}" height="{height}" rx="6"/>',
            *boxes,
            "</svg>\n",
        ]
    )


def _box(
    x: float, y: int, width: float, height: int, room: str, floors: list[list[str]]
) -> list[str]:
    shapes = [
        f'<rect class="box" x="{x:.0f}" y="{y}" width="{width:.0f}" height="{height}" rx="4"/>',
        f'<text class="room" x="{x + 10:.0f}" y="{y + 20}">{escape(room)}</text>',
    ]
    for number, rooms in enumerate(floors):
        top = y + HEAD + number * LINE
        shapes += [
            f'<rect class="floor" x="{x + 10:.0f}" y="{top}" width="{width - 20:.0f}" '
            f'height="{LINE - 2}"/>',
            f'<text x="{x + 18:.0f}" y="{top + 14}">{escape(", ".join(rooms))}</text>',
        ]
    return shapes


if __name__ == "__main__":
    main()
