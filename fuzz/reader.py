"""Atheris target over `Reader` and `load_file`; the arguments are libFuzzer's.

Of a damaged file only a `FormatError` may escape. A file that decodes to little is decoded by the
compiled coders and by their plain twins (whose branches the fuzzer sees), by name and all at once,
and all agree. The mutator takes a file apart and puts it together with right lengths and checksums.
"""

from __future__ import annotations

import gc
import random
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import FunctionType

import atheris
from parts import Parts, assemble, put_together, take_apart

from ectorch.bitstream import DTYPES, Reader, load_file, native
from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file import reader as reading
from ectorch.bitstream.file.index import Entry
from ectorch.errors import FormatError

LIMIT = 1 << 15  # max_decoded_bytes
MOST_MEMORY = 64 * LIMIT + (16 << 20)  # bytes that one input may take: see README.md
PROCESS = Path("/proc/self")
LARGE = 1 << 10  # decoded bytes, from which a tensor goes the way of large ones
LITTLE = 1 << 9  # decoded bytes, up to which the plain twins decode as well
MOST_BYTES = 1 << 13  # that a mutation grows a part to

Decoded = dict[str, bytes] | None

built = native.module


def mutate_entry(rng: random.Random, entry: Entry) -> Entry:
    """Another coding, dtype or shape."""
    kind = rng.randrange(4)
    if kind == 0 and entry.alias_of is None:
        others = sorted(set(Coding) - {Coding.ALIAS})
        return replace(entry, coding=rng.choice(others))
    if kind == 1:
        return replace(entry, dtype=rng.choice(sorted(DTYPES)))
    shape = list(entry.shape)
    size = rng.choice([0, 1, 2, 3, rng.randrange(64), 1 << rng.randrange(1, 62)])
    at = rng.randrange(len(shape) + 1)
    if kind == 2 and shape:
        shape[at % len(shape)] = size
    elif rng.random() < 0.5:
        shape.insert(at, size)
    elif shape:
        shape.pop(at % len(shape))
    return replace(entry, shape=tuple(shape))


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    rng = random.Random(seed)
    try:
        parts = take_apart(data)
    except FormatError:
        return atheris.Mutate(data, max_size)
    mutated = assemble(*mutate_parts(rng, parts))
    if rng.random() < 1 / 16 or len(mutated) > max_size:
        return atheris.Mutate(data, max_size)
    return mutated


def mutate_parts(rng: random.Random, parts: Parts) -> tuple[bytes, list[bytes]]:
    """Header and blocks after one change to the header's bytes, to an entry or to a payload."""
    _, entries, payloads = parts
    kind = rng.randrange(16)
    own = [at for at, entry in enumerate(entries) if entry.alias_of is None]
    if kind == 0 or not own:
        header, blocks = put_together(parts)
        return atheris.Mutate(header, MOST_BYTES), blocks
    at = rng.choice(own)
    if kind < 5:
        entries[at] = mutate_entry(rng, entries[at])
    elif kind == 5:
        payloads[at] = payloads[rng.choice(own)]
    elif kind == 6:
        entries[at] = replace(mutate_entry(rng, entries[at]), coding=Coding.RAW)
        payloads[at] = bytes(min(entries[at].decoded_bytes, MOST_BYTES))
    else:
        payloads[at] = atheris.Mutate(payloads[at] or b"\0", MOST_BYTES)
    return put_together(parts)


def decode_all(data: bytes) -> Decoded:
    """Bits of every tensor by name; None for a damaged file."""
    try:
        with Reader(data, LIMIT, threads=1) as reader:
            return {name: tensor.bits.tobytes() for name, tensor in reader.read_all().items()}
    except FormatError:
        return None


def decode_each(data: bytes) -> Decoded:
    """The same by `Reader.read`, the last one first, and again by halves of their rows."""
    decoded = {}
    try:
        with Reader(data, LIMIT, threads=1) as reader:
            for entry in reversed(list(reader)):
                whole = decoded[entry.name] = reader.read(entry.name).bits.tobytes()
                if entry.shape:
                    rows = entry.shape[0]
                    halves = [range(rows // 2), range(rows // 2, rows)]
                    parts = [reader.read(entry.name, half).bits.tobytes() for half in halves]
                    assert b"".join(parts) == whole, "halves differ from the whole"
    except FormatError:
        return None
    return decoded


def has_arrays(data: bytes) -> bool:
    """Whether NumPy gets the file, by threads."""
    try:
        load_file(data, LIMIT)
    except FormatError:
        return False
    return True


def is_little(data: bytes) -> bool:
    try:
        with Reader(data, LIMIT) as reader:
            return sum(entry.decoded_bytes for entry in reader) <= LITTLE
    except FormatError:
        return False


def memory_bytes(what: str) -> int:
    """VmRSS is what the process has, VmHWM the most that it had, native code and all."""
    for line in PROCESS.joinpath("status").read_text().splitlines():
        if line.startswith(what):
            return 1024 * int(line.split()[1])
    raise LookupError(what)


def forget_peak() -> None:
    PROCESS.joinpath("clear_refs").write_text("5")


def check(data: bytes) -> None:
    decoded = decode_all(data)
    if not is_little(data):
        return
    assert decode_each(data) == decoded, "by name and all at once differ"
    assert has_arrays(data) == (decoded is not None), "arrays and bits differ"
    native.module = None
    try:
        assert decode_all(data) == decoded, "plain and compiled coders differ"
    finally:
        native.module = built


def test_one_input(data: bytes) -> None:
    forget_peak()
    before = memory_bytes("VmRSS")
    check(data)
    grown = memory_bytes("VmHWM") - before
    assert grown <= MOST_MEMORY, f"{grown} bytes of memory"


def instrument() -> None:
    """Atheris' import hook passes over editable installs, so look for the functions themselves."""
    for found in gc.get_objects():
        if isinstance(found, FunctionType) and (found.__module__ or "").startswith("ectorch."):
            atheris.instrument_func(found)


def main() -> None:
    if built is None:
        sys.exit("fuzz: ectorch was built without its compiled coders")
    instrument()
    reading.LARGE_BYTES = LARGE
    warnings.simplefilter("error")
    atheris.Setup(sys.argv, test_one_input, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
