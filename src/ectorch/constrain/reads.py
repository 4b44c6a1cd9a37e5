"""The tensor that a read of a constrained parameter gives: writes to it are the Parameter's.

A plain module gives the Parameter itself, so a write, a gradient or a hook lands there. A relaxed
tensor is computed; without these classes such writes would be lost without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

# these would give the read another shape, memory or type, and leave the Parameter as it is
_REFUSED = frozenset(
    ("set_", "resize_", "resize_as_", "t_", "transpose_", "swapaxes_", "swapdims_", "squeeze_")
) | {"unsqueeze_", "as_strided_", "sparse_resize_", "sparse_resize_and_clear_", "apply_", "map_"}
_LEFT = frozenset(("detach_", "requires_grad_", "rename_", "share_memory_"))
_OPERATORS = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow")
_VIEWS = (
    *("__getitem__", "adjoint", "as_strided", "chunk", "contiguous", "diagonal", "dsplit"),
    *("expand", "expand_as", "flatten", "hsplit", "moveaxis", "movedim", "narrow", "permute"),
    *("ravel", "reshape", "reshape_as", "select", "split", "split_with_sizes", "squeeze"),
    *("swapaxes", "swapdims", "t", "tensor_split", "transpose", "unbind", "unflatten", "unfold"),
    *("unsqueeze", "view", "view_as", "vsplit"),
)
_TURNED = ("H", "T", "mH", "mT")  # views that are properties
_HANDED_ON = ("register_hook", "register_post_accumulate_grad_hook", "share_memory_")
_OWN = frozenset(("_latent", "_watch", "data", "grad", "requires_grad"))


class _Watch:
    """Says that a write is lost: to the memory of a read, by who does not ask the read for it.

    The tensor that owns that memory holds it, as views hold that tensor: it goes with the last.
    """

    def __init__(self, module: nn.Module, name: str, values: Tensor) -> None:
        self.module, self.name, self._values = module, name, values
        self.read_from = self.parameter()
        self._seen = values._version

    def __str__(self) -> str:
        kind: type = getattr(type(self.module), "_ectorch_base", type(self.module))
        return f"{kind.__name__}.{self.name}"

    def parameter(self) -> nn.Parameter:
        parameter = self.module._parameters[self.name]
        assert parameter is not None
        return parameter

    def refuse_if_lost(self, action: str) -> None:
        """Raise a RuntimeError where a write to the Parameter would change no read."""
        ask = getattr(self.module, "_ectorch_refusal", None)
        if ask is not None and (lost := ask(self.name)) is not None:
            raise RuntimeError(f"{self}: {action} would be lost: {lost}")

    def know(self) -> None:
        """The memory has been written to by who wrote to the Parameter, too."""
        self._seen = self._values._version

    def __del__(self) -> None:
        if self._values._version != self._seen:
            warnings.warn(
                f"{self} is constrained, and a write to what was read of it is lost: write by a "
                "method of the tensor, within torch.no_grad(), or to the Parameter",
                stacklevel=2,
            )


class _Read(Tensor):
    """In place, its methods write to the Parameter; its views are reads of views of that.

    Other operations give plain tensors, by the same kernels as on a Parameter.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    _latent: Callable[[], Tensor]
    _watch: _Watch

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        self._watch.refuse_if_lost("data =")
        self._latent().data = value

    def detach(self) -> Tensor:
        latent = self._latent
        return _wrap(RelaxedView, Tensor.detach(self), lambda: latent().detach(), self._watch)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.unbind(0))

    def __setitem__(self, index: Any, value: Any) -> None:
        self._watch.refuse_if_lost("[] =")
        latent = self._latent()
        latent[index] = value
        Tensor.detach(self)[index] = latent.detach()[index]
        self._watch.know()

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return Tensor.detach(self).clone()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Tensor.detach(self).clone().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]


