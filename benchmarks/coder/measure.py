"""Coders side by side on the same integer tensors: bytes, and how fast they are made and read.

    python benchmarks/coder [--sets NAME ...] [--sides NAME ...] [--runs 5] [--scaling]

Writes benchmarks/results/coder.json and coder.md. A stream is whole: a tensor comes back from its
bytes alone, and is compared with what went in. A set of several tensors is coded as a stream each;
bytes and seconds are sums. The sides take turns, round after round, and the median round counts;
a side whose rounds are slow has fewer, so that a set takes minutes. What is timed of each side is
in its adapter in benchmarks/coder/peers, how they are installed in requirements.txt there.
--scaling codes ever longer tensors with ectorch alone: time a symbol shall not grow.

Leave the machine alone meanwhile: the load is written down.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from provenance import RESULTS, provenance, write_results

from coder.peers.side import Side, UnavailableError
from coder.report import REFERENCES, as_markdown, judge, three_digits
from coder.sets import SymbolSet, scaling_set, symbol_sets
from ectorch.errors import DataError

MODULES = ("ectorch", "nncodec", "constriction", "compressai", "zstd", "xz")
SCALING_COUNTS = tuple(10**power for power in range(4, 9))
SECONDS_A_SIDE = 10.0  # of a set: no further round of a side that has taken as long

Row = dict[str, Any]


@dataclass
class Contestant:
    """One side on so many threads, with its input of one set."""

    name: str
    side: Side
    threads: int
    inputs: list[Any] = field(default_factory=list)
    streams: list[bytes] = field(default_factory=list)
    encode_seconds: list[float] = field(default_factory=list)
    decode_seconds: list[float] = field(default_factory=list)
    failure: str | None = None

    def first_round(self, symbols: SymbolSet) -> None:
        """Prepare, code once, and compare; the time counts only where it is long."""
        self.inputs = [self.side.prepare(tensor) for tensor in symbols.tensors]
        decoded = self.round()
        for tensor, got in zip(symbols.tensors, map(self.side.restore, decoded), strict=True):
            if got.shape != tensor.shape or not np.array_equal(got, tensor):
                raise ValueError("other integers came back")
        if self.seconds < 1:  # caches were cold
            self.encode_seconds, self.decode_seconds = [], []

    def round(self) -> list[Any]:
        """Code every tensor; what the decoder gave."""
        encode, decode = self.side.encode, self.side.decode
        start = time.perf_counter()
        self.streams = [encode(tensor, self.threads) for tensor in self.inputs]
        middle = time.perf_counter()
        decoded = [decode(stream, self.threads) for stream in self.streams]
        end = time.perf_counter()
        self.encode_seconds.append(middle - start)
        self.decode_seconds.append(end - middle)
        return decoded

    @property
    def seconds(self) -> float:
        return sum(self.encode_seconds) + sum(self.decode_seconds)

    def attempt(self, step: Callable[..., object], *arguments: object) -> None:
        """Run a step unless one has failed; a failure is kept with its reason."""
        if self.failure is not None:
            return
        try:
            step(*arguments)
        except (Exception, SystemExit) as error:  # nncodec ends the process on what it dislikes
            text = " ".join(str(error).split())
            self.failure = f"{type(error).__name__}: {text[:200]}"

    def timing(self, count: int) -> Row:
        return {
            "encode_msym": count / 1e6 / statistics.median(self.encode_seconds),
            "decode_msym": count / 1e6 / statistics.median(self.decode_seconds),
            "encode_seconds": self.encode_seconds,
            "decode_seconds": self.decode_seconds,
        }


def load_sides(wanted: list[str] | None) -> tuple[dict[str, Side], dict[str, str]]:
    """The sides that can be run, and why others cannot."""
    sides: dict[str, Side] = {}
    missing: dict[str, str] = {}
    for module in map(_adapter, MODULES):
        names = [name for name in module.NAMES if wanted is None or name in wanted]
        if not names:
            continue
        try:
            loaded = module.load()
        except ImportError as error:
            missing |= dict.fromkeys(names, f"not installed ({error}): {module.INSTALL}")
        except UnavailableError as error:
            missing |= dict.fromkeys(names, str(error))
        else:
            sides |= {name: loaded[name] for name in names}
    for name, reason in missing.items():
        print(f"{name}: {reason}", flush=True)
    return sides, missing


def _adapter(name: str) -> ModuleType:
    return importlib.import_module(f"coder.peers.{name}")


def measure(symbols: SymbolSet, sides: dict[str, Side], runs: int) -> Row:
    """All sides on one set."""
    contestants = [
        Contestant(name, side, threads) for name, side in sides.items() for threads in side.threads
    ]
    for contestant in contestants:
        print(f"{symbols.name}: {contestant.name} on {contestant.threads}", flush=True)
        contestant.attempt(contestant.first_round, symbols)
    for _ in range(runs):
        for contestant in contestants:
            short = len(contestant.encode_seconds) < runs and contestant.seconds < SECONDS_A_SIDE
            if short or not contestant.encode_seconds:
                contestant.attempt(contestant.round)
    row: Row = {
        "set": symbols.name,
        "symbols": symbols.count,
        "shapes": [list(tensor.shape) for tensor in symbols.tensors],
        "order0_bytes": symbols.order0_bytes,
        "entropy_trained": symbols.trained,
        "sparse": symbols.sparse,
        "sides": {},
    }
    for name in sides:
        own = [contestant for contestant in contestants if contestant.name == name]
        row["sides"][name] = summary(own, symbols)
    for name in REFERENCES:
        _compare(row, name)
    return row


def summary(contestants: list[Contestant], symbols: SymbolSet) -> Row:
    """One side: bytes and times by number of threads, or the reason of its failure."""
    failures = [one.failure for one in contestants if one.failure is not None]
    if len({tuple(one.streams) for one in contestants}) > 1:
        failures.append("the bytes depend on the number of threads")
    if failures:
        return {"failed": failures[0]}
    size = sum(map(len, contestants[0].streams))
    return {
        "bytes": size,
        "ratio_to_order0": size / symbols.order0_bytes if symbols.order0_bytes else None,
        "threads": {str(one.threads): one.timing(symbols.count) for one in contestants},
    }


def _compare(row: Row, reference: str) -> None:
    """Add what each side is to the reference: its bytes, and its speed by number of threads."""
    other = row["sides"].get(reference, {})
    if "bytes" not in other:
        return
    speed = other["threads"]["1"]
    for side in row["sides"].values():
        if "bytes" in side:
            side.setdefault("against", {})[reference] = {
                "bytes": side["bytes"] / other["bytes"],
                "threads": {
                    threads: {
                        way: timing[f"{way}_msym"] / speed[f"{way}_msym"]
                        for way in ("encode", "decode")
                    }
                    for threads, timing in side["threads"].items()
                },
            }


def make_sets(wanted: list[str] | None) -> Iterable[SymbolSet]:
    """The sets one after another; one that cannot be had is said and left out."""
    makers = symbol_sets()
    for name in makers if wanted is None else wanted:
        try:
            yield makers[name]()
        except (DataError, OSError, subprocess.SubprocessError) as error:
            print(f"{name}: cannot be had: {error}", flush=True)


def write(written: Row, out: Path) -> None:
    """After each set: a coder that takes the process down takes no results with it."""
    written["targets"] = judge(written["sets"])
    write_results(out, written)
    out.with_suffix(".md").write_text(as_markdown(written))


def main() -> None:
    names = [name for module in MODULES for name in _adapter(module).NAMES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", choices=list(symbol_sets()), help="default: all")
    parser.add_argument("--sides", nargs="*", choices=names, help="default: all installed")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--scaling", action="store_true", help="time a symbol of ectorch alone")
    parser.add_argument("--out", type=Path, default=RESULTS / "coder.json")
    arguments = parser.parse_args()
    written: Row = provenance() | {"runs": arguments.runs}
    sides, written["missing"] = load_sides(arguments.sides)
    written["sides"] = {name: side.version for name, side in sides.items()}
    written["sets"] = []
    for symbols in make_sets(arguments.sets):
        written["sets"].append(measure(symbols, sides, arguments.runs))
        _show(written["sets"][-1])
        write(written, arguments.out)
    if arguments.scaling:
        ours = {name: side for name, side in sides.items() if len(side.threads) > 1}
        written["scaling"] = []
        for count in SCALING_COUNTS:
            written["scaling"].append(measure(scaling_set(count), ours, arguments.runs))
            _show(written["scaling"][-1])
            write(written, arguments.out)


def _show(row: Row) -> None:
    for name, side in row["sides"].items():
        if "failed" in side:
            print(f"  {name}: failed: {side['failed']}", flush=True)
            continue
        speeds = [
            " / ".join(three_digits(timing[f"{way}_msym"]) for way in ("encode", "decode"))
            + f" Msym/s on {threads}"
            for threads, timing in side["threads"].items()
        ]
        print(f"  {name}: {side['bytes']:,} bytes, {', '.join(speeds)}", flush=True)


if __name__ == "__main__":
    main()
