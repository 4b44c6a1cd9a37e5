"""What the measured rows of the coder benchmark say: targets met or not, and tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from provenance import stamp

REFERENCES = ("nncodec", "deepcabac")
Row = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A bound on one number of one side; speeds are those on one thread.

    Attributes:
        value: (row of a set, that side in it) -> the number, or None where it cannot be had.
        applies: to which sets.
    """

    side: str
    text: str
    limit: float
    value: Callable[[Row, Row], float | None]
    at_least: bool = False
    applies: Callable[[Row], bool] = lambda row: True

    def verdict(self, row: Row) -> Row:
        """The target on one set; `met` is None where it could not be judged."""
        side = row["sides"].get(self.side, {})
        value = self.value(row, side) if "bytes" in side else None
        met = None
        if value is not None:
            met = value >= self.limit if self.at_least else value <= self.limit
        elif "failed" in side:
            met = False
        return {"set": row["set"], "value": value, "met": met}


def _bytes_to_nncodec(row: Row, side: Row) -> float | None:
    against = side.get("against", {}).get("nncodec")
    return against["bytes"] if against else None


def _above_order0(share: float) -> Callable[[Row, Row], float | None]:
    """Bytes a stream above that share of order 0."""

    def value(row: Row, side: Row) -> float:
        return (side["bytes"] - share * row["order0_bytes"]) / len(row["shapes"])

    return value


def _speed(way: str) -> Callable[[Row, Row], float | None]:
    return lambda row, side: side["threads"]["1"][f"{way}_msym"]


def _speed_to(reference: str, way: str) -> Callable[[Row, Row], float | None]:
    def value(row: Row, side: Row) -> float | None:
        against = side.get("against", {}).get(reference)
        return against["threads"]["1"][way] if against else None

    return value


def _is_trained(row: Row) -> bool:
    return bool(row["entropy_trained"])


def _is_sparse(row: Row) -> bool:
    return bool(row["sparse"])


def _speed_targets(side: str, factor: float) -> list[Target]:
    return [
        Target(
            side,
            f"{way}s at least {factor:g} times as fast as {reference}",
            factor,
            _speed_to(reference, way),
            at_least=True,
        )
        for reference in REFERENCES
        for way in ("encode", "decode")
    ]


TARGETS = [
    Target(
        "small", "at most 0.95 of nncodec's bytes", 0.95, _bytes_to_nncodec, applies=_is_trained
    ),
    Target("small", "at most 32 bytes a stream above 1.005 of order 0", 32, _above_order0(1.005)),
    Target("small", "decodes 8 Msym/s", 8, _speed("decode"), at_least=True, applies=_is_sparse),
    Target("balanced", "at most 0.99 of nncodec's bytes", 0.99, _bytes_to_nncodec),
    *_speed_targets("balanced", 1),
    *_speed_targets("fast", 3),
    Target("fast", "at most 64 bytes a stream above 1.002 of order 0", 64, _above_order0(1.002)),
]


def judge(rows: list[Row]) -> list[Row]:
    """Every target on every set that it applies to."""
    return [
        {
            "side": target.side,
            "target": target.text,
            "limit": target.limit,
            "sets": [target.verdict(row) for row in rows if target.applies(row)],
        }
        for target in TARGETS
    ]


def as_markdown(written: Row) -> str:
    place, versions = written["machine"], written["versions"]
    lines = [
        "# Coders side by side",
        "",
        "`benchmarks/coder/measure.py` says what is measured, `benchmarks/coder/peers` what is "
        f"timed of each side. {place['cpu']}, {place['cores']} cores, load {place['load']:.1f} at "
        f"the start, python {versions['python']}, numpy {versions['numpy']}. "
        "Bytes are those of whole streams, a stream a tensor; the ratio is to the order-0 entropy "
        "of the tensors. Msym/s are medians; ectorch's presets also on two threads.",
        "",
        *(f"- {name}: {version}" for name, version in written["sides"].items()),
        *(f"- {name}: {reason}" for name, reason in written["missing"].items()),
        "",
        *_rows_table(written["sets"]),
        "",
        stamp(written),
    ]
    if written["targets"] and written["sets"]:
        lines += ["", "## Targets", "", *_targets_table(written["targets"])]
    if written.get("scaling"):
        lines += ["", "## Time a symbol", "", *_scaling_table(written["scaling"])]
    return "\n".join(lines) + "\n"


def three_digits(value: float) -> str:
    """Three significant ones: 6507.5 is 6,510."""
    return f"{float(f'{value:.3g}'):,g}"


def _rows_table(rows: list[Row]) -> list[str]:
    lines = [
        "| set | symbols | side | bytes | ratio | encode | decode | encode, 2 | decode, 2 |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kind = "".join(f", {word}" for word in ("entropy_trained", "sparse") if row[word]).replace(
            "_", "-"
        )
        order0 = f"| {row['set']}{kind} | {row['symbols']:,} | order 0 | {row['order0_bytes']:,.0f}"
        lines.append(f"{order0} | | | | | |")
        lines += [_side_line(name, side) for name, side in row["sides"].items()]
    return lines


def _side_line(name: str, side: Row) -> str:
    if "failed" in side:
        return f"| | | {name} | failed: {side['failed'].replace('|', '/')} | | | | | |"
    ratio = side["ratio_to_order0"]
    speeds = []
    for threads in ("1", "2"):
        timing = side["threads"].get(threads)
        for way in ("encode", "decode"):
            speeds.append(three_digits(timing[f"{way}_msym"]) if timing else "")
    cells = [name, f"{side['bytes']:,}", f"{ratio:.4f}" if ratio else "", *speeds]
    return f"| | | {' | '.join(cells)} |"


def _targets_table(targets: list[Row]) -> list[str]:
    lines = ["| side | target | met | not met | not judged |", "|---|---|---|---|---|"]
    for target in targets:
        groups: dict[bool | None, list[str]] = {True: [], False: [], None: []}
        for verdict in target["sets"]:
            value = "failed" if verdict["value"] is None else three_digits(verdict["value"])
            text = verdict["set"] if verdict["met"] is None else f"{verdict['set']} ({value})"
            groups[verdict["met"]].append(text)
        cells = [", ".join(groups[key]) for key in (True, False, None)]
        lines.append(f"| {target['side']} | {target['target']} | {' | '.join(cells)} |")
    return lines


def _scaling_table(rows: list[Row]) -> list[str]:
    """Nanoseconds a symbol."""
    lines = [
        "Nanoseconds, independent symbols, one in twenty a nonzero Laplacian.",
        "",
        "| symbols | side | threads | encode | decode |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        for name, side in row["sides"].items():
            if "failed" in side:
                lines.append(f"| {row['symbols']:,} | {name} | failed: {side['failed']} | | |")
                continue
            for threads, timing in side["threads"].items():
                encode, decode = (1e3 / timing[f"{way}_msym"] for way in ("encode", "decode"))
                lines.append(
                    f"| {row['symbols']:,} | {name} | {threads} | {encode:.2f} | {decode:.2f} |"
                )
    return lines
