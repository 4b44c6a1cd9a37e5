"""Write the seeds in fuzz/corpus anew: a small file for each coding, a stream for each decoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
from parts import assemble, put_together

from ectorch.bitstream import DTYPES, RawTensor, plain
from ectorch.bitstream.codings.choose import context, floats, planes, rans, static
from ectorch.bitstream.codings.codebook import find_codebook
from ectorch.bitstream.codings.context import Alphabet, Layout
from ectorch.bitstream.codings.decode import Coding, count_nonzeros
from ectorch.bitstream.file.index import Entry

CORPUS = Path(__file__).parent / "corpus"
LEVELS = 5
ZERO = 2
RUN_CLASSES = 128

STATIC, DENSE, RUNS, CONTEXT, DRAWN = range(5)  # what native.cpp makes of the first byte
FEW = b"\1"  # and of that before the levels

Table = Callable[[np.ndarray], static.FrequencyTable]
Coded = tuple[RawTensor, Coding, bytes]


def tensor(dtype: str, values: np.ndarray) -> RawTensor:
    bits = np.ascontiguousarray(values).reshape(-1).view(f"u{DTYPES[dtype]}")
    return RawTensor(dtype, values.shape, bits)


def draw(rng: np.random.Generator, shape: tuple[int, ...], zeros: float = 0.8) -> np.ndarray:
    """Small integers, most of them zero, some rows all of them."""
    values = rng.integers(-2, 3, shape) * (rng.random(shape) > zeros)
    return values * (rng.random((shape[0],) + (1,) * (len(shape) - 1)) > 0.2)


def write_file(name: str, coded: dict[str, Coded]) -> None:
    entries = [
        Entry(name, raw.dtype, raw.shape, coding, len(payload))
        for name, (raw, coding, payload) in coded.items()
    ]
    payloads = [payload for _, _, payload in coded.values()]
    (CORPUS / "reader" / name).write_bytes(assemble(*put_together(({}, entries, payloads))))


def symbols_of(raw: RawTensor) -> tuple[bytes, np.ndarray, Alphabet]:
    """Codebook, symbols and what the context model is told of them."""
    found = find_codebook(raw.bits, raw.dtype)
    assert found is not None
    book, symbols = found
    return book.encode(raw.dtype), symbols, Alphabet(len(book.patterns), book.zero)


def coded_symbols(raw: RawTensor, coding: Coding) -> Coded:
    book, symbols, alphabet = symbols_of(raw)
    stream = (rans if coding == Coding.RANS else static).encode(symbols, alphabet.levels)
    assert stream is not None
    return raw, coding, book + stream


def coded_context(raw: RawTensor, layout: Layout, first: RawTensor | None = None) -> Coded:
    book, symbols, alphabet = symbols_of(raw)
    hints = {} if first is None else {0: count_nonzeros(first.bits, first.shape)}
    stream = context.encode(symbols, raw.shape, alphabet, layout, hints)
    return raw, Coding.CONTEXT, book + stream


def write_files(rng: np.random.Generator) -> None:
    """Each file decodes to no more than the plain twins are asked to decode as well."""
    noise = tensor("uint32", rng.integers(0, 1 << 32, 9, np.uint32))
    write_file("raw", {"a": (noise, Coding.RAW, noise.little_endian())})
    half = tensor("float32", rng.standard_normal((3, 4)).astype(np.float16).astype(np.float32))
    write_file("half", {"a": (half, Coding.HALF, floats.encode_half(half) or b"")})
    text = tensor("uint8", np.tile(rng.permutation(40).astype(np.uint8), 4))
    write_file("zstd", {"a": (text, Coding.ZSTD, floats.encode_zstd(text))})
    line = tensor("int32", np.cumsum(rng.integers(0, 9, 60)).astype(np.int32).reshape(6, 10))
    write_file("planes", {"a": (line, Coding.PLANES, planes.encode(line, 1 << 20) or b"")})
    sparse = tensor("int8", draw(rng, (10, 30)).astype(np.int8))
    dense = tensor("int8", draw(rng, (10, 30), 0.3).astype(np.int8))
    odd = tensor("float32", rng.choice(np.array([0, 0.1, -1.7, 2.5], np.float32), (5, 8)))
    for name, raw in {"sparse": sparse, "dense": dense, "odd": odd}.items():
        write_file(f"static-{name}", {"a": coded_symbols(raw, Coding.STATIC)})
        write_file(f"rans-{name}", {"a": coded_symbols(raw, Coding.RANS)})
    first = tensor("int8", draw(rng, (4, 6)).astype(np.int8))
    second = tensor("int8", draw(rng, (3, 4, 3, 3)).astype(np.int8))
    for order, live, light in product(range(4), (False, True), (False, True)):
        if (order + live + light) % 2 == 0:  # half of them are enough
            layout = Layout(order, live, light, maps=(2, 3), hint=0)
            coded = {
                "a": coded_context(first, Layout(order % 2, live, light)),
                "b": coded_context(second, Layout(order, live, light)),
                "c": coded_context(
                    tensor("int8", draw(rng, (2, 24)).astype(np.int8)), layout, first
                ),
            }
            write_file(f"context-{order}-{live:d}-{light:d}", coded)


def numbers(*values: int) -> bytes:
    return np.array(values, "<u2").tobytes()


def sized(table: static.FrequencyTable) -> bytes:
    data = static.encode_table(table)
    return bytes([len(data)]) + data


def costly_table(counts: np.ndarray) -> static.FrequencyTable:
    """All levels but the last take 16 bits: a word each, the most that a step reads."""
    others = len(counts) - 1
    frequencies = np.array([1] * others + [(1 << 16) - others], np.uint32)
    return static.FrequencyTable(frequencies, 16)


def rans_streams(
    rng: np.random.Generator, count: int, zeros: float, table_of: Table = static.best_table
) -> Iterator[bytes]:
    """Each as native.cpp reads it; the last of a kind holds symbols that are to be encoded."""
    symbols = (ZERO + draw(rng, (count,), zeros)).astype(np.uint16)
    symbols[:LEVELS] = range(LEVELS)
    counts = np.bincount(symbols, minlength=LEVELS)
    table = table_of(counts)
    chunk = plain.rans_encode_dense(symbols, table.frequencies, table.scale_bits)
    head = FEW + numbers(LEVELS - 1) + sized(table) + numbers(count)
    yield bytes([DENSE]) + head + chunk
    yield bytes([DENSE | DRAWN]) + head + rng.bytes(count)

    run_counts = np.zeros(RUN_CLASSES, np.uint64)
    plain.count_runs(symbols, ZERO, run_counts)
    run_counts = np.trim_zeros(run_counts, "b") + np.uint64(1)
    runs = table_of(run_counts)
    counts[ZERO] = 0
    others = table_of(counts)
    tokens, chunk = plain.rans_encode_runs(
        symbols,
        ZERO,
        runs.frequencies,
        runs.scale_bits,
        others.frequencies,
        others.scale_bits,
    )
    head = FEW + numbers(LEVELS - 1, ZERO, len(run_counts) - 1) + sized(runs) + sized(others)
    yield bytes([RUNS]) + head + numbers(tokens, count) + chunk
    all_runs = static.best_table(np.ones(RUN_CLASSES, np.int64))
    head = FEW + numbers(LEVELS - 1, ZERO, RUN_CLASSES - 1) + sized(all_runs) + sized(others)
    yield bytes([RUNS | DRAWN]) + head + numbers(tokens, count) + rng.bytes(4 * tokens)


def context_stream(rng: np.random.Generator, order: int, live: bool, light: bool) -> bytes:
    shape = (4, 3, 4, 5) if order > 1 else (6, 10, 1, 1)
    hints = [1, 5] if live else []  # bit lengths
    values = (ZERO + draw(rng, shape).reshape(-1)).astype(np.uint16)
    hint = np.array([(1 << bits) - 1 for bits in hints], np.uint32)
    stream = plain.context_encode(values, shape, order, live, light, LEVELS, ZERO, hint)
    how = order | 4 * live | 8 * light | 16 * bool(hints)
    head = bytes([CONTEXT, how]) + numbers(*shape) + FEW + numbers(LEVELS - 1, ZERO)
    return head + (bytes([len(hints)]) + numbers(*hints) if hints else b"") + stream


def native_streams(rng: np.random.Generator) -> Iterator[bytes]:
    """About as many for each decoder: the fuzzer spends its time on all alike."""
    for count, zeros in product((9, 60, 300), (0.3, 0.8)):
        symbols = (ZERO + draw(rng, (count,), zeros)).astype(np.uint16)
        symbols[:LEVELS] = range(LEVELS)
        yield bytes([STATIC]) + FEW + numbers(LEVELS - 1, count) + static.encode(symbols, LEVELS)
        yield from rans_streams(rng, count, zeros)
    yield from rans_streams(rng, 60, 0.3, costly_table)
    for order, live in product(range(4), (False, True)):
        yield context_stream(rng, order, live, light=(order + live) % 2 == 1)


def main() -> None:
    for folder in ("reader", "native"):
        (CORPUS / folder).mkdir(parents=True, exist_ok=True)
        for old in (CORPUS / folder).iterdir():
            old.unlink()
    write_files(np.random.default_rng(0))
    for at, stream in enumerate(native_streams(np.random.default_rng(1))):
        (CORPUS / "native" / f"{at:02}").write_bytes(stream)


if __name__ == "__main__":
    main()
