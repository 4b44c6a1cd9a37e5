"""The swap of a module's class, by which its constrained parameters read as relaxed tensors.

The subclass is cached; on it each parameter's name is a property, so that whoever reads it gets the
relaxed tensor, while the Parameter stays in ``_parameters``, under its own name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import RLock
from typing import Any

import torch
from torch import nn

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.config import Config
from ectorch.constrain.modules import (
    BITS,
    CONSTRAINTS,
    LENGTHS,
    LOG_GAPS,
    SYMBOLS,
    Constrained,
    Constraint,
    constrained_in,
    constraints,
    starting_log_gaps,
    taken_names,
)
from ectorch.constrain.products import product_forward
from ectorch.constrain.rate import refresh_lengths
from ectorch.constrain.reads import put_back, read_of, source_of
from ectorch.constrain.transforms import transformed
from ectorch.errors import UnsupportedLayerError

_LOADING = "_ectorch_loading"  # a state dict, which has the codebooks, too
_KINDS = "_ectorch_kinds"  # of a class: its constrained subclasses, by the names they constrain
_MAKING = RLock()  # a class, while threads prepare


def constrain(module: nn.Module, name: str, config: Config) -> None:
    """Constrain ``module``'s own parameter ``name``, starting from its present values.

    Args:
        config: that `Config.for_parameter` gave.

    Raises:
        UnsupportedLayerError: where the module has a tensor already of a name that is needed.
    """
    weight = module._parameters[name]
    assert weight is not None
    if weight.ndim < 2 and config.bias == "float16":
        _set_constraints(module, {**constraints(module), name: Constraint(config, None)})
        return
    relaxation = config.make_relaxation()
    log_gaps = starting_log_gaps(config, weight).to(weight.dtype)
    book = Codebook.from_log_gaps(log_gaps, config.levels)
    extra = relaxation.extra_variables(weight.detach(), book)
    if taken := taken_names(module, name, extra):
        raise UnsupportedLayerError(f"{taken[0]} is taken: the relaxation needs it: rename yours")
    module.register_parameter(f"{name}_{LOG_GAPS}", nn.Parameter(log_gaps, weight.requires_grad))
    for suffix, value in extra.items():
        module.register_parameter(f"{name}_{suffix}", nn.Parameter(value, weight.requires_grad))
    lengths = torch.zeros(config.levels, dtype=torch.float32, device=weight.device)
    module.register_buffer(f"{name}_{LENGTHS}", lengths)
    module.register_buffer(f"{name}_{BITS}", lengths.sum())
    constraint = Constraint(config, relaxation, tuple(extra))
    _set_constraints(module, {**constraints(module), name: constraint})
    refresh_lengths([Constrained(module, name)])


def tie(module: nn.Module, name: str, other: Constrained) -> None:
    """Constrain ``module.name`` as ``other``, whose Parameter it shares, is."""
    for suffix in other.constraint.added:
        mine, theirs = f"{name}_{suffix}", f"{other.name}_{suffix}"
        if theirs in other.module._parameters:
            module.register_parameter(mine, other.module._parameters[theirs])
        elif theirs in other.module._buffers:
            module.register_buffer(mine, other.module._buffers[theirs])
    _set_constraints(module, {**constraints(module), name: other.constraint})


def make_plain(module: nn.Module) -> None:
    """Give a module its own class again, and its constrained parameters the discrete values."""
    if not constraints(module):
        return
    for handle in constrained_in(module):
        handle.parameter.data.copy_(handle.hard())
        handle.thaw()
        _drop(module, handle.name, handle.constraint.added)
    _set_constraints(module, {})


def abandon(module: nn.Module, name: str) -> None:
    """Undo `constrain` or `tie`, as far as it went; the Parameter is as it is."""
    constraint = constraints(module).get(name)
    _drop(module, name, (LOG_GAPS, LENGTHS, BITS) if constraint is None else constraint.added)
    _set_constraints(module, {n: c for n, c in constraints(module).items() if n != name})


def _drop(module: nn.Module, name: str, suffixes: tuple[str, ...]) -> None:
    for suffix in suffixes:
        module._parameters.pop(f"{name}_{suffix}", None)
        module._buffers.pop(f"{name}_{suffix}", None)


def _set_constraints(module: nn.Module, new: dict[str, Constraint]) -> None:
    base = kind_of(module)
    module.__dict__.pop(CONSTRAINTS, None)
    if new:
        module.__dict__[CONSTRAINTS] = new
    module.__class__ = _constrained_class(base, tuple(sorted(new))) if new else base


def kind_of(module: nn.Module) -> type[nn.Module]:
    """The module's own class, whether it is constrained or not."""
    kind: type[nn.Module] = getattr(type(module), "_ectorch_base", type(module))
    return kind


