"""Hidden units: dead ones leave while a network trains, the others are sorted for the file.

A unit is an output feature of one layer and the input feature of the next. It is dead when its
incoming or its outgoing weights are all zero: then what it gives is constant or is not read. A
constant folds into the next layer's bias, and the unit can go: every later step is cheaper, and
`save_file` and `convert` fill the shapes with zeros again. Units have no order of their own, so
they are put in one that is cheap to store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ectorch import layers
from ectorch.chains import LAYERS, NORMS, Chain, find_chains, weight_of
from ectorch.errors import ConfigError

_FULL_SHAPES = "_ectorch_full_shapes"


@torch.no_grad()
def remove_dead_units(
    model: nn.Module, optimizer: torch.optim.Optimizer | None = None, fold: bool = True
) -> int:
    """Remove the hidden units that are dead in the hard network, in place.

    Parameters are replaced by smaller ones, in the optimizer too, and its state is cut with them.
    What the network computes in eval mode stays the same, up to rounding in sums, and to the
    codebook where a constant folds into a constrained bias ("hard" assigns by the frequencies of
    the levels, which change). A layer keeps one unit at least.

    Args:
        model: prepared or plain, traceable by torch.fx; networks without chains stay as they are.
        optimizer: the one that trains ``model``, with state of its parameters' shapes.
        fold: remove units that give a constant, too, into the bias of the layer that reads them;
            else only those that give zero or are not read.

    Returns:
        how many units were removed.

    Raises:
        UnsupportedLayerError: when the network cannot be traced.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = net[0].weight.data[3:].zero_()
    >>> remove_dead_units(net), net[2]
    (5, Linear(in_features=3, out_features=2, bias=True))
    """
    removed = 0
    for chain in find_chains(model):
        dead, constant = _dead(chain, fold)
        dead[0] &= not dead.all()
        if not dead.any():
            continue
        bias = chain.second._parameters["bias"]
        if bias is not None:
            bias.data += _by_unit(chain).sum(2) @ torch.where(dead, constant, 0.0)
        _select(chain, (~dead).nonzero()[:, 0], optimizer)
        removed += int(dead.sum())
    return removed


@torch.no_grad()
def sort_units(model: nn.Module) -> nn.Module:
    """Put hidden units in the order of their nonzero weights, most first: files get smaller.

    The network computes the same, up to rounding in sums. In place, before `save_file`.

    Raises:
        UnsupportedLayerError: when the network cannot be traced.
    """
    for chain in find_chains(model):
        incoming = _hard(chain.first, "weight").flatten(1).count_nonzero(1)
        outgoing = _by_unit(chain).count_nonzero((0, 2))
        _select(chain, (incoming + outgoing).argsort(descending=True, stable=True), None)
    return model


@torch.no_grad()
def restore_shapes(model: nn.Module) -> nn.Module:
    """Fill with zeros, in place, what `remove_dead_units` took from the shapes of a plain model.

    Raises:
        ConfigError: when it is still prepared: `convert` fills the shapes itself.
    """
    if any(map(layers.constraints, model.modules())):
        raise ConfigError(f"{type(model).__name__} is prepared: convert fills its shapes")
    for module in model.modules():
        for name in module.__dict__.get(_FULL_SHAPES, {}):
            for owner, key in _forms(module, name):
                owner[key] = _like(owner[key], restored(module, name, owner[key].detach()))
            _set_features(module)
        module.__dict__.pop(_FULL_SHAPES, None)
    return model


def restored(module: nn.Module, name: str, tensor: Tensor) -> Tensor:
    """``tensor``, a form of ``module``'s own ``name``, in its full shape."""
    full = module.__dict__.get(_FULL_SHAPES, {}).get(name)
    if full is None:
        return tensor
    sizes = reversed([*zip(full, tensor.shape, strict=True)])
    return F.pad(tensor, [margin for size, own in sizes for margin in (0, size - own)])


