"""``ectorch decompress``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ectorch.bitstream import DTYPES, RawTensor, write_atomic
from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.cli.terminal import EctFile, MaxDecoded, check_ending, say
from ectorch.errors import UnsupportedTensorError

_SAFETENSORS_DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8": "I8",
    "int16": "I16",
    "int32": "I32",
    "int64": "I64",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
    "complex64": "C64",
}


def decompress(
    source: EctFile,
    target: Annotated[Path, typer.Argument(help="the .safetensors file to write")],
    max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES,
) -> None:
    """Write the tensors of an .ect file as .safetensors, bit for bit."""
    check_ending(target, ".safetensors")
    with Reader(source, max_decoded_bytes) as reader:
        data = to_safetensors(reader.read_all(), reader.metadata)
    write_atomic(target, data)
    say(f"{source} {source.stat().st_size:,} bytes -> {target} {len(data):,} bytes")


def to_safetensors(tensors: Mapping[str, RawTensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a ``.safetensors`` file: length of the header, header, items.

    Raises:
        UnsupportedTensorError: for a name that such a file cannot have.
    """
    if "__metadata__" in tensors:
        raise UnsupportedTensorError(
            "__metadata__ is no name for a tensor in .safetensors, where metadata have it: rename"
        )
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts, at = [], 0
    # wide items first, so that every tensor lies at a multiple of its items' size
    for name, raw in sorted(tensors.items(), key=lambda item: (-DTYPES[item[1].dtype], item[0])):
        parts.append(raw.little_endian())
        end = at + len(parts[-1])
        header[name] = {
            "dtype": _SAFETENSORS_DTYPES[raw.dtype],
            "shape": raw.shape,
            "data_offsets": (at, end),
        }
        at = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])
