"""``ectorch inspect``."""

from __future__ import annotations

from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.cli.terminal import EctFile, MaxDecoded, say, tables


def inspect(source: EctFile, max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES) -> None:
    """Show every tensor: shape, levels used, zeros, bits a weight, bytes; totals and overhead."""
    from ectorch.report.tables import inspect_table

    with Reader(source, max_decoded_bytes) as reader:
        tables.print(inspect_table(reader))
        for key, value in reader.metadata.items():
            say(f"{key} = {value}")
