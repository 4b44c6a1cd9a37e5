"""Compare the bytes of the coders as built by each of the given programs, and of the plain twins.

The programs are same_bytes.cpp by several compilers and options. Symbols are drawn with a seed, and
taken from files that are pinned in the repository.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from ectorch.bitstream import RawTensor, Reader, native, plain
from ectorch.bitstream.codings import static
from ectorch.bitstream.codings.codebook import find_codebook

ROOT = Path(__file__).parent.parent
FILES = [*sorted(ROOT.glob("tests/golden/*.ect")), *sorted(ROOT.glob("results/mnist/*seed-0.ect"))]
MOST_SYMBOLS = 1 << 10  # of a tensor: the twins are slow
MANY_LEVELS = 300
RUN_CLASSES = 128


@dataclass(frozen=True)
class Case:
    """What a program is asked, as words, and the twin's answer in hexadecimal."""

    question: str
    answer: str


def words(*parts: int | str | Iterable[int]) -> str:
    """Numbers as they are, lists after their lengths."""
    found: list[int | str] = []
    for part in parts:
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, Iterable):
            values = [int(value) for value in part]
            found += [len(values), *values]
        else:
            found.append(int(part))
    return " ".join(map(str, found))


def table_of(counts: np.ndarray) -> tuple[int, np.ndarray]:
    """Scale and frequencies, of those that rANS takes the cheapest."""
    tables = static.PricedTables(counts)
    table = tables[int(tables.bits[tables.scales <= 16].argmin())]
    return table.scale_bits, table.frequencies


def static_case(symbols: np.ndarray, levels: int) -> Case:
    table = static.best_table(np.bincount(symbols, minlength=levels))
    question = words("static", table.scale_bits, table.frequencies, symbols)
    return Case(question, static.encode(symbols, levels).hex())


def dense_case(symbols: np.ndarray, levels: int) -> Case:
    bits, frequencies = table_of(np.bincount(symbols, minlength=levels))
    stream = plain.rans_encode_dense(symbols, frequencies, bits)
    return Case(words("dense", bits, frequencies, symbols), stream.hex())


def runs_case(symbols: np.ndarray, levels: int) -> Case:
    counts = np.bincount(symbols, minlength=levels)
    zero = int(counts.argmax())
    counts[zero] = 0
    run_counts = np.zeros(RUN_CLASSES, np.uint64)
    plain.count_runs(symbols, zero, run_counts)
    run_bits, runs = table_of(run_counts + np.uint64(1))
    bits, others = table_of(counts + (np.arange(levels) < 2))
    _, stream = plain.rans_encode_runs(symbols, zero, runs, run_bits, others, bits)
    return Case(words("runs", zero, run_bits, runs, bits, others, symbols), stream.hex())


def context_case(
    symbols: np.ndarray,
    shape: tuple[int, int, int, int],
    levels: int,
    zero: int,
    layout: tuple[int, bool, bool],
    hint: list[int],
) -> Case:
    order, live, light = layout
    question = words("context", shape, order, live, light, levels, zero, hint, symbols)
    stream = plain.context_encode(
        symbols, shape, order, live, light, levels, zero, np.array(hint, np.uint32)
    )
    return Case(question, stream.hex())


def cases(
    symbols: np.ndarray, shape: tuple[int, int, int, int], levels: int, zero: int
) -> Iterator[Case]:
    yield static_case(symbols, levels)
    yield dense_case(symbols, levels)
    yield runs_case(symbols, levels)
    for layout in product(range(4), (False, True), (False, True)):
        hint = [0, 1, 7, 1 << 20] if sum(layout) % 2 else []
        yield context_case(symbols, shape, levels, zero, layout, hint)


def drawn() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    shapes = [(2, 1, 1, 1), (7, 20, 1, 1), (20, 4, 3, 3), (3, 4, 1, 9)]
    for shape, levels, zeros in product(shapes, (2, 5, MANY_LEVELS), (0.0, 0.9, 1.0)):
        zero = levels // 2
        symbols = rng.integers(0, levels, int(np.prod(shape)))
        symbols[rng.random(len(symbols)) < zeros] = zero
        symbols[:2] = 0, levels - 1  # two are in use at least
        yield from cases(symbols.astype(np.uint16), shape, levels, zero)


def read_files() -> list[RawTensor]:
    tensors: list[RawTensor] = []
    for path in FILES:
        with Reader(path) as reader:
            tensors += reader.read_all().values()
    return tensors


def of_tensors(tensors: Iterable[RawTensor]) -> Iterator[Case]:
    """Of the first rows of each tensor that has a codebook."""
    for tensor in tensors:
        found = find_codebook(tensor.bits, tensor.dtype) if len(tensor.bits) else None
        if found is None or not tensor.shape:
            continue
        book, symbols = found
        columns = len(symbols) // tensor.shape[0]
        rows = min(tensor.shape[0], max(1, MOST_SYMBOLS // columns))
        symbols = symbols[: rows * columns]
        if len(np.unique(symbols)) > 1:
            shape = (rows, columns, 1, 1)
            yield from cases(symbols, shape, len(book.patterns), book.zero)


def main(programs: list[str]) -> None:
    tensors = read_files()
    native.module = None  # the answers are those of the plain twins
    asked = [*drawn(), *of_tensors(tensors)]
    questions = "\n".join(case.question for case in asked)
    for program in programs:
        done = subprocess.run([program], input=questions, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{program} failed\n{done.stderr}")
        for case, answer in zip(asked, done.stdout.splitlines(), strict=True):
            if answer != case.answer:
                sys.exit(f"{program} codes other bytes than the plain twin: {case.question}")
    print(f"{len(asked)} streams are the same by {len(programs)} builds and in plain Python")


if __name__ == "__main__":
    main(sys.argv[1:])
