"""The table of docs/how-to/coders.md: bytes and speed of each preset, from results/coder.json.

    python benchmarks/presets.py

What is measured, and how, is in `benchmarks/coder`.
"""

from __future__ import annotations

import json
from typing import Any

from provenance import ROOT, stamp, write_block

from ectorch.report.text import markdown_table

RESULTS = ROOT / "benchmarks/results/coder.json"
HEADS = ("weights", "their number", "preset", "bytes", "over `small`", "encode, Msym/s", "decode")
PRESETS = ("small", "balanced", "fast")
SETS = (
    "lenet-300-100",
    "lenet-5",
    "vgg-like",
    "minilm embedding 4 bits",
    "minilm embedding 8 bits",
)


def table_of(written: dict[str, Any]) -> str:
    rows: list[list[str]] = []
    sets = {each["set"]: each for each in written["sets"]}
    for name in SETS:
        sides = sets[name]["sides"]
        for at, preset in enumerate(PRESETS):
            side = sides[preset]
            speed = side["threads"]["1"]
            rows.append(
                [
                    *((name, f"{sets[name]['symbols']:,}") if at == 0 else ("", "")),
                    preset,
                    f"{side['bytes']:,}",
                    f"{side['bytes'] / sides['small']['bytes']:.3f}",
                    f"{speed['encode_msym']:.3g}",
                    f"{speed['decode_msym']:,.3g}",
                ]
            )
    machine = f"{written['machine']['cpu']}, one thread"
    return f"{markdown_table(HEADS, rows)}\n\n{stamp(written)} {machine}."


def main() -> None:
    written = json.loads(RESULTS.read_text())
    write_block(ROOT / "docs/how-to/coders.md", "presets", table_of(written))


if __name__ == "__main__":
    main()
