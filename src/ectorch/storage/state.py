"""Networks <-> state dicts as a file holds them: plain names, no wrappers, ties left to the model.

The file knows names and values only. What a network adds to that is its own: which names share
memory, which tensors are still on meta or lazy, and which modules (`torch.compile`,
``DataParallel``) only wrap another one.
"""

from __future__ import annotations

import copy
import inspect
import os
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from ectorch.constrain.modules import constrained_in
from ectorch.errors import MismatchError, UnsupportedTensorError
from ectorch.storage.discrete import discrete_state_dict

_EXTRA_STATE = "_extra_state"  # torch's key for what `get_extra_state` gives
_MOST_PROBLEMS = 10  # that one error lists


def file_state(model: nn.Module) -> dict[str, Tensor]:
    """What a file holds of ``model``: `discrete_state_dict` under the names of the plain network.

    Raises:
        MismatchError: when a wrapper has tensors of the names that it wraps.
        UnsupportedTensorError: when the state dict has something else than tensors.
    """
    for name, value in model.state_dict().items():
        if not torch.is_tensor(value):
            hint = "let get_extra_state give a tensor, or " if _is_extra(name) else ""
            raise UnsupportedTensorError(
                f"{name} is a {type(value).__name__}, no tensor: {hint}save what tensors there are "
                "in state_dict()"
            )
    state = discrete_state_dict(model)
    return {plain: state[name] for name, plain in plain_names(model, state).items()}


