"""What a loss does not tell: layers that die, and codebooks that no optimizer has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ectorch.constrain.modules import Constrained

_EVERY = 16  # refreshes: to look at the symbols costs about as much as a refresh
_ALONE = 32  # refreshes between which weights move while their codebooks do not


@dataclass
class _Seen:
    """Of one Parameter and its codebook; versions are torch's counts of writes in place."""

    weight_version: int
    book_version: int
    book: Tensor
    refreshes: int = 0
    lives: bool = False
    refreshes_alone: int = 0
    book_trains: bool = False


_SEEN: WeakIdKeyDictionary = WeakIdKeyDictionary()


def watch(model: nn.Module, parameters: Sequence[Constrained]) -> None:
    """Warn once of each that died since it was seen alive, and of codebooks that do not train.

    Called at each refresh.

    Symbols are read on the CPU alone: nothing waits for another device.
    """
    died: list[Constrained] = []
    left: list[Constrained] = []
    for handle in parameters:
        weight, book = handle.parameter, handle.log_gaps
        assert book is not None
        if weight not in _SEEN:
            _SEEN[weight] = _Seen(weight._version, book._version, book.detach().clone())
        seen = _SEEN[weight]
        if _is_left(seen, weight, book):
            left.append(handle)
        if weight.ndim > 1 and weight.device.type == "cpu":
            if seen.refreshes % _EVERY == 0 and _has_died(seen, handle):
                died.append(handle)
            seen.refreshes += 1
    if died:
        warnings.warn(
            f"{_name(model, died[0])}{_and_more(died)} has no nonzero left in the hard network: a "
            "lower alpha, a longer ramp, or a warmup without the penalty keeps layers alive",
            stacklevel=3,
        )
    if left:
        warnings.warn(
            f"{_name(model, left[0])}_log_gaps{_and_more(left)} never changes while the weights "
            "do: build the optimizer after prepare, from ectorch.param_groups, or call "
            "requires_grad_(False) if codebooks shall stay",
            stacklevel=3,
        )


def _is_left(seen: _Seen, weight: Tensor, book: Tensor) -> bool:
    """Whether this is the step by which it is plain; a learning rate of 0 is a write, too."""
    seen.book_trains |= book._version != seen.book_version
    moved = weight._version != seen.weight_version
    seen.weight_version, seen.book_version = weight._version, book._version
    if seen.book_trains or not moved or not book.requires_grad or book.grad is None:
        return False
    seen.refreshes_alone += 1
    # a fused optimizer's writes are not counted
    return seen.refreshes_alone == _ALONE and torch.equal(seen.book, book)


def _has_died(seen: _Seen, handle: Constrained) -> bool:
    lived, seen.lives = seen.lives, bool(handle.hard().any())
    return lived and not seen.lives


def _name(model: nn.Module, handle: Constrained) -> str:
    prefix = next(name for name, module in model.named_modules() if module is handle.module)
    return f"{prefix}.{handle.name}" if prefix else handle.name


def _and_more(parameters: Sequence[Constrained]) -> str:
    return f" (and {len(parameters) - 1} more)" if len(parameters) > 1 else ""
