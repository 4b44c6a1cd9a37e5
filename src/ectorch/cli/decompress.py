"""``ectorch decompress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES
from ectorch.cli.terminal import EctFile, MaxDecoded, check_ending, say


def decompress(
    source: EctFile,
    target: Annotated[Path, typer.Argument(help="the .safetensors file to write")],
    max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES,
) -> None:
    """Write the tensors of an .ect file as .safetensors, bit for bit."""
    from ectorch.bitstream import write_atomic
    from ectorch.storage.files import load_file, to_safetensors
    from ectorch.storage.opening import safe_open

    check_ending(target, ".safetensors")
    tensors = load_file(source, max_decoded_bytes=max_decoded_bytes)
    with safe_open(source, max_decoded_bytes=max_decoded_bytes) as file:
        data = to_safetensors(tensors, file.metadata())
    write_atomic(target, data)
    say(f"{source} {source.stat().st_size:,} bytes -> {target} {len(data):,} bytes")
