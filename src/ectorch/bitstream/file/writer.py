"""Writing an ``.ect`` file, version 1 of FORMAT.md: header, index, blocks, checksums."""

from __future__ import annotations

import hashlib
import math
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import IO

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

Tensors = Mapping[str, RawTensor] | Iterable[tuple[str, RawTensor]]
"""Tensors by name, which a mapping may read when they are asked for; or pairs, sorted by name."""

_Source = tuple[str, RawTensor, str | None]  # name, tensor, name of the earlier one it equals

MAGIC = b"ECT"
VERSION = 1
MAX_HEADER_BYTES = 1 << 24
CRC_BYTES = 4
LARGE_BYTES = 1 << 23  # tensors from here on are decoded by chunks, and have no hints
_LOOKED_AT_ITEMS = 256
_WORTH_THREADS_BYTES = 1 << 18  # less is done before a thread has started
_SPOOLED_BYTES = 1 << 26  # of payloads, until they go to a file
_LOT_BYTES = 1 << 28  # of tensors that are in memory, and coded, together


@dataclass(frozen=True)
class Encoded:
    """A file in parts, none of which is copied before it is written.

    Attributes:
        head: all up to the first checksum.
        entries: in order.
        payloads: of the entries that are no aliases, one after the other.
        choices: how to code each tensor again when it has changed a little, by name.
    """

    head: bytes
    entries: Sequence[Entry]
    payloads: Spool
    choices: dict[str, Choice]

    def parts(self) -> Iterator[bytes]:
        """The file's bytes."""
        yield self.head
        yield crc(self.head)
        own = (entry for entry in self.entries if entry.alias_of is None)
        payloads = iter(self.payloads)
        for _, block in groupby(own, lambda entry: entry.block):
            checksum = 0
            for _, payload in zip(block, payloads, strict=False):
                yield payload
                checksum = zlib.crc32(payload, checksum)
            yield checksum.to_bytes(CRC_BYTES, "little")

    @property
    def size_bytes(self) -> int:
        own = [entry for entry in self.entries if entry.alias_of is None]
        checksums = 1 + len({entry.block for entry in own})
        return len(self.head) + sum(entry.size_bytes for entry in own) + CRC_BYTES * checksums


class Spool:
    """Payloads, one after the other: in memory, or in a file."""

    def __init__(self, file: IO[bytes] | None = None) -> None:
        self._file = file
        self._kept: list[bytes] = []
        self._sizes: list[int] = []

    def append(self, payload: bytes) -> None:
        self._sizes.append(len(payload))
        if self._file is None:
            self._kept.append(payload)
        else:
            self._file.write(payload)

    def __iter__(self) -> Iterator[bytes]:
        if self._file is None:
            yield from self._kept
            return
        self._file.seek(0)
        for size in self._sizes:
            yield self._file.read(size)


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
    tensors: Tensors,
    metadata: Mapping[str, str] | None = None,
    preset: str = "small",
    threads: int | None = None,
) -> int:
    """Write what `encode_file` gives by `write_atomic`; neither it nor all tensors are in memory.

    Args:
        tensors: a mapping's are read one by one, in the order of their names; pairs have to come
            in that order. From 64 MiB on payloads wait in a temporary file beside ``path``.

    Returns:
        the file's size in bytes.

    Raises:
        ConfigError: as `encode_file`; for pairs that are not in order, or two of one name.
    """
    special = os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 - bytes, too
    folder = None if special else os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    with tempfile.SpooledTemporaryFile(_SPOOLED_BYTES, dir=folder) as file:
        spool = Spool(file)
        kind = _parse_preset(preset)
        encoded = encode_tensors(tensors, metadata or {}, kind, threads, {}, spool)
        return write_atomic(path, encoded.parts())


