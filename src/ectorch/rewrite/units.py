"""Hidden units: dead ones leave while a network trains, the others are sorted for the file.

A unit is an output feature of one layer and the input feature of the next. It is dead when its
incoming or its outgoing weights are all zero: then what it gives is constant or is not read. A
constant folds into the next layer's bias, and the unit can go: every later step is cheaper, and
`save_file` and `convert` fill the shapes with zeros again. Units have no order of their own, so
they are put in one that is cheap to store.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ectorch.arguments import check_module
from ectorch.constrain import patch
from ectorch.constrain.modules import SYMBOLS, Constrained, handle_of, is_prepared
from ectorch.errors import ConfigError, UnsupportedLayerError
from ectorch.rewrite.chains import BATCH_NORMS, LAYERS, Chain, find_chains, own_names, weight_of

_FULL_SHAPES = "_ectorch_full_shapes"


@torch.no_grad()
def remove_dead_units(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    fold: bool = True,
    forward_only: bool = False,
) -> int:
    """Remove the hidden units that are dead in the hard network, in place.

    Parameters are replaced by smaller ones, in the optimizer too, and its state and gradients are
    cut with them. What the network computes in eval mode stays the same, up to rounding in sums,
    and to the codebook where a constant folds into a constrained bias. A layer keeps one unit at
    least. The relaxation "hard" assigns by the frequencies of the levels: units whose removal would
    assign anything else otherwise stay, until symbols are frozen. A bias whose ``requires_grad`` is
    False takes no constant. Layers between which anything else could read or hook what is removed
    stay as they are, see `ectorch.rewrite.chains`, and so does a network that torch.fx cannot
    trace, with a warning.

    Args:
        model: prepared or plain.
        optimizer: the one that trains ``model``.
        fold: remove units that give a constant, too, into the bias of the layer that reads them;
            else only those that give zero or are not read.
        forward_only: the network is used through its ``forward`` alone, on batches, not by other
            methods or by calls of its parts: more can be removed then.

    Returns:
        how many units were removed.

    Raises:
        ConfigError: when the optimizer does not train what is removed, or has a state that cannot
            be cut; or when processes train replicas of the network (torch.distributed), which
            would not follow. Nothing was changed then.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> _ = net[0].weight.data[3:].zero_()
    >>> remove_dead_units(net), net[2]
    (5, Linear(in_features=3, out_features=2, bias=True))
    """
    check_module("remove_dead_units", model)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise ConfigError(
            "remove_dead_units: torch.distributed runs, and replicas of the network would not "
            "follow: call it before they are made"
        )
    try:
        chains = find_chains(model, forward_only)
    except UnsupportedLayerError as error:
        warnings.warn(f"remove_dead_units leaves the network as it is: {error}", stacklevel=3)
        return 0
    if optimizer is not None:
        _check_follows(optimizer, model, chains)
    return sum(remove_from(chain, optimizer, fold) for chain in chains)


@torch.no_grad()
def remove_from(chain: Chain, optimizer: torch.optim.Optimizer | None, fold: bool) -> int:
    """`remove_dead_units` of one chain."""
    dead, constant = _dead(chain, fold)
    dead[0] &= not dead.all()
    kept = (~dead).nonzero()[:, 0]
    if not dead.any() or not _keeps_symbols(chain, kept):
        return 0
    bias = chain.second._parameters["bias"]
    if bias is not None:
        bias.data += _by_unit(chain).sum(2) @ torch.where(dead, constant, 0.0)
    _select(chain, kept, optimizer)
    return int(dead.sum())


def sort_units(model: nn.Module, forward_only: bool = False) -> nn.Module:
    """Put hidden units in the order of their nonzero weights, most first: files get smaller.

    The network computes the same, up to rounding in sums. In place, before `save_file`.

    Args:
        forward_only: see `remove_dead_units`.

    Raises:
        UnsupportedLayerError: when the network cannot be traced.
    """
    check_module("sort_units", model)
    for chain in find_chains(model, forward_only):
        sort_chain(chain)
    return model


@torch.no_grad()
def sort_chain(chain: Chain) -> None:
    """`sort_units` of one chain."""
    incoming, outgoing = _hard(chain.first, "weight").flatten(1) != 0, _by_unit(chain) != 0
    # several times as fast as count_nonzero, which counts in int64
    incoming, outgoing = (
        incoming.sum(1, dtype=torch.int32),
        outgoing.sum(2, dtype=torch.int32).sum(0),
    )
    _select(chain, (incoming + outgoing).argsort(descending=True, stable=True), None)


@torch.no_grad()
def restore_shapes(model: nn.Module) -> nn.Module:
    """Fill with zeros, in place, what `remove_dead_units` took from the shapes of a plain model.

    Raises:
        ConfigError: when it is still prepared: `convert` fills the shapes itself.
    """
    check_module("restore_shapes", model)
    if is_prepared(model):
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
def cut_to_shapes(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Cut what is larger than in ``state``, which was saved after units were removed."""
    for prefix, module in model.named_modules():
        if patch.kind_of(module) not in (*LAYERS, *BATCH_NORMS):
            continue
        for name in own_names(module):
            own, wanted = _raw(module, name), state[f"{prefix}.{name}" if prefix else name]
            for dim, size in enumerate(wanted.shape):
                if size < own.shape[dim]:
                    _select_in(module, name, dim, torch.arange(size), None)


