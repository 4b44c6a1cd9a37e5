"""Writing an ``.ect`` file, version 1 of FORMAT.md: header, index, blocks, checksums."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from itertools import groupby

import numpy as np

from ectorch.bitstream import context
from ectorch.bitstream.atomic import write_atomic
from ectorch.bitstream.codings import (
    Coding,
    Preset,
    Surroundings,
    count_nonzeros,
    encode_tensor,
    estimate_bits,
)
from ectorch.bitstream.context import Layout
from ectorch.bitstream.index import (
    DEFAULT_MAX_DECODED_BYTES,
    MAX_ARRAY_BYTES,
    MAX_DIMENSIONS,
    Entry,
    counted_bytes,
    encode_header,
    place,
)
from ectorch.bitstream.names import is_text
from ectorch.bitstream.parallel import Workers, check_threads
from ectorch.bitstream.tensor import RawTensor
from ectorch.bitstream.wire import varint
from ectorch.errors import ConfigError, FormatError, UnsupportedTensorError

_Coded = list[tuple[Entry, bytes]]
_Source = tuple[str, RawTensor, str | None]  # name, tensor, name of the earlier one it equals

MAGIC = b"ECT"
VERSION = 1
MAX_HEADER_BYTES = 1 << 24
CRC_BYTES = 4
LARGE_BYTES = 1 << 23  # tensors from here on are coded and decoded by chunks
_MOST_HINTS = 4
_FARTHEST_HINT = 512  # tensors: further back is no layer that feeds this one
_WORTH_THREADS_BYTES = 1 << 18  # less is done before a thread has started


def encode_file(
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> bytes:
    """The bytes of an ``.ect`` file: a function of the sorted tensors, the metadata, the preset.

    Args:
        preset: "small", "balanced" or "fast", see `Preset`.
        threads: that code; all cores if None. The bytes do not depend on it.

    Raises:
        ConfigError: for another preset, a wrong number of threads, or metadata that are no text.
        UnsupportedTensorError: for a name that is no text, or a shape that no reader takes.
    """
    return b"".join(_encode_parts(tensors, metadata, preset, threads))


def write_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> int:
    """Write what `encode_file` gives, as `write_atomic` does, never whole in memory.

    Returns:
        the file's size in bytes.

    Raises:
        ConfigError, UnsupportedTensorError: as `encode_file`.
        OSError: as `write_atomic`.
    """
    return write_atomic(path, _encode_parts(tensors, metadata, preset, threads))


def encode_tensors(
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str],
    preset: Preset,
    threads: int | None,
    layouts: Mapping[str, Layout] | None = None,
) -> _Coded:
    """Entries with their payloads, in the order of the file.

    Args:
        layouts: of tensors by name, instead of a search.
    """
    _check(tensors, metadata)
    sources = list(_sorted_with_aliases(tensors))
    with workers_for(threads, sum(tensor.bits.nbytes for tensor in tensors.values())) as workers:
        coded = _encode_all(sources, preset, workers, layouts or {})
    entries = [
        Entry(name, tensor.dtype, tensor.shape, coding, len(payload), alias_of=source)
        for (name, tensor, source), (coding, payload) in zip(sources, coded, strict=True)
    ]
    return [*zip(place(entries), (payload for _, payload in coded), strict=True)]


def file_parts(coded: _Coded, metadata: Mapping[str, str]) -> Iterator[bytes]:
    """The file, piece by piece.

    Raises:
        FormatError: when names and metadata are too long.
    """
    head = _head(encode_header([entry for entry, _ in coded], metadata))
    yield head
    yield crc(head)
    payloads = (pair for pair in coded if pair[0].alias_of is None)
    for _, block in groupby(payloads, key=lambda pair: pair[0].block):
        check = 0
        for _, payload in block:
            check = zlib.crc32(payload, check)
            yield payload
        yield check.to_bytes(CRC_BYTES, "little")


def estimate_file_bits(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> float:
    """Estimated bits of `encode_file`'s result, from counts: no coder runs."""
    return estimate_parts_bits(tensors, metadata)[0]