class RelaxedTensor(_Read):
    """What ``layer.weight`` reads: gradient, hooks and notes are the Parameter's.

    It is an `nn.Parameter` to isinstance, hence to `get_parameter`.
    """

    _is_param = True

    @property
    def grad(self) -> Tensor | None:
        return self._watch.parameter().grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        self._watch.parameter().grad = value

    @property
    def requires_grad(self) -> bool:
        return self._watch.parameter().requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> RelaxedTensor:
        """Of the Parameter, and of all that is trained beside it."""
        module, name = self._watch.module, self._watch.name
        beside = getattr(module, "_ectorch_beside", lambda name: ())(name)
        for parameter in (self._watch.parameter(), *beside):
            parameter.requires_grad_(requires_grad)
        return self

    def __getattr__(self, name: str) -> Any:  # notes, as frameworks leave them on Parameters
        watch = self.__dict__.get("_watch")
        if watch is None:
            raise AttributeError(name)
        return getattr(watch.parameter(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            super().__setattr__(name, value)
        else:
            setattr(self._watch.parameter(), name, value)


class RelaxedView(_Read):
    """A view of a read, or the read out of reach of gradients."""

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Refused, for `torch.nn.Parameter`, too: a leaf in this memory would not be the weight."""
        raise RuntimeError(
            f"{self._watch} is constrained: clone() what was read, for a Parameter of its own, or "
            "take the Parameter itself from named_parameters()"
        )


_R = TypeVar("_R", bound=_Read)

# of the last read of each parameter; a watch holds its module, so that no other has its id
_LATEST: WeakValueDictionary[tuple[int, str], _Watch] = WeakValueDictionary()


def read_of(module: nn.Module, name: str, value: Tensor) -> RelaxedTensor:
    """``value`` as a read of ``module``'s constrained parameter ``name``."""
    watch = _LATEST[id(module), name] = _Watch(module, name, value.detach())
    owner: Any = value if value._base is None else value._base
    owner._ectorch_watch = watch
    return _wrap(RelaxedTensor, value, watch.parameter, watch)


def source_of(value: Any) -> tuple[nn.Module, str] | None:
    """The module and the name that ``value`` was read from, if it is such a read."""
    return (value._watch.module, value._watch.name) if isinstance(value, RelaxedTensor) else None


def put_back(module: nn.Module, name: str) -> None:
    """Give ``module`` the Parameter again that someone took who has just read it."""
    if module._parameters.get(name) is None and (id(module), name) in _LATEST:
        module._parameters[name] = _LATEST[id(module), name].read_from


def _wrap(kind: type[_R], value: Tensor, latent: Callable[[], Tensor], watch: _Watch) -> _R:
    read: _R = value.as_subclass(kind)
    read._watch, read._latent = watch, latent
    return read


def _viewing(name: str) -> Callable[..., Any]:
    def view(self: _Read, *arguments: Any, **named: Any) -> Any:
        latent = self._latent
        return _views(
            self,
            getattr(Tensor, name)(self, *arguments, **named),
            lambda: getattr(latent(), name)(*arguments, **named),
        )

    view.__name__ = name
    return view


def _turning(name: str) -> property:
    def turn(self: _Read) -> Any:
        latent = self._latent
        turned = getattr(Tensor, name).__get__(self)
        return _views(self, turned, lambda: getattr(latent(), name))

    return property(turn)


def _views(read: _Read, found: Any, latent: Callable[[], Any]) -> Any:
    """``found`` as reads of what ``latent`` gives, as far as it lies in the memory of ``read``."""
    if isinstance(found, (tuple, list)):
        return type(found)(
            _views(read, one, partial(_item, latent, at)) for at, one in enumerate(found)
        )
    if found.untyped_storage().data_ptr() != read.untyped_storage().data_ptr():
        return found
    return _wrap(RelaxedView, found, latent, read._watch)


def _item(latent: Callable[[], Any], at: int) -> Any:
    return latent()[at]


def _writing(name: str) -> Callable[..., Any]:
    def write(self: _Read, *arguments: Any, **named: Any) -> _Read:
        self._watch.refuse_if_lost(name)
        latent = self._latent()
        getattr(latent, name)(*arguments, **named)
        Tensor.detach(self).copy_(latent.detach())  # who goes on with it sees what was written
        self._watch.know()
        return self

    write.__name__ = name
    return write


def _refusing(name: str) -> Callable[..., Any]:
    def refuse(self: _Read, *arguments: Any, **named: Any) -> Any:
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
    for name in (*(in_place - _REFUSED - _LEFT), *(f"__i{op}__" for op in _OPERATORS)):
        setattr(_Read, name, _writing(name))
    for name in _REFUSED & in_place:
        setattr(_Read, name, _refusing(name))
    for name in _VIEWS:
        setattr(_Read, name, _viewing(name))
    for name in _TURNED:
        setattr(_Read, name, _turning(name))
    for name in _HANDED_ON:
        setattr(RelaxedTensor, name, _handing_on(name))


_complete()
