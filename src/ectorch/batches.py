"""Running a network on what its user has at hand: example inputs in any of the usual forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ectorch.errors import ConfigError

Run = Callable[[nn.Module], object]
Batches = Tensor | Iterable[Any] | Run
"""Inputs of a network, a tensor, a tuple or a dict for each call; or a function that calls it."""


def listed(batches: Batches) -> list[Any] | Run:
    """Batches one by one; a tensor or a dict is a single one, and a function stays what it is.

    Raises:
        ConfigError: when they are nothing of the kind, or differ in form.
    """
    if isinstance(batches, (Tensor, Mapping)):
        return [batches]
    if callable(batches):
        return batches
    if not isinstance(batches, Iterable):
        raise ConfigError(f"batches = {batches!r}: expected inputs, or a function of the network")
    one_by_one = [*batches]
    for batch in one_by_one:
        if not isinstance(batch, (Tensor, tuple, Mapping)):
            raise ConfigError(f"batches: {type(batch).__name__}, expected tensors, tuples or dicts")
    if len({str(pytree.tree_structure(batch)) for batch in one_by_one}) > 1:
        raise ConfigError("batches: expected all of one form, tensors or tuples or dicts of them")
    return one_by_one


def joined(batches: list[Any] | Run, most: int | None = None) -> Run:
    """One call of a network on all ``batches`` at once; a function stays what it is.

    Args:
        batches: `listed`.
        most: examples, from the first batch alone.

    Raises:
        ConfigError: when arguments differ that are no examples.
    """
    if callable(batches):
        return batches
    flat = [pytree.tree_flatten(batch) for batch in (batches if most is None else batches[:1])]
    together = [_cat(column, most) for column in zip(*(own for own, _ in flat), strict=True)]
    batch = pytree.tree_unflatten(together, flat[0][1])
    return lambda model: call(model, batch)


def call(model: nn.Module, batch: Any) -> Any:
    """``model`` of one batch: a tensor, a tuple of arguments, or a dict of named ones."""
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple) else model(batch)


@contextmanager
def outputs_of(model: nn.Module) -> Iterator[list[Tensor]]:
    """All tensors that ``model`` gives meanwhile."""
    seen: list[Tensor] = []

    def note(module: nn.Module, given: object, output: object) -> None:
        seen.extend(leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor))

    handle = model.register_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def _cat(column: Sequence[Any], most: int | None) -> Any:
    """Tensors of examples one after the other; what is none has to be the same in all batches."""
    if all(isinstance(leaf, Tensor) and leaf.ndim for leaf in column):
        return torch.cat(list(column))[:most] if len(column) > 1 else column[0][:most]
    if len(column) > 1 and any(leaf is not column[0] for leaf in column):
        raise ConfigError("batches: arguments that are no tensors of examples differ")
    return column[0]