def encode_tensors(
    tensors: Tensors,
    metadata: Mapping[str, str],
    preset: Preset,
    threads: int | None,
    earlier: Mapping[str, Choice] | None = None,
    spool: Spool | None = None,
) -> Encoded:
    """A file, in parts.

    Args:
        earlier: choices for tensors by name, which are kept for those that have changed little.
        spool: gets the payloads; memory if None.

    Raises:
        ConfigError, UnsupportedTensorError: as `encode_file`.
    """
    check_threads(threads)
    check_metadata(metadata)
    payloads = Spool() if spool is None else spool
    entries: list[Entry] = []
    choices: dict[str, Choice] = {}
    hints = Hints()
    for lot in _lots(_sources(tensors)):
        with workers_for(threads, sum(tensor.bits.nbytes for _, tensor, _ in lot)) as workers:
            coded = _encode_all(lot, len(entries), hints, preset, workers, earlier or {})
        for (name, tensor, source), each in zip(lot, coded, strict=True):
            size = len(each.payload)
            entries.append(
                Entry(name, tensor.dtype, tensor.shape, each.coding, size, alias_of=source)
            )
            choices[name] = each.choice
            if source is None:
                payloads.append(each.payload)
    placed = place(entries)
    return Encoded(_head(encode_header(placed, metadata)), placed, payloads, choices)


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
    lot: Sequence[_Source],
    start: int,
    hints: Hints,
    preset: Preset,
    workers: Workers,
    earlier: Mapping[str, Choice],
) -> list[Coded]:
    """Every tensor of a lot: the longest first, whose chunks are for threads that have none.

    Args:
        start: index of the first of them in the file.
    """
    arounds: dict[int, Surroundings] = {}
    own = [(at, name, tensor) for at, (name, tensor, source) in enumerate(lot) if not source]
    for at, name, tensor in own:
        small = tensor.bits.nbytes < LARGE_BYTES  # larger ones are to be read without others
        given = hints.give(start + at, tensor) if small and preset is Preset.SMALL else {}
        arounds[at] = Surroundings(preset, given, earlier.get(name), workers.map)
    longest_first = sorted(own, key=lambda each: -each[2].bits.nbytes)
    coded = {
        at: workers.submit(partial(code_tensor, tensor, arounds[at]))
        for at, _, tensor in longest_first
    }
    alias = Coded(Coding.ALIAS, b"", Choice(Coding.ALIAS))
    return [coded[at].result() if at in coded else alias for at in range(len(lot))]


def _lots(sources: Iterable[_Source]) -> Iterator[list[_Source]]:
    """Tensors that are coded together, and let go of before the next are read."""
    lot: list[_Source] = []
    size = 0
    for source in sources:
        if lot and size + source[1].bits.nbytes > _LOT_BYTES:
            yield lot
            lot, size = [], 0
        lot.append(source)
        size += source[1].bits.nbytes
    if lot:
        yield lot


def _sources(tensors: Tensors) -> Iterator[_Source]:
    """Each name, its tensor, and the earlier name that holds the same bits, if any, in order."""
    if isinstance(tensors, dict):
        for name in tensors:
            check_name(name)
        yield from _sorted_with_aliases(tensors)
        return
    first: dict[tuple[str, tuple[int, ...], bytes], str] = {}
    last: bytes | None = None
    for name, tensor in _in_order(tensors):
        check_name(name)
        if last is not None and name.encode() <= last:
            twice = name.encode() == last
            words = "comes twice" if twice else f"comes after {last.decode()!r}"
            raise ConfigError(f"{name!r} {words}: pairs have to be sorted by name")
        last = name.encode()
        digest = hashlib.sha256(tensor.bits.data).digest()
        source = first.setdefault((tensor.dtype, tensor.shape, digest), name)
        yield name, tensor, None if source == name else source


def _in_order(tensors: Tensors) -> Iterator[tuple[str, RawTensor]]:
    if not isinstance(tensors, Mapping):
        yield from tensors
        return
    for name in tensors:
        check_name(name)
    for name in sorted(tensors, key=str.encode):
        yield name, tensors[name]


def _sorted_with_aliases(tensors: Mapping[str, RawTensor]) -> Iterator[_Source]:
    """`_sources` of tensors that are at hand: few have to be looked at closely."""
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
