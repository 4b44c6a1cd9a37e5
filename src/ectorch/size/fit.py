"""Files of a size that is asked for: a control of alpha on the way, the last symbols in the end.

Rate-distortion optimisation: of all weights that could move to another level, those move that cost
the least loss for each bit. What a move costs is its squared distance from the weight as it was
trained, times the squared gradient (a diagonal Fisher matrix); bits follow the counts of levels;
the size is that of the file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ectorch import workflow
from ectorch.arguments import check_module, check_number, check_real, shown
from ectorch.constrain.modules import constrained_parameters
from ectorch.errors import ConfigError, MismatchError
from ectorch.rewrite.norms import has_statistics
from ectorch.size.measure import SizeMeter
from ectorch.size.targets import frozen_names, said_of_frozen, size_range
from ectorch.workflow import freeze_symbols

_LEAST_SHARE = 0.99  # of the target that a file takes
_ROUNDS = 6
_UNUSED_SHARE = 1 / 4000  # of the target: fewer bytes are not worth another measurement
_LEAST_EXCESS = 1e-9
_PROBED = 1 / 2, 1 / 4, 3 / 4  # of the moves
_HALVED = 3  # each so many guesses one halves what is left, whatever sizes say


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


def fit_size(
    model: nn.Module,
    target_bytes: int,
    optimizer: torch.optim.Optimizer | None = None,
    finalize: Callable[[nn.Module], nn.Module] = workflow.finalize,
    meter: SizeMeter | None = None,
    on_progress: Callable[[int], object] | None = None,
) -> int:
    """Freeze the symbols of a prepared network, in place, so that its file has a size.

    Weights move toward zero until the file is no larger than ``target_bytes``, or away from zero,
    to the level on the other side of where they were trained, as long as it stays no larger. A
    file that takes between 99 % and 100 % already is left as it is, and so are parameters that were
    frozen by ``requires_grad_(False)``.

    Args:
        optimizer: that trained the network: its mean squared gradients (Adam's ``exp_avg_sq``) say
            what a move costs; all weights are alike where it has none.
        finalize: what will be done to the network before it is saved.
        meter: that has measured it before, and knows how to code it; a new one if None.
        on_progress: is told the bytes of each file that is measured on the way, some ten to fifty.

    Returns:
        the size of the file that ``finalize`` and `ectorch.save_file` will write. It is below 99 %
        of the target, with a warning, where too few weights may move, as in a network that died,
        or one that moves takes more than what is left.

    Raises:
        ConfigError: when ``target_bytes`` is no whole number above 0, ``model`` is no module, or
            ``optimizer`` has none of its parameters.
        MismatchError: when no move is left and the file is still larger; where it is what
            ``requires_grad_(False)`` froze that takes the room, before anything is changed.
    """
    check_module("fit_size", model)
    check_real("target_bytes", target_bytes)
    check_number("target_bytes", target_bytes, above=True)
    if target_bytes % 1:
        raise ConfigError(f"target_bytes = {target_bytes!r}: expected a whole number")
    _check_optimizer(model, optimizer)
    if finalize is workflow.finalize and has_statistics(model):
        warnings.warn(
            "fit_size measures the file of finalize(model) without batches; with them batch norms "
            "take other bytes: give it what you will call, "
            "finalize=functools.partial(ectorch.finalize, batches=batches)",
            stacklevel=2,
        )

    known = SizeMeter(finalize) if meter is None else meter

    def told(size: int) -> int:
        if on_progress is not None:
            on_progress(size)
        return size

    def measured() -> int:
        return told(known(model).total)

    def written() -> int:
        return told(SizeMeter(finalize)(model).total)  # a new one searches, as `save` does

    size = written()
    if _LEAST_SHARE * target_bytes <= size <= target_bytes:
        freeze_symbols(model)
        return size
    frozen = frozen_names(model)
    if frozen and size > target_bytes:
        least = size_range(model, finalize)[0].total if _may_move(model) else size
        _check_least(least, target_bytes, frozen)
    states = optimizer.state if optimizer is not None else {}
    importance = {p: s["exp_avg_sq"] for p, s in states.items() if "exp_avg_sq" in s}
    aim, rounds, was_larger = target_bytes, 0, False
    while rounds < _ROUNDS or size > target_bytes:
        was_larger |= _fit_measured(model, aim, importance, measured)
        before, size = size, written()
        if _LEAST_SHARE * target_bytes <= size <= target_bytes:
            return size
        if size == before and not was_larger:  # nothing is left to move
            break
        # what is measured is a little off what is written
        aim += int((1 + _LEAST_SHARE) / 2 * target_bytes) - size
        rounds += 1
    why = "one weight that moves takes more than what is left"
    if not was_larger:
        why = (
            "too few weights are left that may move; where the network died (see its error), start "
            "from a lower alpha, or give it more steps, or a longer warmup or ramp"
        )
    warnings.warn(
        f"the file takes {size:,} bytes, {target_bytes:,} were asked for: "
        f"{why}{said_of_frozen(frozen)}",
        RuntimeWarning,
        stacklevel=2,
    )
    return size


@torch.no_grad()
def _fit_measured(
    model: nn.Module,
    target_bytes: int,
    importance: Mapping[Tensor, Tensor],
    measure: Callable[[], int],
) -> bool:
    """Move symbols until what ``measure`` gives is no larger than ``target_bytes``.

    Returns:
        whether a file was met that is larger: then it was not for lack of moves where it ends.
    """
    sizes: list[int] = []

    def size() -> int:
        sizes.append(measure())
        return sizes[-1]

    freeze_symbols(model)
    now = size()
    while True:  # every weight moves once in each round
        toward_zero = now > target_bytes
        moves = _moves(model, importance, toward_zero)
        if now == target_bytes or not sum(len(each.index) for each in moves):
            break
        before, now = now, _take(moves, target_bytes, now, size)
        # what fits is measured anew, and may then be a byte too much: the next round trims
        if now <= target_bytes and (toward_zero or now == before):
            break
    _check_least(now, target_bytes, frozen_names(model))
    return max(sizes) > target_bytes


def _check_least(least: int, target_bytes: int, frozen: Sequence[str]) -> None:
    if least > target_bytes:
        raise MismatchError(
            f"the smallest file of this network takes {least} > {target_bytes} bytes"
            + said_of_frozen(frozen)
        )


def _check_optimizer(model: nn.Module, optimizer: Any) -> None:
    if optimizer is None:
        return
    if not (hasattr(optimizer, "param_groups") and hasattr(optimizer, "state")):
        raise ConfigError(
            f"optimizer = {shown(optimizer)}: expected the torch optimizer that trained the network"
        )
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if trained.isdisjoint(map(id, model.parameters())):
        raise ConfigError(
            f"optimizer: this {type(optimizer).__name__} has no parameter of the "
            f"{type(model).__name__}: give the one that trained it (a copy of a network has "
            "parameters of its own), or None, where all weights are alike"
        )


def _may_move(model: nn.Module) -> bool:
    return any(
        handle.relaxation is not None and not handle.is_held
        for handle in constrained_parameters(model)
    )


def _moves(
    model: nn.Module, importance: Mapping[Tensor, Tensor], toward_zero: bool
) -> list[_Moves]:
    found = []
    for handle in constrained_parameters(model):
        symbols, relaxation = handle.frozen, handle.relaxation
        if symbols is None or handle.is_held:
            continue
        book, weight = handle.codebook(), handle.parameter
        own = relaxation is not None and relaxation.trains_weight
        values = book.values.to(weight.dtype)
        trained = (weight if own else values[symbols.long()]).clamp(values[0], values[-1])
        # what is charged pools the levels that come in the wrong order: a move among them saves 0
        counts = torch.bincount(symbols.reshape(-1), minlength=book.levels)
        lengths = torch.log2(symbols.numel() / counts.clamp(min=1)).to(weight.dtype)
        choose = _toward_zero if toward_zero else _away_from_zero
        index, target, ratio = choose(symbols, trained, values, lengths, book.zero)
        scale = importance.get(weight)
        ratio = ratio if scale is None else ratio * scale.reshape(-1)[index]
        found.append(_Moves(symbols, index, target.to(symbols.dtype), ratio))
    return found


def _toward_zero(
    symbols: Tensor, trained: Tensor, values: Tensor, lengths: Tensor, zero: int
) -> tuple[Tensor, Tensor, Tensor]:
    """For every nonzero the nearer level that costs the least squared distance for each bit."""
    index = (symbols != zero).reshape(-1).nonzero()[:, 0]
    here, weight = symbols.reshape(-1)[index].long(), trained.reshape(-1)[index]
    distance, sign = (here - zero).abs(), torch.sign(here - zero)
    target, least = here, torch.full_like(weight, torch.inf)
    for step in range(1, int(distance.max()) + 1 if len(index) else 0):
        level = zero + sign * (distance - step).clamp(min=0)
        bits = lengths[here] - lengths[level]
        # there is always a way to zero, also where zeros are rare
        bits = torch.where(level == zero, bits.clamp(min=1.0), bits)
        moved = (weight - values[level]).square() - (weight - values[here]).square()
        better = (bits > 0) & (moved / bits < least)
        target, least = torch.where(better, level, target), torch.where(better, moved / bits, least)
    return index, target, least


def _away_from_zero(
    symbols: Tensor, trained: Tensor, values: Tensor, lengths: Tensor, zero: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The level on the other side of where a weight was trained, where that is farther off."""
    target = symbols + torch.sign(trained - values[symbols.long()]).to(symbols.dtype)
    target = target.clamp(0, len(values) - 1)
    farther = (target - zero).abs() > (symbols - zero).abs()
    index = (farther & _live(symbols != zero)).reshape(-1).nonzero()[:, 0]
    here, target = symbols.reshape(-1)[index].long(), target.reshape(-1)[index].long()
    weight = trained.reshape(-1)[index]
    moved = (weight - values[target]).square() - (weight - values[here]).square()
    # a level that nothing has is as cheap as one that something has: a bit is what a move takes
    return index, target, moved / (lengths[target] - lengths[here]).clamp(min=1.0)


def _live(nonzero: Tensor) -> Tensor:
    """Where rows and columns are not empty: a weight elsewhere could wake a whole unit."""
    if nonzero.ndim < 2:
        return nonzero
    others = tuple(range(2, nonzero.ndim))
    maps = nonzero.any(others, keepdim=True) if others else nonzero
    return maps.any(0, keepdim=True) & maps.any(1, keepdim=True)


def _take(moves: list[_Moves], target_bytes: int, now: int, size: Callable[[], int]) -> int:
    """Make the cheapest moves, as many as let the file fit and leave the least of it unused.

    Args:
        now: bytes before any of them, which make a file smaller that is too large, else larger.
        size: of the file as it is with the moves made.
    """
    toward_zero = now > target_bytes
    most = sum(len(each.index) for each in moves)
    changes = _changes(moves)

    def make(count: int) -> int:
        for change in changes:
            change.make(count)
        tried[count] = size()
        return tried[count]

    tried = {0: now}
    if make(most) > target_bytes and toward_zero:
        return tried[most]
    larger = most if toward_zero or tried[most] > target_bytes else None
    for share in _PROBED if larger is None else ():  # all moves fit: on the way it may be larger
        if make(int(share * most)) > target_bytes:
            larger = int(share * most)
            break
    if larger is not None:
        bracket = _Bracket(target_bytes, {0: now, larger: tried[larger]})
        while bracket.is_open():
            count = bracket.guess()
            bracket.see(count, make(count))
    # sizes do not grow with every move: some that was tried may be nearer than the last one
    best = max(tried, key=lambda count: (min(target_bytes - tried[count], 0), tried[count]))
    return tried[best] if best == [*tried][-1] else make(best)


@dataclass
class _Change:
    """The moves of one parameter, of which the first are made.

    Attributes:
        original, moved: (n,) symbols before and after all moves.
        rank: (n,) of its move among those of all parameters, the cheapest is 0.
    """

    symbols: Tensor
    original: Tensor
    moved: Tensor
    rank: Tensor

    def make(self, count: int) -> None:
        """The cheapest ``count`` of all moves."""
        now = torch.where(self.rank < count, self.moved, self.original)
        self.symbols.copy_(now.reshape(self.symbols.shape))


def _changes(moves: list[_Moves]) -> list[_Change]:
    ratios = torch.cat([each.ratio.cpu() for each in moves])
    rank = torch.empty_like(ratios, dtype=torch.int64)
    rank[ratios.argsort(stable=True)] = torch.arange(len(ratios))
    found = []
    for each, own in zip(
        moves, torch.split(rank, [len(each.index) for each in moves]), strict=True
    ):
        original = each.symbols.reshape(-1).clone()
        ranks = torch.full_like(original, len(ratios), dtype=torch.int64)
        ranks[each.index] = own.to(ranks.device)
        moved = original.index_put((each.index,), each.target)
        found.append(_Change(each.symbols, original, moved, ranks))
    return found


class _Bracket:
    """Two numbers of moves, with one of which the file fits, with the other not: regula falsi.

    Sizes fall along a smooth curve but for a few bytes, so that a guess is soon near. An end that
    stays counts half each time (the Illinois rule), and some guesses halve the bracket.
    """

    def __init__(self, target_bytes: int, sizes: Mapping[int, int]) -> None:
        self._target = target_bytes
        self._ends = {count: self._excess(size) for count, size in sizes.items()}
        self._guesses = 0
        self._unused = min(target_bytes - size for size in sizes.values() if size <= target_bytes)
        self._last: int | None = None

    def is_open(self) -> bool:
        few, many = sorted(self._ends)
        return many - few > 1 and self._unused > _UNUSED_SHARE * self._target

    def guess(self) -> int:
        (few, low), (many, high) = sorted(self._ends.items())
        self._guesses += 1
        share = 0.5 if self._guesses % _HALVED == 0 else low / (low - high)
        return min(max(few + round(share * (many - few)), few + 1), many - 1)

    def see(self, count: int, size: int) -> None:
        """Take note of the size with ``count`` moves, which lies between the ends."""
        excess = self._excess(size)
        if size <= self._target:
            self._unused = min(self._unused, self._target - size)
        (replaced,) = (end for end, other in self._ends.items() if (other > 0) == (excess > 0))
        (kept,) = self._ends.keys() - {replaced}
        del self._ends[replaced]
        if self._last == kept:
            self._ends[kept] /= 2
        self._ends[count], self._last = excess, kept

    def _excess(self, size: int) -> float:
        """Nats above what is aimed at, in the middle of the sizes that will do, or below it."""
        return math.log(size / self._target) + _UNUSED_SHARE / 2 or -_LEAST_EXCESS
