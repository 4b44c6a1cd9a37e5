"""Tables for the terminal, from results and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from ectorch.bitstream import Reader
from ectorch.bitstream.codings import Coding


def result_table(result: dict[str, Any]) -> Table:
    """What `ectorch train` ends with. Every size is a file's, unless it says estimate."""
    table = Table(title=f"{result['name']}, {result['data']}, seed {result['seed']}")
    table.add_column("")
    table.add_column("float", justify="right")
    table.add_column("ectorch", justify="right")
    nonzero_percent = 100 * result["nonzeros"] / result["parameters"]
    for row in (
        ("bytes (32-bit floats / file)", f"{result['float_bytes']:,}", f"{result['file_bytes']:,}"),
        ("ratio", "1", f"{result['ratio']:.0f}"),
        (
            f"{result['evaluated_on']} error (file: decoded)",
            f"{result['float_error_percent']:.2f} %",
            f"{result['decoded_error_percent']:.2f} %",
        ),
        (
            "nonzero parameters",
            f"{result['parameters']:,}",
            f"{result['nonzeros']:,} ({nonzero_percent:.2f} %)",
        ),
        (
            "MDL: training labels + file",
            "",
            f"{result['labels_bytes']:,.0f} + {result['file_bytes']:,}"
            f" = {result['mdl_bytes']:,.0f} bytes",
        ),
    ):
        table.add_row(*row)
    return table


def curve_table(results: list[dict[str, Any]]) -> Table:
    """What `ectorch sweep` ends with: a row a point."""
    first = results[0]
    table = Table(title=f"{first['name']}, {first['data']}, seed {first['seed']}")
    error = f"{first['evaluated_on']} error"
    for heading in ("point", "alpha", "file bytes", "ratio", error, "minutes"):
        table.add_column(heading, justify="left" if heading == "point" else "right")
    for result in results:
        table.add_row(
            result["point"],
            f"{result['alpha']:.3g}",
            f"{result['file_bytes']:,}",
            f"{result['ratio']:.0f}",
            f"{result['decoded_error_percent']:.2f} %",
            f"{result['seconds'] / 60:.1f}",
        )
    return table


@dataclass(frozen=True, eq=False)
class Stored:
    """A file of tensors.

    Attributes:
        sizes: stored bytes of each tensor.
    """

    name: str
    file_bytes: int
    sizes: Mapping[str, int]
    tensors: Mapping[str, np.ndarray]


def compare_table(files: Sequence[Stored]) -> Table:
    """Files side by side: stored bytes, levels in use and nonzeros of every tensor any has."""
    table = Table()
    table.add_column("tensor")
    for file in files:
        table.add_column(f"{file.name}\nbytes", justify="right")
        table.add_column("levels", justify="right")
        table.add_column("nonzeros", justify="right")
    for name in sorted({name for file in files for name in file.tensors}):
        row = [name]
        for file in files:
            values = file.tensors.get(name)
            row += (
                ["", "", ""]
                if values is None
                else [
                    f"{file.sizes[name]:,}",
                    f"{len(np.unique(values)):,}",
                    f"{np.count_nonzero(values):,}",
                ]
            )
        table.add_row(*row)
    table.add_section()
    totals = ["file"]
    for file in files:
        nonzeros = sum(np.count_nonzero(values) for values in file.tensors.values())
        totals += [f"{file.file_bytes:,}", "", f"{nonzeros:,}"]
    table.add_row(*totals)
    return table


def inspect_table(reader: Reader) -> Table:
    """Every tensor of a file: levels in use, sparsity, bits a weight, bytes; then the totals."""
    table = Table()
    table.add_column("tensor")
    for heading in ("shape", "dtype", "coding", "levels", "zeros", "bits/weight", "bytes"):
        table.add_column(heading, justify="right")
    weights = payload_bytes = 0
    for entry in reader:
        bits = reader.read(entry.name).bits
        size = entry.size_bytes
        coding = entry.coding.name.lower()
        table.add_row(
            entry.name,
            "x".join(map(str, entry.shape)) or "()",
            entry.dtype,
            f"{coding} {entry.alias_of}" if entry.coding == Coding.ALIAS else coding,
            f"{len(np.unique(bits)):,}",
            f"{100 * np.mean(bits == 0):.1f} %" if len(bits) else "",
            f"{8 * size / len(bits):.3f}" if len(bits) else "",
            f"{size:,}",
        )
        weights += len(bits)
        payload_bytes += size
    table.add_section()
    per_weight = f"{8 * payload_bytes / weights:.3f}" if weights else ""
    table.add_row("tensors", f"{weights:,}", "", "", "", "", per_weight, f"{payload_bytes:,}")
    overhead = f"{reader.overhead_bytes:,}"
    table.add_row("names, index, checksums", "", "", "", "", "", "", overhead)
    table.add_row("file", "", "", "", "", "", "", f"{reader.size_bytes:,}")
    return table
