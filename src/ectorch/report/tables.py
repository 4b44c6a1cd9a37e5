"""Tables for the terminal, from results and files."""

from __future__ import annotations

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
        ("order-0 estimate of the file", "", f"{result['estimate_bytes']:,.0f} bytes"),
        (
            "MDL: training labels + file",
            "",
            f"{result['labels_bytes']:,.0f} + {result['file_bytes']:,}"
            f" = {result['mdl_bytes']:,.0f} bytes",
        ),
    ):
        table.add_row(*row)
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