@contextmanager
def unconstrained(model: nn.Module) -> Iterator[None]:
    """Meanwhile every module has its own class, so that reads give the Parameters themselves."""
    kinds = [(module, type(module)) for module in model.modules() if constraints(module)]
    try:
        for module, _ in kinds:
            module.__class__ = kind_of(module)
        yield
    finally:
        for module, kind in kinds:
            module.__class__ = kind


def _constrained_class(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of ``base`` whose parameters ``names`` read as their relaxed tensors."""
    with _MAKING:
        kinds: dict[tuple[str, ...], Any] = base.__dict__.get(_KINDS, {})
        # a class may be made of another one's attributes
        kinds = {own: kind for own, kind in kinds.items() if kind._ectorch_base is base}
        if names not in kinds:
            kinds[names] = _make_class(base, names)
            type.__setattr__(base, _KINDS, kinds)
        kind: type[nn.Module] = kinds[names]
        return kind


def _make_class(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    namespace: dict[str, Any] = {
        "_ectorch_base": base,
        "__module__": base.__module__,
        "__reduce_ex__": _reduce_ex,
        "__setattr__": _setattr,
        "__delattr__": _delattr,
        "register_parameter": _register_parameter,
        "_ectorch_refusal": _refusal,
        "_ectorch_beside": _beside,
        "_load_from_state_dict": _load_from_state_dict,
    }
    for name in names:
        namespace[name] = property(partial(_read, name=name))
    if issubclass(base, nn.RNNBase):
        namespace["_flat_weights"] = _FLAT_WEIGHTS
    forward = product_forward(base)
    if forward is not None:
        namespace["forward"] = forward
    return type(f"Constrained{base.__name__}", (base,), namespace)


def _read(module: nn.Module, name: str) -> Any:
    if name not in constraints(module):  # made by calling the class
        return kind_of(module).__getattr__(module, name)
    try:
        if torch.compiler.is_compiling() or transformed() or torch.is_inference_mode_enabled():
            return Constrained(module, name).relaxed()
        with torch.enable_grad():  # as a Parameter, it can be used with gradients later
            return read_of(module, name, Constrained(module, name).relaxed())
    except AttributeError as error:  # nn.Module would go on to answer with the raw Parameter
        raise RuntimeError(f"{type(module).__name__}.{name}: {error}") from error


def _refusal(module: nn.Module, name: str) -> str | None:
    """Why a write to the Parameter would change no read."""
    if name not in constraints(module):
        return None
    handle = Constrained(module, name)
    if handle.frozen is not None:
        return "its symbols are frozen"
    if handle.relaxation is None or handle.relaxation.trains_weight:
        return None
    return "reads follow what the relaxation trains beside it"


def _beside(module: nn.Module, name: str) -> list[nn.Parameter]:
    return Constrained(module, name).beside()


def _setattr(self: nn.Module, name: str, value: Any) -> None:
    """Assigning what another constrained parameter reads as ties the two (``b.weight = a.weight``).

    This is how Transformers ties embeddings, before `prepare` or after it. A new Parameter is
    constrained as the old one was, and the codebook starts anew from it; None is left alone.
    """
    constraint, source = constraints(self).get(name), source_of(value)
    if constraint is None or _LOADING in self.__dict__:
        type(self)._ectorch_base.__setattr__(self, name, value)  # type: ignore[attr-defined]
    elif source is not None:
        if source != (self, name):
            other = Constrained(*source)
            abandon(self, name)
            self._parameters[name] = other.parameter
            tie(self, name, other)
    elif value is None:
        abandon(self, name)
        setattr(self, name, None)
    else:
        handle, kind = Constrained(self, name), kind_of(self)
        shape = handle.parameter.shape
        if handle.frozen is not None:
            raise RuntimeError(f"{kind.__name__}.{name}: its symbols are frozen: convert first")
        if constraint.extra and getattr(value, "shape", shape) != shape:
            raise RuntimeError(
                f"{kind.__name__}.{name}: shape {tuple(value.shape)}, and what its relaxation "
                f"trains has {tuple(shape)}: convert first"
            )
        kind.__setattr__(self, name, value)
        if constraint.relaxation is not None:
            handle.restart()
            refresh_lengths([handle])


def _delattr(self: nn.Module, name: str) -> None:
    if name in constraints(self):
        raise _taken(self, name)
    type(self)._ectorch_base.__delattr__(self, name)  # type: ignore[attr-defined]


def _register_parameter(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
    """As of the base class, but for prunings and weight norms, which take a Parameter away."""
    read = source_of(parameter)
    for own in constraints(self):
        if self._parameters.get(own) is None or read == (self, own):
            put_back(self, own)
            raise _taken(self, own)
    type(self)._ectorch_base.register_parameter(self, name, parameter)  # type: ignore[attr-defined]


def _taken(module: nn.Module, name: str) -> RuntimeError:
    kind = kind_of(module).__name__
    return RuntimeError(f"{kind}.{name} is constrained: change it before prepare, or convert first")


# nn.RNNBase multiplies with a list that it keeps beside its parameters
_FLAT_WEIGHTS = property(
    lambda self: [getattr(self, name) for name in self._flat_weights_names],
    lambda self, weights: None,
)


@torch.no_grad()
def _reduce_ex(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
    """As the base class would, with its ``__getstate__``, but through a class that can be found."""
    kind: Any = type(self)
    names = tuple(sorted(constraints(self)))
    return _rebuild, (kind._ectorch_base, names), *object.__reduce_ex__(self, max(protocol, 2))[2:]


def _rebuild(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    kind = _constrained_class(base, names)
    return kind.__new__(kind)


def _load_from_state_dict(
    self: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    local_metadata: dict[str, Any],
    strict: bool,
    missing_keys: list[str],
    unexpected_keys: list[str],
    error_msgs: list[str],
) -> None:
    """A plain checkpoint fits: what it lacks starts from the weights it brings.

    The parameter is frozen afterwards if the checkpoint has its symbols.
    """
    for handle in constrained_in(self):
        if SYMBOLS in handle.constraint.added and f"{prefix}{handle.name}_{SYMBOLS}" in state_dict:
            handle.freeze()
    self.__dict__[_LOADING] = True
    try:
        type(self)._ectorch_base._load_from_state_dict(  # type: ignore[attr-defined]
            *(self, state_dict, prefix, local_metadata, strict),
            *(missing_keys, unexpected_keys, error_msgs),
        )
    finally:
        del self.__dict__[_LOADING]
    for handle in constrained_in(self):
        if handle.relaxation is None or f"{prefix}{handle.name}" not in state_dict:
            continue
        keys = {s: f"{prefix}{handle.name}_{s}" for s in handle.constraint.added}
        absent = {suffix for suffix, key in keys.items() if key in missing_keys}
        for suffix in absent:
            missing_keys.remove(keys[suffix])
        if SYMBOLS in absent:
            handle.thaw()
        if absent - {SYMBOLS, LENGTHS, BITS}:
            handle.restart()
        if LENGTHS in absent:
            refresh_lengths([handle])