def _dead(chain: Chain, fold: bool) -> tuple[Tensor, Tensor]:
    """(units,) whether each is dead, and what those that have no incoming weights give."""
    fed = _hard(chain.first, "weight").flatten(1).any(1)
    read = _by_unit(chain).any(2).any(0)
    biased = chain.first._parameters["bias"] is not None
    dtype = weight_of(chain.first).dtype
    constant = _hard(chain.first, "bias") if biased else torch.zeros_like(fed, dtype=dtype)
    constant = constant.clone()  # steps may be in place
    for step in chain.steps:
        constant = step(constant)
    pads = chain.second.__dict__.get("padding", 0) not in (0, (0,), (0, 0), (0, 0, 0), "valid")
    folds = fold and not pads and _takes_constants(chain.second)
    return ~read | (~fed if folds else ~fed & (constant == 0)), constant


def _takes_constants(layer: nn.Module) -> bool:
    """Whether the bias is trained, and is what its Parameter says.

    Not where it is held, symbols are frozen, or logits rule.
    """
    bias, handle = layer._parameters["bias"], handle_of(layer, "bias")
    if bias is None or not bias.requires_grad:
        return False
    if handle is None or handle.relaxation is None:
        return True
    return handle.relaxation.trains_weight and handle.frozen is None


def _cuts(chain: Chain, index: Tensor) -> Iterator[tuple[nn.Module, str, int, Tensor]]:
    """What of which tensors remains, along which dimension, where the units of ``index`` do."""
    inputs = (
        index[:, None] * chain.places + torch.arange(chain.places, device=index.device)
    ).flatten()
    for module in chain.modules[:-1]:
        for name in own_names(module):
            yield module, name, 0, index
    yield chain.second, "weight", 1, inputs