def load_state(
    model: nn.Module, stored: Mapping[str, Tensor], strict: bool, source: str | os.PathLike[str]
) -> None:
    """Put ``stored`` into ``model``, all that `ectorch.load_model` says.

    Args:
        source: where the tensors are from, for errors.

    Raises:
        MismatchError: before anything is changed.
    """
    own = model.state_dict(keep_vars=True)
    names = {plain: name for name, plain in plain_names(model, own).items()}
    state = {names.get(name, name): tensor for name, tensor in stored.items()}
    _fill_ties(own, state)
    common = sorted(own.keys() & state.keys())
    tensors = [name for name in common if not _is_extra(name)]
    problems = [f"{name} {what}" for name in tensors if (what := _misfit(own[name], state[name]))]
    problems = problems or [*_conflicts({name: own[name] for name in tensors}, state)]
    if len(state) < len(stored):
        problems.append("it holds some tensors under both their plain and their wrapped names")
    if strict:
        problems += _left_out(model, own, state)
    elif not common:
        problems.append(f"no name of {type(model).__name__} is in it")
    if problems:
        more = len(problems) - _MOST_PROBLEMS
        listed = "; ".join(problems[:_MOST_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")
        raise MismatchError(f"{os.fspath(source)}: {listed}")
    meta = [name for name in tensors if own[name].is_meta]
    if meta:
        assigned = _of_versions(own, _assignable(own, state, meta))
        model.load_state_dict(assigned, strict=False, assign=True)
    rest = {name: tensor for name, tensor in state.items() if name not in meta}
    model.load_state_dict(_of_versions(own, rest), strict=False)


def _of_versions(own: Mapping[str, Any], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` as modules of the versions in ``own`` wrote it: they have nothing to migrate."""
    found: OrderedDict[str, Tensor] = OrderedDict(state)
    versions = getattr(own, "_metadata", None)
    if versions is not None:  # a copy: torch notes in it how it loads
        found._metadata = copy.deepcopy(versions)  # type: ignore[attr-defined]
    return found


def computes_itself(tensor: Tensor) -> bool:
    """Whether its class answers torch's operations: then its plain bits are not its values."""
    return _answers(type(tensor)) not in (_answers(Tensor), _answers(nn.Parameter))


def _answers(kind: type) -> list[object]:
    hooks = ("__torch_dispatch__", "__torch_function__")
    return [inspect.getattr_static(kind, hook) for hook in hooks]


def _is_extra(name: str) -> bool:
    return name.rpartition(".")[2] == _EXTRA_STATE


def plain_names(model: nn.Module, state: Mapping[str, Any]) -> dict[str, str]:
    """What each name of ``state`` would be if no module were wrapped."""
    wrapped = [
        (f"{name}." if name else "", inner)
        for name, module in model.named_modules(remove_duplicate=False)
        if (inner := _inner_name(module))
    ]
    plain = {name: name for name in state}
    for prefix, inner in reversed(wrapped):  # the innermost first: outer prefixes still hold
        for name, short in plain.items():
            if short.startswith(f"{prefix}{inner}."):
                plain[name] = prefix + short.removeprefix(f"{prefix}{inner}.")
    if len({*plain.values()}) < len(plain):
        raise MismatchError(f"{type(model).__name__} wraps a module that has the names of its own")
    return plain


def _inner_name(module: nn.Module) -> str | None:
    """The name of the module that ``module`` only wraps, if it does."""
    dynamo = sys.modules.get("torch._dynamo")  # slow to import, and loaded if anything is compiled
    if dynamo is not None and isinstance(module, dynamo.OptimizedModule):
        return "_orig_mod"
    parallel = isinstance(module, (nn.DataParallel, DistributedDataParallel))
    return "module" if parallel else None


def _fill_ties(own: Mapping[str, Any], state: dict[str, Tensor]) -> None:
    """Give a name that ``state`` lacks what it has for another name of the same tensor."""
    places = {name: _place(value) for name, value in own.items() if not _is_extra(name)}
    present = {places[name]: state[name] for name in places.keys() & state.keys()}
    state |= {
        name: present[places[name]]
        for name in places.keys() - state.keys()
        if places[name] in present
    }


def _place(value: Any) -> Hashable:
    """The same for two tensors only if to write one is to write the other."""
    if not _has_memory(value):
        return id(value)
    signs = value.is_conj(), value.is_neg()
    view = value.storage_offset(), value.shape, value.stride(), value.dtype, signs
    return _memory(value), view


def _has_memory(value: Any) -> bool:
    if not torch.is_tensor(value) or is_lazy(value) or computes_itself(value):
        return False
    return value.layout == torch.strided


def _memory(tensor: Tensor) -> Hashable:
    """The same for views of one memory; what is empty or on meta has none but its storage."""
    storage = tensor.untyped_storage()
    at = storage.data_ptr() or StorageWeakRef(storage).cdata  # type: ignore[no-untyped-call]
    return tensor.device, at


def _misfit(mine: Any, theirs: Tensor) -> str | None:
    """Why the stored tensor cannot be written to the model's, if so."""
    if not torch.is_tensor(mine):
        return f"is a {type(mine).__name__} in the model"
    if is_lazy(mine):
        fits = mine.dtype == theirs.dtype
        return None if fits else f"is {_describe(theirs)}, the model expects {mine.dtype}"
    if computes_itself(mine) or mine.layout != torch.strided:
        return f"is a {mine.layout} {type(mine).__name__} in the model, expected a plain tensor"
    if _describe(mine) != _describe(theirs):
        return f"is {_describe(theirs)}, the model has {_describe(mine)}"
    if any(step == 0 < size - 1 for size, step in zip(mine.shape, mine.stride(), strict=True)):
        return "is expanded in the model: make it contiguous"
    if mine.is_inference() and not torch.is_inference_mode_enabled():
        return "was made in inference mode, where alone it can be written to"
    return None


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _conflicts(own: Mapping[str, Any], state: Mapping[str, Tensor]) -> Iterator[str]:
    """Tensors that share memory in the model, where it cannot hold what the file has of each."""
    sharing: dict[Hashable, list[str]] = defaultdict(list)
    for name, mine in own.items():
        sharing[_memory(mine) if _has_memory(mine) else id(mine)].append(name)
    for names in sharing.values():
        mine, theirs = [own[name] for name in names], [state[name] for name in names]
        if mine[0].is_meta and len(set(map(_place, mine))) > 1:
            yield f"{', '.join(names)} are views of one memory on meta: build the model on the CPU"
        elif len(names) > 1 and not _agree(mine, theirs):
            yield f"{', '.join(names)} share memory in the model and hold different values here"


@torch.no_grad()
def _agree(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether memory that is shared as by ``mine`` can hold all of ``theirs``."""
    if mine[0].is_meta or is_lazy(mine[0]):
        return all(_same_bits(theirs[0], other) for other in theirs)
    memory = mine[0].untyped_storage().clone()  # type: ignore[no-untyped-call]
    views = [
        torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(
            memory, tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        for tensor in mine
    ]
    for view, tensor in zip(views, theirs, strict=True):
        view.copy_(tensor)
    return all(_same_bits(view.cpu(), other) for view, other in zip(views, theirs, strict=True))


def _same_bits(one: Tensor, other: Tensor) -> bool:
    return torch.equal(
        one.contiguous().reshape(-1).view(torch.uint8),
        other.contiguous().reshape(-1).view(torch.uint8),
    )


def _left_out(
    model: nn.Module, own: Mapping[str, Any], state: Mapping[str, Tensor]
) -> Iterator[str]:
    """Names that only one side has; a prepared model starts its own tensors from plain weights."""
    lacking, unknown = own.keys() - state.keys(), state.keys() - own.keys()
    for prefix, module in model.named_modules(remove_duplicate=False):
        start = f"{prefix}." if prefix else ""
        for handle in constrained_in(module):
            beside = {f"{start}{handle.name}_{suffix}" for suffix in handle.constraint.added}
            if beside & state.keys():
                unknown -= beside  # symbols, which freeze the parameter
            elif start + handle.name in state:
                lacking -= beside
    yield from (f"{name} is missing" for name in sorted(lacking))
    yield from (f"{name} is not in the model" for name in sorted(unknown))
    for name, buffer in model.named_buffers():
        if buffer.is_meta and name not in own:
            yield f"{name} is on meta and in no state dict: give the model its values first"


def _assignable(
    own: Mapping[str, Any], state: Mapping[str, Tensor], names: list[str]
) -> dict[str, Tensor]:
    """What takes the places of meta tensors: a Parameter for a Parameter, one for all its names."""
    made: dict[Hashable, Tensor] = {}
    for name in names:
        mine, place = own[name], _place(own[name])
        if place not in made:
            made[place] = (
                nn.Parameter(state[name], requires_grad=mine.requires_grad)
                if isinstance(mine, nn.Parameter)
                else state[name]
            )
    return {name: made[_place(own[name])] for name in names}
