"""What of a network is constrained, what stays float and why, and what its file may come to."""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import nn

from ectorch.arguments import check_module
from ectorch.bitstream.codings.choose import estimate_bits
from ectorch.bitstream.file.writer import estimate_parts_bits
from ectorch.bitstream.tensor import RawTensor
from ectorch.constrain.config import NORMS
from ectorch.constrain.modules import constraints, is_prepared
from ectorch.storage.state import plain_names
from ectorch.storage.tensors import raw_tensors
from ectorch.workflow import emptied, finalize

_MOST_ROWS = 30  # of the printed table
_FEW_LEVELS = 0.5  # of a tensor's bytes: floats that are stored as halves take that
_HEADS = ("name", "shape", "dtype", "", "float bytes", "file bytes", "least bytes")
_WORDS = 4  # columns of the table that are no numbers
_BUFFER = "buffer"


@dataclass(frozen=True)
class Row:
    """One tensor of the state dict, under its first name where it has several.

    Attributes:
        constrained: in a plain network, whether its values are few, as `ectorch.convert` leaves
            them.
        why: it stays float; empty where it is constrained.
        float_bytes: in memory.
        file_bytes: estimate of its payload now; 0 where it equals another tensor, which a file
            holds once.
        least_bytes: the same, were all that is constrained zero, and the network finalized.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    constrained: bool
    why: str
    float_bytes: int
    file_bytes: int
    least_bytes: int


@dataclass(frozen=True)
class Coverage:
    """What `coverage` found; print it for a table, the largest tensors first.

    Attributes:
        rows: in the order of the state dict.
        constrained_share: of the bytes of all parameters, in [0, 1].
        float_bytes: of all rows.
        file_bytes: estimate of the file now: payloads, names, index and checksums.
        least_bytes: estimate of the smallest file: what is constrained zero, the rest as
            `ectorch.finalize` leaves it.
    """

    rows: tuple[Row, ...]
    constrained_share: float
    float_bytes: int
    file_bytes: int
    least_bytes: int

    def __str__(self) -> str:
        ranked = sorted(self.rows, key=lambda row: -row.float_bytes)
        shown, rest = ranked[:_MOST_ROWS], ranked[_MOST_ROWS:]
        lines: list[tuple[str, ...]] = [_HEADS]
        for row in shown:
            name = row.name if row.name.isprintable() else repr(row.name)[1:-1]
            shape = "x".join(map(str, row.shape))
            lines.append((name, shape, row.dtype, row.why or "constrained", *_sizes([row])))
        if rest:
            lines.append((f"{len(rest)} more", "", "", "", *_sizes(rest)))
        share = f"{100 * self.constrained_share:.1f} % constrained"
        lines.append(("file", "", "", share, *_sizes([self])))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) if at < _WORDS else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        )


def coverage(model: nn.Module) -> Coverage:
    """What of ``model`` is constrained, what stays float and why, and what a file of it takes.

    Sizes are estimates from counts, as those of `ectorch.size.measure.rate_bits`: no coder runs,
    and what zstd or byte planes save of floats is not in them. Tied tensors count once.

    Args:
        model: plain, prepared or converted; left as it is.

    Raises:
        ConfigError: when ``model`` is no module.
        UnsupportedTensorError: as `ectorch.save_file`.
        DivergedError: when a constrained parameter holds NaN or infinity.

    >>> from ectorch.workflow import prepare
    >>> net = prepare(nn.Sequential(nn.Linear(64, 100), nn.LayerNorm(100)))
    >>> [(row.name, row.why) for row in coverage(net).rows]
    [('0.weight', ''), ('0.bias', ''), ('1.weight', 'norm'), ('1.bias', 'norm')]
    """
    check_module("coverage", model)
    raw = raw_tensors(model)
    file_bits, now = estimate_parts_bits(raw)
    names = _names_of_each(model, raw)
    reasons = _reasons(model, {tensor: raw[same[0]] for tensor, same in names.items()})
    zeros = {name for tensor, same in names.items() if not reasons[tensor] for name in same}
    least_bits, least = estimate_parts_bits(_least(model, raw, zeros))
    rows = tuple(
        Row(
            same[0],
            raw[same[0]].shape,
            raw[same[0]].dtype,
            not reasons[tensor],
            reasons[tensor],
            raw[same[0]].bits.nbytes,
            _bytes(sum(now[name] for name in same)),
            _bytes(sum(least[name] for name in same)),
        )
        for tensor, same in names.items()
    )
    parameters = sum(row.float_bytes for row in rows if row.why != _BUFFER)
    constrained = sum(row.float_bytes for row in rows if row.constrained)
    return Coverage(
        rows,
        constrained / max(parameters, 1),
        sum(row.float_bytes for row in rows),
        _bytes(file_bits),
        _bytes(least_bits),
    )


def _least(model: nn.Module, raw: dict[str, RawTensor], zeros: set[str]) -> dict[str, RawTensor]:
    """Of a prepared network, the tensors as `finalize` leaves them; where ``zeros`` are zero."""
    if is_prepared(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is wrong with a copy that is only measured
            return raw_tensors(finalize(emptied(model)))
    empty = {
        name: RawTensor(raw[name].dtype, raw[name].shape, np.zeros_like(raw[name].bits))
        for name in zeros
    }
    return raw | empty


def _names_of_each(model: nn.Module, raw: dict[str, RawTensor]) -> dict[int, list[str]]:
    """All names that a file has for each tensor, by the tensor's id."""
    own = model.state_dict(keep_vars=True)
    names: dict[int, list[str]] = defaultdict(list)
    for name, plain in plain_names(model, own).items():
        if plain in raw:
            names[id(own[name])].append(plain)
    return names


def _reasons(model: nn.Module, tensors: dict[int, RawTensor]) -> dict[int, str]:
    """Why each tensor stays float; empty where it does not."""
    reasons = dict.fromkeys(tensors, _BUFFER)
    modules = [*model.modules()]
    prepared = is_prepared(model)
    few = set() if prepared else {at for at, tensor in tensors.items() if _has_few_levels(tensor)}
    places = {
        id(parameter): (module, name)
        for module in reversed(modules)
        for name, parameter in module._parameters.items()
        if id(parameter) in tensors
    }
    known = prepared or any(len(tensors[at].shape) > 1 for at in few & places.keys())
    for at, (module, name) in places.items():
        constraint = constraints(module).get(name)
        if constraint is not None:
            reasons[at] = "" if constraint.relaxation is not None else "float16"
        elif isinstance(module, NORMS):
            reasons[at] = "norm"
        elif not known:
            reasons[at] = "not prepared"
        elif at in few:
            reasons[at] = ""
        else:
            reasons[at] = "one dimension" if len(tensors[at].shape) < 2 else "not included"
    return reasons


def _has_few_levels(tensor: RawTensor) -> bool:
    """More than one, but so few that it is coded by symbols."""
    varied = tensor.bits.size > 0 and bool((tensor.bits != tensor.bits[0]).any())
    return varied and estimate_bits(tensor) < _FEW_LEVELS * 8 * tensor.bits.nbytes


def _bytes(bits: float) -> int:
    return math.ceil(bits / 8)


def _sizes(parts: Iterable[Row | Coverage]) -> tuple[str, ...]:
    sizes = [(part.float_bytes, part.file_bytes, part.least_bytes) for part in parts]
    return tuple(f"{sum(column):,}" for column in zip(*sizes, strict=True))
