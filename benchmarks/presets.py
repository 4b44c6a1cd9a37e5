"""The table of docs/how-to/coders.md: bytes and speed of each preset, from results/coder.json.

    python benchmarks/presets.py

What is measured, and how, is in `benchmarks/coder.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import commit_of, write_block

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/coder.json"
PRESETS = ("small", "balanced", "fast")
SETS = (
    "lenet-300-100",
    "lenet-5",
    "vgg-like",
    "minilm embedding 4 bits",
    "minilm embedding 8 bits",
)


def table_of(written: dict[str, Any], commit: str) -> str:
    lines = [
        "| weights | their number | preset | bytes | over `small` | encode, Msym/s | decode |",
        "|---|---|---|---|---|---|---|",
    ]
    sets = {each["set"]: each for each in written["sets"]}
    for name in SETS:
        sides = sets[name]["sides"]
        for at, preset in enumerate(PRESETS):
            side = sides[preset]
            speed = side["threads"]["1"]
            first = f"| {name} | {sets[name]['symbols']:,} " if at == 0 else "| | "
            lines.append(
                f"{first}| {preset} | {side['bytes']:,} "
                f"| {side['bytes'] / sides['small']['bytes']:.3f} "
                f"| {speed['encode_msym']:.3g} | {speed['decode_msym']:,.3g} |"
            )
    machine = f"{written['machine']['cpu']}, one thread"
    return "\n".join([*lines, "", f"`python benchmarks/coder.py`, {machine}; commit {commit}."])


def main() -> None:
    table = table_of(json.loads(RESULTS.read_text()), commit_of(RESULTS))
    write_block(ROOT / "docs/how-to/coders.md", "presets", table)


if __name__ == "__main__":
    main()