def estimate_parts_bits(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> tuple[float, dict[str, float]]:
    """`estimate_file_bits`, and what each tensor's payload takes of them."""
    _check(tensors, metadata or {})
    entries, payload_bits = [], {}
    for name, tensor, source in _sorted_with_aliases(tensors):
        payload_bits[name] = bits = estimate_bits(tensor) if source is None else 0.0
        size = math.ceil(bits / 8)
        entries.append(Entry(name, tensor.dtype, tensor.shape, Coding.RAW, size, alias_of=source))
    placed = place(entries)
    parts = 1 + len({entry.block for entry in placed if entry.alias_of is None})
    head = _head(encode_header(placed, metadata or {}))
    return sum(payload_bits.values()) + 8 * (len(head) + CRC_BYTES * parts), payload_bits


def workers_for(threads: int | None, size_bytes: int) -> Workers:
    check_threads(threads)
    return Workers(threads if size_bytes >= _WORTH_THREADS_BYTES else 1)


def _encode_parts(
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str] | None,
    preset: str,
    threads: int | None,
) -> Iterator[bytes]:
    metadata = metadata or {}
    return file_parts(encode_tensors(tensors, metadata, _parse_preset(preset), threads), metadata)


def _check(tensors: Mapping[str, RawTensor], metadata: Mapping[str, str]) -> None:
    """Refuse what would not come back."""
    for key, value in metadata.items():
        if not is_text(key) or not is_text(value):
            raise ConfigError(f"metadata[{key!r}] is {value!r}, expected Unicode text for both")
    for name, tensor in tensors.items():
        if not is_text(name):
            raise UnsupportedTensorError(f"{name!r} is no Unicode text: no name for a tensor")
        counted = counted_bytes(tensor.dtype, tensor.shape)
        most = MAX_ARRAY_BYTES if tensor.bits.size else DEFAULT_MAX_DECODED_BYTES
        if len(tensor.shape) > MAX_DIMENSIONS or counted > most:
            raise UnsupportedTensorError(f"{name}: no reader takes the shape {tensor.shape}")


def _parse_preset(preset: str) -> Preset:
    try:
        return Preset(preset)
    except ValueError:
        known = ", ".join(known.value for known in Preset)
        raise ConfigError(f"preset {preset!r} is unknown, known: {known}") from None


def _encode_all(
    sources: list[_Source], preset: Preset, workers: Workers, layouts: Mapping[str, Layout]
) -> list[tuple[Coding, bytes]]:
    """Coding and payload of each tensor: small ones at once, then chunks of a large one at once."""
    coded: dict[int, Future[tuple[Coding, bytes]]] = {}
    others: dict[int, tuple[Coding, bytes]] = {}
    for at, (name, tensor, source) in enumerate(sources):
        if source is None and tensor.bits.nbytes < LARGE_BYTES:
            hints = _hints(sources, at) if preset is Preset.SMALL else {}
            around = Surroundings(preset, hints, layouts.get(name))
            coded[at] = workers.submit(partial(encode_tensor, tensor, around))
    for at, (name, tensor, source) in enumerate(sources):
        if source is not None:
            others[at] = Coding.ALIAS, b""
        elif at not in coded:
            around = Surroundings(preset, layout=layouts.get(name), map=workers.map)
            others[at] = encode_tensor(tensor, around)
    return [others[at] if at in others else coded[at].result() for at in range(len(sources))]


def _hints(sources: list[_Source], at: int) -> dict[int, np.ndarray]:
    """Nonzeros of each row, of the nearest earlier tensors whose rows may feed this one's columns.

    Large tensors neither give nor take hints, so that they can be read alone.
    """
    shape = sources[at][1].shape
    hints: dict[int, np.ndarray] = {}
    if len(shape) < 2:
        return hints
    columns = math.prod(shape[1:])
    for earlier in range(at - 1, max(-1, at - 1 - _FARTHEST_HINT), -1):
        _, tensor, source = sources[earlier]
        if source is not None or tensor.bits.nbytes >= LARGE_BYTES or len(tensor.shape) < 2:
            continue
        if context.fits(tensor.shape[0], columns):
            hints[earlier] = count_nonzeros(tensor.bits, tensor.shape)
            if len(hints) == _MOST_HINTS:
                break
    return hints


def _sorted_with_aliases(tensors: Mapping[str, RawTensor]) -> Iterator[_Source]:
    """Each name, its tensor, and the earlier name that holds the same bits, if any."""
    alike = Counter((tensor.dtype, tensor.shape) for tensor in tensors.values())
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name in sorted(tensors, key=str.encode):
        tensor = tensors[name]
        source = name
        if alike[tensor.dtype, tensor.shape] > 1:
            digest = hashlib.sha256(tensor.bits.data).digest()
            source = first.setdefault((tensor.dtype, tensor.shape, digest), name)
        yield name, tensor, None if source == name else source


def _head(header: bytes) -> bytes:
    if len(header) > MAX_HEADER_BYTES:
        raise FormatError(f"names and metadata of {len(header)} bytes, {MAX_HEADER_BYTES} at most")
    return MAGIC + bytes([VERSION]) + varint(len(header)) + header


def crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CRC_BYTES, "little")
