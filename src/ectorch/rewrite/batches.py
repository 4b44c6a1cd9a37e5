"""Running a network on what its user has at hand: example inputs in any of the usual forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ectorch.errors import ConfigError

_TRIED = 256  # examples

Run = Callable[[nn.Module], object]
Batches = Tensor | Iterable[Any] | Run
"""Inputs of a network, a tensor, a tuple or a dict for each call; or a function that calls it."""


def listed(batches: Batches) -> list[Any] | Run:
    """Batches one by one; a tensor or a dict is a single one, and a function stays what it is.

    Raises:
        ConfigError: when they are nothing of the kind, differ in form, or hold no examples, or
            numbers that are none.
    """
    if isinstance(batches, (Tensor, Mapping)):
        _check(batches, "batches")
        return [batches]
    if callable(batches):
        return batches
    if not isinstance(batches, Iterable):
        raise ConfigError(f"batches = {batches!r}: expected inputs, or a function of the network")
    one_by_one = [*batches]
    for index, batch in enumerate(one_by_one):
        _check(batch, f"batches[{index}]")
    if len({str(pytree.tree_structure(batch)) for batch in one_by_one}) > 1:
        raise ConfigError("batches: expected all of one form, tensors or tuples or dicts of them")
    return one_by_one


def _check(batch: Any, name: str) -> None:
    if isinstance(batch, list):  # as a loader of inputs and labels gives it
        raise ConfigError(
            f"{name} is a list of {len(batch)}: expected a tensor, a tuple of arguments or a dict; "
            "inputs alone: batches=[inputs for inputs, labels in loader]"
        )
    if not isinstance(batch, (Tensor, tuple, Mapping)):
        raise ConfigError(
            f"{name} is of type {type(batch).__name__}: expected a tensor, a tuple or a dict"
        )
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim and not len(leaf):
            raise ConfigError(f"{name} holds no examples")
        if isinstance(leaf, Tensor) and not leaf.isfinite().all():
            raise ConfigError(f"{name} holds NaN or infinity")


@torch.no_grad()
def check_runs(model: nn.Module, batches: list[Any] | Run) -> None:
    """Run ``model`` in eval mode on the first examples; nothing changes.

    Args:
        batches: `listed`.

    Raises:
        ConfigError: when it fails on them, gives NaN, or a function does not call it once.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    calls: list[None] = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        with outputs_of(model) as outputs:
            joined(batches, _TRIED)(model)
    except Exception as error:
        raise ConfigError(
            f"batches: the network does not run on them: {type(error).__name__}: {error}"
        ) from error
    finally:
        handle.remove()
        for module in training:
            module.training = True
    if len(calls) != 1:
        raise ConfigError(
            f"batches: the function called the network {len(calls)} times: expected once, on all "
            "inputs together"
        )
    if any(output.isnan().any() for output in outputs):
        raise ConfigError("batches: the network gives NaN on them")


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