@torch.no_grad()
def fit_shapes(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Cut what is larger than in ``state``, which was saved after units were removed."""
    for prefix, module in model.named_modules():
        if not isinstance(module, (*LAYERS, *NORMS)):
            continue
        for name in _own_names(module):
            own, wanted = _raw(module, name), state[f"{prefix}.{name}" if prefix else name]
            for dim, size in enumerate(wanted.shape):
                if size < own.shape[dim]:
                    _select_in(module, name, dim, torch.arange(size), None)


def _dead(chain: Chain, fold: bool) -> tuple[Tensor, Tensor]:
    """(units,) whether each is dead, and what those that have no incoming weights give."""
    fed = _hard(chain.first, "weight").flatten(1).any(1)
    read = _by_unit(chain).any(2).any(0)
    biased = chain.first._parameters["bias"] is not None
    constant = _hard(chain.first, "bias") if biased else torch.zeros_like(fed, dtype=torch.float32)
    for step in chain.steps:
        constant = step(constant)
    pads = chain.second.__dict__.get("padding", 0) not in (0, (0,), (0, 0), (0, 0, 0), "valid")
    folds = fold and not pads and _takes_constants(chain.second)
    return ~read | (~fed if folds else ~fed & (constant == 0)), constant


def _takes_constants(layer: nn.Module) -> bool:
    """Whether the bias is what its Parameter says: not where symbols are frozen, or logits rule."""
    constraint = layers.constraints(layer).get("bias")
    relaxation = constraint.relaxation if constraint is not None else None
    own = relaxation is None or relaxation.trains_weight
    return (
        layer._parameters["bias"] is not None
        and own
        and layers.frozen_symbols(layer, "bias") is None
    )


def _select(chain: Chain, index: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Keep the units of ``index``, in its order."""
    inputs = (
        index[:, None] * chain.places + torch.arange(chain.places, device=index.device)
    ).flatten()
    for module in chain.modules[:-1]:
        for name in _own_names(module):
            _select_in(module, name, 0, index, optimizer)
    _select_in(chain.second, "weight", 1, inputs, optimizer)


def _select_in(
    module: nn.Module, name: str, dim: int, index: Tensor, optimizer: torch.optim.Optimizer | None
) -> None:
    """Keep ``index`` along ``dim`` of every form of ``module``'s own tensor ``name``."""
    shape = _raw(module, name).shape
    if not shape:
        return  # a norm's count of batches
    if len(index) < shape[dim]:
        module.__dict__.setdefault(_FULL_SHAPES, {}).setdefault(name, tuple(shape))
    for owner, key in _forms(module, name):
        before = owner[key]
        pick = partial(_picked, dim=dim + before.ndim - len(shape), index=index)
        owner[key] = _like(before, pick(before.detach()))
        if optimizer is not None:
            _replace(optimizer, before, owner[key], pick)
    _set_features(module)


def _like(before: Tensor, values: Tensor) -> Tensor:
    """A new Parameter or buffer: graphs that are still alive hold the old one with its shape."""
    if isinstance(before, nn.Parameter):
        return nn.Parameter(values, before.requires_grad)
    return values


def _replace(
    optimizer: torch.optim.Optimizer,
    before: Tensor,
    after: Tensor,
    pick: Callable[[Tensor], Tensor],
) -> None:
    """Let ``optimizer`` train ``after`` with what it knows of ``before``."""
    for group in optimizer.param_groups:
        group["params"] = [after if p is before else p for p in group["params"]]
    if before in optimizer.state:
        optimizer.state[after] = {
            key: pick(value) if torch.is_tensor(value) and value.shape == before.shape else value
            for key, value in optimizer.state.pop(before).items()
        }


def _picked(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    """``tensor.index_select(dim, index)`` that stays channels last where ``tensor`` is."""
    picked = tensor.index_select(dim, index.to(tensor.device))
    for form, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.ndim == dims and tensor.is_contiguous(memory_format=form):
            return picked.contiguous(memory_format=form)
    return picked


def _forms(module: nn.Module, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the tensors of one parameter or buffer lie that have its shape, or end in it."""
    tensors = module._parameters if name in module._parameters else module._buffers
    yield tensors, name
    if name in layers.constraints(module):
        for suffix in layers.variables(module, name):
            if suffix != "weight":
                yield module._parameters, f"{name}_{suffix}"
        if layers.frozen_symbols(module, name) is not None:
            yield module._buffers, f"{name}_symbols"


def _own_names(module: nn.Module) -> list[str]:
    """Parameters and buffers of a layer or norm itself, without what constraining it added."""
    added = {
        f"{name}_{suffix}"
        for name, constraint in layers.constraints(module).items()
        for suffix in constraint.added
    }
    tensors = module._parameters | module._buffers
    return [name for name, tensor in tensors.items() if tensor is not None and name not in added]


def _set_features(module: nn.Module) -> None:
    """Let a module's own numbers of features say what its tensors are."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight_of(module).shape
    elif isinstance(module, LAYERS):
        module.out_channels, module.in_channels = weight_of(module).shape[:2]
    elif isinstance(module, NORMS) and module.running_mean is not None:
        module.num_features = len(module.running_mean)


def _raw(module: nn.Module, name: str) -> Tensor:
    tensor = module._parameters[name] if name in module._parameters else module._buffers[name]
    assert tensor is not None
    return tensor


def _hard(module: nn.Module, name: str) -> Tensor:
    constrained = name in layers.constraints(module)
    return layers.hard(module, name) if constrained else _raw(module, name).detach()


def _by_unit(chain: Chain) -> Tensor:
    """(outputs, units, places) hard weights of the layer that reads the units."""
    weight = _hard(chain.second, "weight")
    return weight.reshape(len(weight), len(weight_of(chain.first)), -1)
