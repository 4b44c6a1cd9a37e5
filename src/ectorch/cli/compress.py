"""``ectorch compress``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ectorch.cli.tensors import read_tensors
from ectorch.cli.terminal import check_ending, say


def compress(
    source: Annotated[Path, typer.Argument(help=".safetensors, or .pt with tensors only")],
    target: Annotated[Path, typer.Argument(help="the .ect file to write")],
    preset: Annotated[str, typer.Option(help="small, balanced or fast")] = "small",
    threads: Annotated[int | None, typer.Option(min=1, help="all cores if absent")] = None,
) -> None:
    """Store tensors losslessly: few values as a codebook and symbols, others as exact floats.

    Of a training's checkpoint the network is stored, under whatever key, where it is the one state
    dict in it.
    """
    from ectorch.storage.files import save_file

    check_ending(target, ".ect")
    tensors, metadata, found = read_tensors(source)
    if found:
        say(found)
    size = save_file(tensors, target, metadata, preset, threads)
    before = source.stat().st_size
    say(f"{source} {before:,} bytes -> {target} {size:,} bytes (x{before / size:.1f})")
