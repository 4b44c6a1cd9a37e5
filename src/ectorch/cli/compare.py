"""``ectorch compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.cli.tensors import read_tensors
from ectorch.cli.terminal import MaxDecoded, readable, say, tables


def compare(
    sources: Annotated[list[Path], typer.Argument(help=".ect, .safetensors or .pt files")],
    max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES,
) -> None:
    """Show networks side by side: bytes, levels and nonzeros of every tensor, and the totals."""
    from ectorch.report.tables import Stored, compare_table, summary

    files = []
    for source in sources:
        if source.suffix == ".ect":
            with Reader(readable(source), max_decoded_bytes) as reader:
                rows = {e.name: summary(reader.read(e.name), e.size_bytes) for e in reader}
        else:
            from ectorch.storage.tensors import to_raw  # .ect files are read without torch

            tensors, _, found = read_tensors(source)
            if found:
                say(found)
            rows = {
                name: summary(to_raw(name, tensor), tensor.nbytes)
                for name, tensor in tensors.items()
            }
        files.append(Stored(str(source), source.stat().st_size, rows))
    tables.print(compare_table(files))
