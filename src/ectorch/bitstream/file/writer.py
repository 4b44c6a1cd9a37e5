"""Writing an ``.ect`` file, version 1 of FORMAT.md: header, index, blocks, checksums."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from ectorch.bitstream.codings.choose import (
    Choice,
    Coded,
    Preset,
    Surroundings,
    code_tensor,
    estimate_bits,
)
from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file.atomic import write_atomic
from ectorch.bitstream.file.hints import Hints
from ectorch.bitstream.file.index import Entry, encode_header, place
from ectorch.bitstream.file.names import check_metadata, check_name
from ectorch.bitstream.parallel import Workers, check_threads
from ectorch.bitstream.tensor import RawTensor
from ectorch.bitstream.wire import varint
from ectorch.errors import ConfigError, FormatError

_Source = tuple[str, RawTensor, str | None]  # name, tensor, name of the earlier one it equals

MAGIC = b"ECT"
VERSION = 1
MAX_HEADER_BYTES = 1 << 24
CRC_BYTES = 4
LARGE_BYTES = 1 << 23  # tensors from here on are decoded by chunks, and have no hints
_LOOKED_AT_ITEMS = 256
_WORTH_THREADS_BYTES = 1 << 18  # less is done before a thread has started


@dataclass(frozen=True)
class Encoded:
    """A file in parts, none of which is copied before it is written.

    Attributes:
        head: all up to the first checksum.
        coded: each entry, in order, and its payload.
        choices: how to code each tensor again when it has changed a little, by name.
    """

    head: bytes
    coded: list[tuple[Entry, bytes]]
    choices: dict[str, Choice]

    def parts(self) -> Iterator[bytes]:
        """The file's bytes."""
        yield self.head
        yield crc(self.head)
        own = (pair for pair in self.coded if pair[0].alias_of is None)
        for _, block in groupby(own, lambda pair: pair[0].block):
            checksum = 0
            for _, payload in block:
                yield payload
                checksum = zlib.crc32(payload, checksum)
            yield checksum.to_bytes(CRC_BYTES, "little")

    @property
    def size_bytes(self) -> int:
        own = [
            (entry.block, len(payload)) for entry, payload in self.coded if entry.alias_of is None
        ]
        checksums = 1 + len({block for block, _ in own})
        return len(self.head) + sum(size for _, size in own) + CRC_BYTES * checksums


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
        UnsupportedTensorError: for a name that is no text.
    """
    return b"".join(_encode(tensors, metadata, preset, threads).parts())


def write_file(
    path: str | os.PathLike[str],
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> int:
    """Write what `encode_file` gives by `write_atomic`; it is never in memory as a whole.

    Returns:
        the file's size in bytes.
    """
    return write_atomic(path, _encode(tensors, metadata, preset, threads).parts())


def encode_tensors(
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str],
    preset: Preset,
    threads: int | None,
    earlier: Mapping[str, Choice] | None = None,
) -> Encoded:
    """A file, in parts.

    Args:
        earlier: choices for tensors by name, which are kept for those that have changed little.

    Raises:
        ConfigError, UnsupportedTensorError: as `encode_file`.
    """
    check_threads(threads)
    check_metadata(metadata)
    for name in tensors:
        check_name(name)
    sources = list(_sorted_with_aliases(tensors))
    with workers_for(threads, sum(tensor.bits.nbytes for tensor in tensors.values())) as workers:
        coded = _encode_all(sources, preset, workers, earlier or {})
    entries = [
        Entry(name, tensor.dtype, tensor.shape, each.coding, len(each.payload), alias_of=source)
        for (name, tensor, source), each in zip(sources, coded, strict=True)
    ]
    placed = place(entries)
    head = _head(encode_header(placed, metadata))
    choices = {entry.name: each.choice for entry, each in zip(placed, coded, strict=True)}
    return Encoded(head, [*zip(placed, (each.payload for each in coded), strict=True)], choices)


def estimate_file_bits(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> float:
    """Estimated bits of `encode_file`'s result, from counts: no coder runs."""
    return estimate_parts_bits(tensors, metadata)[0]


def estimate_parts_bits(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None
) -> tuple[float, dict[str, float]]:
    """`estimate_file_bits`, and what each tensor's payload takes of them."""
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
    return Workers(threads if size_bytes >= _WORTH_THREADS_BYTES else 1)


def _encode(
    tensors: Mapping[str, RawTensor],
    metadata: Mapping[str, str] | None,
    preset: str,
    threads: int | None,
) -> Encoded:
    return encode_tensors(tensors, metadata or {}, _parse_preset(preset), threads)


def _parse_preset(preset: str) -> Preset:
    try:
        return Preset(preset)
    except ValueError:
        known = ", ".join(known.value for known in Preset)
        raise ConfigError(f"preset {preset!r} is unknown, known: {known}") from None


def _encode_all(
    sources: list[_Source], preset: Preset, workers: Workers, earlier: Mapping[str, Choice]
) -> list[Coded]:
    """Every tensor: the longest first, whose chunks are for threads that have none of their own."""
    arounds: dict[int, Surroundings] = {}
    hints = Hints()
    own = [(at, name, tensor) for at, (name, tensor, source) in enumerate(sources) if not source]
    for at, name, tensor in own:
        small = tensor.bits.nbytes < LARGE_BYTES  # larger ones are to be read without others
        given = hints.give(at, tensor) if small and preset is Preset.SMALL else {}
        arounds[at] = Surroundings(preset, given, earlier.get(name), workers.map)
    longest_first = sorted(own, key=lambda each: -each[2].bits.nbytes)
    coded = {
        at: workers.submit(partial(code_tensor, tensor, arounds[at]))
        for at, _, tensor in longest_first
    }
    alias = Coded(Coding.ALIAS, b"", Choice(Coding.ALIAS))
    return [coded[at].result() if at in coded else alias for at in range(len(sources))]


def _sorted_with_aliases(tensors: Mapping[str, RawTensor]) -> Iterator[_Source]:
    """Each name, its tensor, and the earlier name that holds the same bits, if any."""
    alike = Counter(map(_looks, tensors.values()))
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    for name in sorted(tensors, key=str.encode):
        tensor = tensors[name]
        source = name
        if alike[_looks(tensor)] > 1:
            digest = hashlib.sha256(tensor.bits.data).digest()
            source = first.setdefault((tensor.dtype, tensor.shape, digest), name)
        yield name, tensor, None if source == name else source


def _looks(tensor: RawTensor) -> tuple[str, tuple[int, ...], bytes]:
    """What is quickly told of a tensor, and is the same of an equal one."""
    some = tensor.bits[:: max(1, len(tensor.bits) // _LOOKED_AT_ITEMS)]
    return tensor.dtype, tensor.shape, some.tobytes()


def _head(header: bytes) -> bytes:
    if len(header) > MAX_HEADER_BYTES:
        raise FormatError(f"names and metadata of {len(header)} bytes, {MAX_HEADER_BYTES} at most")
    return MAGIC + bytes([VERSION]) + varint(len(header)) + header


def crc(data: bytes | memoryview) -> bytes:
    return zlib.crc32(data).to_bytes(CRC_BYTES, "little")
