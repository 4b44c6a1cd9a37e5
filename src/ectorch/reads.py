"""The tensor that a read of a constrained parameter gives: writes to it reach the Parameter.

A plain module gives the Parameter itself, so a write, a gradient or a hook lands there. A relaxed
tensor is computed; without this class such writes would be lost without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

# these would give the read another shape, memory or type, and leave the Parameter as it is
_REFUSED = frozenset(
    ("set_", "resize_", "resize_as_", "t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_")
) | {"unsqueeze_", "as_strided_", "sparse_resize_", "sparse_resize_and_clear_", "apply_", "map_"}
_LEFT = frozenset(("detach_", "requires_grad_", "rename_", "share_memory_"))
_ASSIGNMENTS = ("__setitem__", *(f"__i{op}__" for op in ("add", "sub", "mul", "truediv", "pow")))
_HOOKS = ("register_hook", "register_post_accumulate_grad_hook")


class _Watch:
    """Knows the values of one read, and hands on to the Parameter what is written to them.

    Args:
        values: an alias of the read that autograd does not follow.
        kept: a copy of them; None where ``hard`` of the module's class gives them again.

    The tensor that owns the memory of the read holds it, as views hold that tensor; so it goes
    with the last of them.
    """

    def __init__(self, module: nn.Module, name: str, values: Tensor, kept: Tensor | None) -> None:
        self.module, self.name, self._values, self._kept = module, name, values, kept
        self.read_from = self.parameter()
        self._seen, self._read_at = values._version, self._versions()

    def __str__(self) -> str:
        return f"{type(self.module).__name__}.{self.name}"

    def parameter(self) -> nn.Parameter:
        parameter = self.module._parameters[self.name]
        assert parameter is not None
        return parameter

    def _versions(self) -> list[int]:
        """Of all that the read was computed from."""
        trained = self.module._parameters.items()
        return [p._version for own, p in trained if p is not None and own.startswith(self.name)]

    def lost(self) -> str | None:
        """Why a write to the Parameter would change no read; None where it does."""
        refusal = getattr(self.module, "_ectorch_refusal", None)
        return None if refusal is None else refusal(self.name)

    def refuse_if_lost(self, action: str) -> None:
        if (lost := self.lost()) is not None:
            raise RuntimeError(f"{self}: {action} would be lost: {lost}")

    def follow(self) -> None:
        """Show what was written to the Parameter to those that hold the read, as it was written."""
        self._values.copy_(self.parameter().detach())
        self._know()

    def flush(self) -> None:
        """Hand on what was written through views: the entries that differ from those read."""
        if self._values._version == self._seen:
            return
        kept, lost = self._kept, self.lost()
        if kept is None and self._versions() == self._read_at:
            hard = type(self.module)._ectorch_hard  # type: ignore[attr-defined]
            kept = hard(self.module, self.name)
        if kept is None or lost is not None:
            self._know()
            lost = lost or "read and write within torch.no_grad()"
            warnings.warn(f"{self}: a write through a view was lost: {lost}", stacklevel=3)
            return
        parameter = self.parameter().data
        parameter.copy_(torch.where(self._values != kept, self._values, parameter))
        self._know()

    def _know(self) -> None:
        self._seen = self._values._version
        if self._kept is not None:
            self._kept.copy_(self._values)

    def __del__(self) -> None:
        self.flush()


class RelaxedTensor(Tensor):
    """Reads as the relaxed tensor; writes, gradients and hooks are the Parameter's.

    Operations on it give plain tensors, by the same kernels as on a Parameter.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    _is_param = True  # an nn.Parameter to isinstance, hence to get_parameter
    _watch: _Watch

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        self._watch.refuse_if_lost("data =")
        self._watch.parameter().data = value

    def detach(self) -> Tensor:
        values = Tensor.detach(self)
        return _watched(self._watch.module, self._watch.name, values, values.clone())

    @property
    def grad(self) -> Tensor | None:
        return self._watch.parameter().grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self._watch.parameter().grad = value

    def requires_grad_(self, requires_grad: bool = True) -> RelaxedTensor:
        """Of the Parameter, and of all that is trained beside it."""
        name = self._watch.name
        for own, parameter in self._watch.module._parameters.items():
            if parameter is not None and (own == name or own.startswith(f"{name}_")):
                parameter.requires_grad_(requires_grad)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return Tensor.detach(self).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Tensor.detach(self).clone().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


# a watch holds its module, so that no other has its id meanwhile
_LATEST: WeakValueDictionary[tuple[int, str], _Watch] = WeakValueDictionary()


def read_of(module: nn.Module, name: str, value: Tensor, *, again: bool) -> RelaxedTensor:
    """``value`` as a read of ``module``'s constrained parameter ``name``.

    Args:
        again: whether ``hard(module, name)`` gives these values until something trains.
    """
    kept = None if again else value.detach().clone()
    if not torch.is_grad_enabled():  # torch multiplies by other kernels where it is not set
        _owner(value).requires_grad_()
    read = _watched(module, name, value, kept)
    _LATEST[id(module), name] = read._watch
    return read


def source_of(value: Any) -> tuple[nn.Module, str] | None:
    """The module and the name that ``value`` was read from, if it is such a read."""
    return (value._watch.module, value._watch.name) if isinstance(value, RelaxedTensor) else None


def flush(module: nn.Module, name: str) -> None:
    """Hand on what was written through views of the latest read, if that lives."""
    if (watch := _LATEST.get((id(module), name))) is not None:
        watch.flush()


def put_back(module: nn.Module, name: str) -> None:
    """Give ``module`` the Parameter again that someone took who has just read it."""
    if module._parameters.get(name) is None and (id(module), name) in _LATEST:
        module._parameters[name] = _LATEST[id(module), name].read_from


def _watched(module: nn.Module, name: str, value: Tensor, kept: Tensor | None) -> RelaxedTensor:
    watch = _Watch(module, name, value.detach(), kept)
    _owner(value)._ectorch_watch = watch  # type: ignore[attr-defined]
    read: RelaxedTensor = value.as_subclass(RelaxedTensor)
    read._watch = watch
    return read


def _owner(value: Tensor) -> Tensor:
    """Whose memory it is: views of ``value`` hold it."""
    return value if value._base is None else value._base


def _writing(name: str) -> Callable[..., Any]:
    def write(self: RelaxedTensor, *arguments: Any, **named: Any) -> RelaxedTensor:
        self._watch.refuse_if_lost(name)
        self._watch.flush()
        parameter = self._watch.parameter()
        target = parameter if self.requires_grad else parameter.data
        getattr(target, name)(*arguments, **named)
        self._watch.follow()
        return self

    write.__name__ = name
    return write


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(self: RelaxedTensor, *arguments: Any, **named: Any) -> Any:
        raise RuntimeError(f"{self._watch} is constrained: {name} would be lost")

    refuse.__name__ = name
    return refuse


def _handing_on(name: str) -> Callable[..., Any]:
    def hand_on(self: RelaxedTensor, *arguments: Any, **named: Any) -> Any:
        return getattr(self._watch.parameter(), name)(*arguments, **named)

    hand_on.__name__ = name
    return hand_on


def _complete() -> None:
    in_place = {name for name in dir(Tensor) if name.endswith("_") and not name.startswith("_")}
    for name in (*(in_place - _REFUSED - _LEFT), *_ASSIGNMENTS):
        setattr(RelaxedTensor, name, _writing(name))
    for name in _REFUSED & in_place:
        setattr(RelaxedTensor, name, _refusing(name))
    for name in _HOOKS:
        setattr(RelaxedTensor, name, _handing_on(name))


_complete()
