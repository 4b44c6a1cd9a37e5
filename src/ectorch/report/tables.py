"""Tables for the terminal, from results and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from ectorch.bitstream import Reader
from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.tensor import RawTensor
from ectorch.report.text import cell


def result_table(result: dict[str, Any]) -> Table:
    """What `ectorch train` ends with. Every size is a file's, unless it says estimate."""
    table = _table("", "float", "ectorch", title=_title(result))
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
    error = f"{results[0]['evaluated_on']} error"
    table = _table(
        *("point", "alpha", "file bytes", "ratio", error, "minutes"),
        title=_title(results[0]),
    )
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


def recipes_table(rows: Sequence[tuple[str, str, str, str, str]]) -> Table:
    """What `ectorch recipes` shows: name, network, data, what it is and how long it takes."""
    table = Table(title="recipes that ship: ectorch train NAME, ectorch recipes NAME")
    for heading in ("name", "network", "data", "what", "takes"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(cell, row))
    return table


@dataclass(frozen=True)
class Summary:
    """A stored tensor in numbers.

    Attributes:
        size_bytes: stored.
        levels: distinct bit patterns.
        nonzeros: items that are neither 0 nor -0.
    """

    items: int
    size_bytes: int
    levels: int
    nonzeros: int


def summary(tensor: RawTensor, size_bytes: int) -> Summary:
    bits = tensor.bits
    nonzeros = np.count_nonzero(bits & _magnitude(tensor.dtype, bits.dtype))
    return Summary(len(bits), size_bytes, len(np.unique(bits)), int(nonzeros))


@dataclass(frozen=True)
class Stored:
    """A file of tensors by name."""

    name: str
    file_bytes: int
    tensors: Mapping[str, Summary]


def compare_table(files: Sequence[Stored]) -> Table:
    """Files side by side: stored bytes, levels in use and nonzeros of every tensor any has."""
    columns = [(Text.assemble(cell(f.name), "\nbytes"), "levels", "nonzeros") for f in files]
    table = _table("tensor", *(heading for own in columns for heading in own))
    for name in sorted({name for file in files for name in file.tensors}):
        row: list[str | Text] = [cell(name)]
        for file in files:
            own = file.tensors.get(name)
            numbers = (own.size_bytes, own.levels, own.nonzeros) if own else ()
            row += [f"{number:,}" for number in numbers] or ["", "", ""]
        table.add_row(*row)
    table.add_section()
    totals = ["file"]
    for file in files:
        nonzeros = sum(own.nonzeros for own in file.tensors.values())
        totals += [f"{file.file_bytes:,}", "", f"{nonzeros:,}"]
    table.add_row(*totals)
    return table


def inspect_table(reader: Reader) -> Table:
    """Every tensor of a file: levels in use, sparsity, bits a weight, bytes; then the totals."""
    columns = "tensor", "shape", "dtype", "coding", "levels", "zeros", "bits/weight", "bytes"
    table = _table(*columns)
    weights = payload_bytes = 0
    for entry in reader:
        own = summary(reader.read(entry.name), entry.size_bytes)
        coding = entry.coding.name.lower()
        table.add_row(
            cell(entry.name),
            "x".join(map(str, entry.shape)) or "()",
            entry.dtype,
            cell(f"{coding} {entry.alias_of}" if entry.coding == Coding.ALIAS else coding),
            f"{own.levels:,}",
            f"{100 * (1 - own.nonzeros / own.items):.1f} %" if own.items else "",
            f"{8 * own.size_bytes / own.items:.3f}" if own.items else "",
            f"{own.size_bytes:,}",
        )
        weights += own.items
        payload_bytes += own.size_bytes
    table.add_section()
    per_weight = f"{8 * payload_bytes / weights:.3f}" if weights else ""
    table.add_row("tensors", f"{weights:,}", "", "", "", "", per_weight, f"{payload_bytes:,}")
    overhead = f"{reader.overhead_bytes:,}"
    table.add_row("names, index, checksums", "", "", "", "", "", "", overhead)
    table.add_row("file", "", "", "", "", "", "", f"{reader.size_bytes:,}")
    return table


def _table(first: str, *others: str | Text, title: Text | None = None) -> Table:
    """Nothing in it is cut: the first column folds, and numbers fold last of all."""
    table = Table(title=title)
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right", overflow="fold")
    return table


def _title(result: Mapping[str, Any]) -> Text:
    return cell(f"{result['name']}, {result['data']}, seed {result['seed']}")


def _magnitude(dtype: str, bits: np.dtype[Any]) -> Any:
    """The bits of an item without its signs: all 0 in a zero."""
    signs = 0
    if dtype == "complex64":
        signs = 1 << 63 | 1 << 31
    elif "float" in dtype:
        signs = 1 << (8 * bits.itemsize - 1)
    return np.invert(np.array(signs, bits))
