"""The state dict of the plain network that a prepared one would become, which stays as it is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ectorch.constrain.modules import Constrained, check_values, constrained_in, is_prepared
from ectorch.errors import MismatchError
from ectorch.rewrite import units


def discrete_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict that ``model`` would have after `convert`; the model is left as it is.

    Raises:
        DivergedError: when a constrained parameter holds NaN or infinity.
        MismatchError: when the state dict of ``model`` leaves a constrained parameter out, or has
            something else in its place.
    """
    return _plain_state_dict(model, Constrained.hard)


def mean_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the soft network, whose weights are the relaxation's expectations."""
    return _plain_state_dict(model, Constrained.mean)


def _plain_state_dict(model: nn.Module, read: Callable[[Constrained], Tensor]) -> dict[str, Tensor]:
    check_values(model)
    state = {name: value for name, value in model.state_dict().items() if torch.is_tensor(value)}
    names = _names_by_tensor(model)
    for module_name, module in model.named_modules(remove_duplicate=False):
        prefix = f"{module_name}." if module_name else ""
        tensors = dict([*module._parameters.items(), *module._buffers.items()])
        for handle in constrained_in(module):
            for key in names.get(id(handle.parameter)) or _key_of_copy(model, prefix, handle):
                state[key] = read(handle)
            for suffix in handle.constraint.added:
                own = f"{handle.name}_{suffix}"
                for key in names.get(id(tensors.get(own)), [prefix + own]):
                    state.pop(key, None)
        for name, tensor in tensors.items():
            for key in names.get(id(tensor), [prefix + name]):
                if key in state:
                    state[key] = units.restored(module, name, state[key])
    return state


def _names_by_tensor(model: nn.Module) -> dict[int, list[str]]:
    """What the state dict of a prepared ``model`` calls each of its tensors, by the tensor's id.

    Modules may rename them: by hooks, or by a `_save_to_state_dict` of their own.
    """
    names: dict[int, list[str]] = {}
    if is_prepared(model):
        for name, value in model.state_dict(keep_vars=True).items():
            if torch.is_tensor(value):
                names.setdefault(id(value), []).append(name)
    return names


def _key_of_copy(model: nn.Module, prefix: str, handle: Constrained) -> list[str]:
    """The name of a constrained Parameter of which the state dict has an equal copy.

    Raises:
        MismatchError: when it has none, or something else under that name.
    """
    weight, key = handle.parameter, prefix + handle.name
    value = model.state_dict().get(key)
    if (
        torch.is_tensor(value)
        and (value.dtype, value.shape) == (weight.dtype, weight.shape)
        and torch.equal(value.to(weight.device), weight.detach())
    ):
        return [key]
    what = "does not have it" if value is None else "has something else under its name"
    raise MismatchError(
        f"{key} is constrained, and the state dict of {type(model).__name__} {what} (by a hook, or "
        "a state_dict of its own): save ectorch.convert(copy.deepcopy(model)), which is plain"
    )