def _select(chain: Chain, index: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
    """Keep the units of ``index``, in its order."""
    for module, name, dim, kept in _cuts(chain, index):
        _select_in(module, name, dim, kept, optimizer)


def _keeps_symbols(chain: Chain, index: Tensor) -> bool:
    """Whether all that remains is assigned as it is now.

    A relaxation may assign by how frequent levels are: then what leaves changes what stays.
    """
    return all(
        _assigns_alike(handle, dim, kept)
        for module, name, dim, kept in _cuts(chain, index)
        if (handle := handle_of(module, name)) is not None
    )


def _assigns_alike(handle: Constrained, dim: int, index: Tensor) -> bool:
    relaxation = handle.relaxation
    if relaxation is None or handle.frozen is not None:
        return True
    all_, book, ndim = handle.variables(), handle.codebook(), handle.parameter.ndim
    rest = {
        key: _kept(value.detach(), dim + value.ndim - ndim, index) for key, value in all_.items()
    }
    symbols = _kept(relaxation.symbols(all_, book), dim, index)
    return torch.equal(relaxation.symbols(rest, book), symbols)


def _kept(tensor: Tensor, dim: int, index: Tensor) -> Tensor:
    return tensor.index_select(dim, index.to(tensor.device))


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
        own_dim = dim + before.ndim - len(shape)
        pick = partial(_picked, dim=own_dim, index=index, size=before.shape[own_dim])
        owner[key] = _like(before, pick(before.detach()))
        if before.grad is not None:
            owner[key].grad = pick(before.grad)
        if optimizer is not None:
            _replace(optimizer, before, owner[key], pick)
    _set_features(module)


def _like(before: Tensor, values: Tensor) -> Tensor:
    """A new Parameter or buffer: graphs that are still alive hold the old one with its shape."""
    if not isinstance(before, nn.Parameter):
        return values
    after = nn.Parameter(values, before.requires_grad)
    after.__dict__.update(before.__dict__)  # what users and frameworks noted of it
    return after


def _check_follows(
    optimizer: torch.optim.Optimizer, model: nn.Module, chains: Sequence[Chain]
) -> None:
    """Refuse an optimizer whose state would not fit the parameters of ``chains`` any more."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    kind = type(optimizer).__name__
    changed = {id(p) for chain in chains for m in chain.modules for p in m.parameters(False)}
    for name, parameter in model.named_parameters():
        if id(parameter) not in changed or not parameter.requires_grad:
            continue
        if id(parameter) not in trained and parameter.shape:
            raise ConfigError(f"{name} is not among the parameters of this {kind}: give the one")
        for key, value in optimizer.state.get(parameter, {}).items():
            if not _follows(value, parameter.shape):
                raise ConfigError(
                    f"the state {key!r} of {name} in {kind} cannot be cut: unknown form"
                )


def _follows(value: Any, shape: torch.Size) -> bool:
    """Whether a state is one for all, or has in each dimension the parameter's size or 1."""
    if not torch.is_tensor(value):
        return not isinstance(value, (list, tuple, dict)) or not value
    same = value.ndim == len(shape) and all(
        size in (1, full) for size, full in zip(value.shape, shape, strict=True)
    )
    return same or value.numel() == 1


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
            key: pick(value) if torch.is_tensor(value) and value.ndim == before.ndim else value
            for key, value in optimizer.state.pop(before).items()
        }


def _picked(tensor: Tensor, dim: int, index: Tensor, size: int) -> Tensor:
    """``tensor.index_select(dim, index)`` that stays channels last where ``tensor`` is.

    What stands for all of ``size`` (as in a state that is factored) stays.
    """
    if tensor.shape[dim] != size:
        return tensor
    picked = _kept(tensor, dim, index)
    for form, dims in ((torch.channels_last, 4), (torch.channels_last_3d, 5)):
        if tensor.ndim == dims and tensor.is_contiguous(memory_format=form):
            return picked.contiguous(memory_format=form)
    return picked


def _forms(module: nn.Module, name: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the tensors of one parameter or buffer lie that have its shape, or end in it."""
    tensors = module._parameters if name in module._parameters else module._buffers
    yield tensors, name
    handle = handle_of(module, name)
    if handle is not None:
        for suffix in handle.constraint.extra:
            yield module._parameters, f"{name}_{suffix}"
        if handle.frozen is not None:
            yield module._buffers, f"{name}_{SYMBOLS}"


def _set_features(module: Any) -> None:
    """Let a module's own numbers of features say what its tensors are."""
    if patch.kind_of(module) is nn.Linear:
        module.out_features, module.in_features = weight_of(module).shape
    elif patch.kind_of(module) in LAYERS:
        module.out_channels, module.in_channels = weight_of(module).shape[:2]
    elif patch.kind_of(module) in BATCH_NORMS and module.running_mean is not None:
        module.num_features = len(module.running_mean)


def _raw(module: nn.Module, name: str) -> Tensor:
    tensor = module._parameters[name] if name in module._parameters else module._buffers[name]
    assert tensor is not None
    return tensor


def _hard(module: nn.Module, name: str) -> Tensor:
    handle = handle_of(module, name)
    return _raw(module, name).detach() if handle is None else handle.hard()


def _by_unit(chain: Chain) -> Tensor:
    """(outputs, units, places) hard weights of the layer that reads the units."""
    weight = _hard(chain.second, "weight")
    return weight.reshape(len(weight), len(weight_of(chain.first)), -1)
