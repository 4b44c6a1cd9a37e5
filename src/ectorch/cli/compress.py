"""``ectorch compress``."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ectorch.cli.tensors import read_tensors, size_bytes
from ectorch.cli.terminal import check_ending, parse_size, say
from ectorch.errors import ConfigError


def compress(
    source: Annotated[
        Path,
        typer.Argument(
            help=".safetensors, an index or folder of shards of it, or .pt with tensors only"
        ),
    ],
    target: Annotated[Path, typer.Argument(help="the .ect file to write")],
    target_size: Annotated[
        str | None, typer.Option(help="round weights until the file has this size, as 8MB")
    ] = None,
    bits: Annotated[
        float | None, typer.Option(min=0.01, help="the same, in bits of the file for each number")
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="change no number; so it is without a size")
    ] = False,
    keep: Annotated[
        list[str] | None, typer.Option(help="names that stay float, as 'head.*'; may be repeated")
    ] = None,
    preset: Annotated[str, typer.Option(help="small, balanced or fast")] = "small",
    threads: Annotated[int | None, typer.Option(min=1, help="all cores if absent")] = None,
) -> None:
    """Store a checkpoint: losslessly, or rounded to a size.

    Losslessly few values become a codebook and symbols, others exact floats. To a size weights are
    rounded, each tensor to a grid of its own, without data; which stay float is printed. Of a
    training's checkpoint the network is stored, under whatever key, where it is the one state dict
    in it. SOURCE is never changed.
    """
    from ectorch.storage.files import save_file

    check_ending(target, ".ect")
    sizes = [target_size, bits, lossless or None]
    if sum(size is not None for size in sizes) > 1:
        raise ConfigError("give one of --target-size, --bits and --lossless")
    if keep and target_size is None and bits is None:
        raise ConfigError("--keep: without --target-size or --bits no number changes")
    tensors: Mapping[str, Any]
    tensors, metadata, found = read_tensors(source)
    if found:
        say(found)
    if target_size is not None or bits is not None:
        numbers = sum(tensor.numel() for tensor in tensors.values())
        asked = (
            parse_size("--target-size", target_size)
            if target_size
            else int((bits or 0) * numbers / 8)
        )
        tensors = _rounded(tensors, asked, tuple(keep or ()), metadata, preset, threads, target)
    size = save_file(tensors, target, metadata, preset, threads)
    before = size_bytes(source)
    say(f"{source} {before:,} bytes -> {target} {size:,} bytes (x{before / size:.1f})")


def _rounded(
    tensors: Mapping[str, Any],
    target_bytes: int,
    keep: tuple[str, ...],
    metadata: Mapping[str, str],
    preset: str,
    threads: int | None,
    target: Path,
) -> Mapping[str, Any]:
    from ectorch.posttrain.tensors import floats_of, round_tensors
    from ectorch.storage.files import save_file

    for name, why in floats_of(tensors, keep).items():
        say(f"  {name} stays float: {why}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:

        def size(rounded: Mapping[str, Any]) -> int:
            written = save_file(rounded, Path(folder) / "try.ect", metadata, preset, threads)
            say(f"  {written:,} bytes")
            return written

        return round_tensors(tensors, size, target_bytes, keep)
