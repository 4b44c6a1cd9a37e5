"""The last symbols of a network, chosen so that its file has a size that was asked for.

Rate-distortion optimisation: of all weights that could move to a neighbouring level, those move
that cost the least loss for each bit. What a move costs is its squared distance from the weight as
it was trained, times the squared gradient (a diagonal Fisher matrix); bits are the code lengths
that the penalty charged; the size is that of the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ectorch import layers
from ectorch.errors import MismatchError
from ectorch.network import constrained_parameters, freeze_symbols
from ectorch.relaxation import Bracket, Hard
from ectorch.storage import SizeMeter


@dataclass
class _Moves:
    """Every weight of one parameter that may move, and what a move costs and brings.

    Attributes:
        index: (moves,) places in the flat parameter.
        target: (moves,) int32 the level that each would move to.
        ratio: (moves,) loss a bit.
    """

    symbols: Tensor
    index: Tensor
    target: Tensor
    ratio: Tensor


@torch.no_grad()
def fit_size(
    model: nn.Module,
    target_bytes: int,
    importance: Mapping[Tensor, Tensor] | None = None,
    size: Callable[[nn.Module], int] | None = None,
) -> int:
    """Freeze the symbols of a prepared network, in place, so that its file fits ``target_bytes``.

    Weights move toward zero until the file is no larger, or away from zero, to the level on the
    other side of where they were trained, as long as it stays no larger.

    Args:
        importance: of weights by Parameter, of its shape, as Adam's ``exp_avg_sq``; alike if None
            or for Parameters that it lacks.
        size: bytes of the network's file; those of `ectorch.SizeMeter` if None.

    Returns:
        the size.

    Raises:
        MismatchError: when no move is left and the file is still larger. Symbols are frozen then.
    """
    size = size or _measure
    freeze_symbols(model)
    now = size(model)
    while True:  # a weight moves by one level in each round
        toward_zero = now > target_bytes
        moves = _moves(model, importance or {}, toward_zero)
        if now == target_bytes or not sum(len(each.index) for each in moves):
            break
        before, now = now, _take(model, moves, target_bytes, size, toward_zero)
        # what fits is measured anew, and may then be a byte too much: the next round trims
        if now <= target_bytes and (toward_zero or now == before):
            break
    if now > target_bytes:
        raise MismatchError(f"the smallest file of this network takes {now} > {target_bytes} bytes")
    return now


def _measure(model: nn.Module) -> int:
    return SizeMeter()(model).total


def _moves(
    model: nn.Module, importance: Mapping[Tensor, Tensor], toward_zero: bool
) -> list[_Moves]:
    found = []
    for module, name, constraint in constrained_parameters(model):
        symbols = layers.frozen_symbols(module, name)
        if symbols is None:
            continue
        book, weight = layers.codebook(module, name), module._parameters[name]
        assert weight is not None
        # only these relaxations train the weight itself
        own = isinstance(constraint.relaxation, (Bracket, Hard))
        values = book.values.to(weight.dtype)
        trained = (weight if own else values[symbols.long()]).clamp(values[0], values[-1])
        here = values[symbols.long()]
        if toward_zero:
            target = symbols - torch.sign(symbols - book.zero)
        else:
            target = symbols + torch.sign(trained - here).to(symbols.dtype)
            target = target.clamp(0, book.levels - 1)
        farther = (target - book.zero).abs() - (symbols - book.zero).abs()
        may = farther == (-1 if toward_zero else 1)
        if not toward_zero:
            may &= _live(symbols != book.zero)
        index = may.reshape(-1).nonzero()[:, 0]
        scale = importance.get(weight)
        moved = (trained - values[target.long()]).square() - (trained - here).square()
        loss = (moved if scale is None else moved * scale).reshape(-1)[index]
        lengths = getattr(module, f"{name}_lengths")
        bits = (lengths[symbols.long()] - lengths[target.long()]).abs().reshape(-1)[index]
        # where lengths are equal, as for levels that nothing has, a bit is what a move may save
        found.append(_Moves(symbols, index, target.reshape(-1)[index], loss / bits.clamp(min=1.0)))
    return found


def _live(nonzero: Tensor) -> Tensor:
    """Where rows and columns are not empty: a weight elsewhere could wake a whole unit."""
    if nonzero.ndim < 2:
        return nonzero
    others = tuple(range(2, nonzero.ndim))
    maps = nonzero.any(others, keepdim=True) if others else nonzero
    return maps.any(0, keepdim=True) & maps.any(1, keepdim=True)


def _take(
    model: nn.Module,
    moves: list[_Moves],
    target_bytes: int,
    size: Callable[[nn.Module], int],
    toward_zero: bool,
) -> int:
    """Make the cheapest moves, as many as let the file fit and leave the least of it unused."""
    ratios = torch.cat([each.ratio.cpu() for each in moves])
    rank = torch.empty_like(ratios, dtype=torch.int64)
    rank[ratios.argsort(stable=True)] = torch.arange(len(ratios))
    ranks = torch.split(rank, [len(each.index) for each in moves])
    originals = [each.symbols.clone() for each in moves]

    def make(count: int) -> bool:
        for each, original, own in zip(moves, originals, ranks, strict=True):
            chosen = (own < count).to(each.index.device)
            moved = original.reshape(-1).index_put((each.index[chosen],), each.target[chosen])
            each.symbols.copy_(moved.reshape(original.shape))
        tried[count] = size(model)
        return tried[count] <= target_bytes

    tried: dict[int, int] = {}
    few, many = 0, len(ratios)
    if not make(many) and toward_zero:
        return tried[many]
    if make(few) != make(many):
        while many - few > 1:
            middle = (few + many) // 2
            if make(middle) == toward_zero:
                many = middle
            else:
                few = middle
    # sizes do not grow with every move: some that was tried may be nearer than the last one
    best = max(tried, key=lambda count: (min(target_bytes - tried[count], 0), tried[count]))
    make(best)
    return tried[best]
