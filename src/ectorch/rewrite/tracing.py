"""What a network's ``forward`` computes, for every way it may be called: graphs of torch.fx.

One graph is one path. A network may take others in training mode, without gradients, or when an
argument is left out: each of them is traced.
"""

from __future__ import annotations

import gc
import inspect
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, product
from logging import Logger
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from ectorch.constrain import patch
from ectorch.errors import UnsupportedLayerError
from ectorch.memory import meet, span

_MOST_PATHS = 128
_MOST_HELD = 10_000  # containers that are watched, and what one of them holds
_PROXY = object()  # an argument whose value the trace leaves open
# what a network may ask of a tensor that says nothing of its values
_FORMS = {
    *("shape", "size", "__len__", "dim", "ndim", "ndimension", "numel", "nelement", "names"),
    *("dtype", "itemsize", "element_size", "nbytes", "device", "get_device", "requires_grad"),
    *("layout", "stride", "storage_offset"),
}


@dataclass(frozen=True)
class Path:
    """One path through a network.

    Attributes:
        graph: what is computed.
        read: ids of the Parameters and buffers that are read on it other than by the call of their
            own module: by ``forward`` itself, or by a module of torch that holds theirs.
    """

    graph: fx.Graph
    read: frozenset[int]


def trace(model: nn.Module) -> list[Path]:
    """The paths of a network: training or not, with gradients or not, arguments given or None.

    The network is left as it is; constrained parameters are traced as plain ones.

    Raises:
        UnsupportedLayerError: when a path cannot be traced; when it calls code that no trace shows;
            or when ``forward`` writes to anything from which it could be read later: what is in
            the way.
    """
    name = type(model).__name__
    _check_forward(model)
    arguments = _arguments(model)
    variants = list(product(_modes(model), (True, False), *arguments.values()))
    if len(variants) > _MOST_PATHS:
        raise UnsupportedLayerError(f"{name}.forward has {len(variants)} paths to trace")
    with _as_it_was(model), patch.unconstrained(model):
        paths = [
            _trace(model, modes, gradients, dict(zip(arguments, values, strict=True)))
            for modes, gradients, *values in variants
        ]
    taken = [path for path in paths if path is not None]
    if not taken:
        raise UnsupportedLayerError(f"{name}.forward fails on every path that was traced")
    return taken


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a module itself."""
    held = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in held if tensor is not None]


class Reads(TorchFunctionMode):
    """Notes meanwhile which of a network's tensors torch's functions are given, or parts of them.

    A function that asks a form alone does not read.

    Attributes:
        found: ids of Parameters and buffers.
        paused: nothing is noted.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        own = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
        self._own = {name: span(tensor) for name, tensor in own.items()}
        self.found: set[int] = set()
        self.paused = False

    def note(self, value: Any) -> None:
        """Of all tensors in ``value``."""
        for leaf in pytree.tree_leaves(value):
            if isinstance(leaf, Tensor):
                place = span(leaf)
                self.found.update(
                    name for name, own in self._own.items() if name == id(leaf) or meet(own, place)
                )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        owner = getattr(func, "__self__", None)  # of a property it is the property
        name = getattr(owner if func.__name__ == "__get__" else func, "__name__", "")
        asks = name in _FORMS or (name.startswith("is_") and name != "is_nonzero")
        if not asks and not self.paused:
            self.note((args, kwargs))
        return func(*args, **(kwargs or {}))


def _modes(model: nn.Module) -> list[dict[nn.Module, bool]]:
    """Whether each module is training: none, all, or those that are now."""
    now = {module: module.training for module in model.modules()}
    none_and_all = [dict.fromkeys(now, training) for training in (False, True)]
    return none_and_all if now in none_and_all else [*none_and_all, now]


def _trace(
    model: nn.Module, modes: Mapping[nn.Module, bool], gradients: bool, given: dict[str, Any]
) -> Path | None:
    """One path; None where the network fails on it since an argument is None."""
    for module, training in modes.items():
        module.training = training
    tracer, reads = _Tracer(), Reads(model)
    with _as_it_was(model) as held:
        try:
            with torch.set_grad_enabled(gradients), reads:
                graph = tracer.trace(
                    model, {name: value for name, value in given.items() if value is not _PROXY}
                )
        except Exception as error:  # tracing runs the network's own code
            if None in given.values() and _is_of_none(error):
                return None
            raise UnsupportedLayerError(
                f"torch.fx cannot trace {type(model).__name__}: {error}"
            ) from error
        if tracer.asked is not None:
            raise UnsupportedLayerError(
                f"torch.fx cannot trace {type(model).__name__}: {tracer.asked}"
            )
        if any(_contents(container) != before for container, _, before in held):
            raise UnsupportedLayerError(f"{type(model).__name__}.forward writes to its attributes")
        if tracer.is_held():
            raise UnsupportedLayerError(f"{type(model).__name__}.forward keeps what it computes")
        _check_graph(model, graph)
        reads.note([*_fetched(model, graph)])
        return Path(graph, frozenset(reads.found))


def _is_of_none(error: Exception) -> bool:
    """Whether the network itself fails, on an argument that is None, and not torch.fx on its code.

    A call with that argument would fail as well, and compute nothing.
    """
    if type(error) in (TypeError, AttributeError):
        return "NoneType" in str(error)
    return type(error) in (ValueError, AssertionError)  # what the network refuses


class _Value(fx.Proxy):
    """Finds nothing in a dict or set, though its value might."""

    def __hash__(self) -> int:
        assert isinstance(self.tracer, _Tracer)
        self.tracer.asked = TypeError("a value that is not known is looked up")
        return super().__hash__()

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _Part(self, name)


class _Part(_Value, fx.proxy.Attribute):
    """An attribute of a value."""


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # a read of a buffer shows, as one of a parameter does

    def __init__(self) -> None:
        super().__init__()
        self._made: list[weakref.ref[fx.Proxy]] = []
        self.asked: Exception | None = None  # for values, which there are none of

    def proxy(self, node: fx.Node) -> fx.Proxy:
        made = _Value(node, self)
        self._made.append(weakref.ref(made))
        return made

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self._noted(super().to_bool, obj))

    def iter(self, obj: fx.Proxy) -> Any:
        return self._noted(super().iter, obj)

    def _noted(self, ask: Callable[[fx.Proxy], Any], obj: fx.Proxy) -> Any:
        try:
            return ask(obj)
        except Exception as error:  # the network may catch it, and go where no call would go
            self.asked = error
            raise

    def is_held(self) -> bool:
        """Whether anything still holds what was traced: from there it could be read."""
        for generation in (1, 2):  # what refers to itself is young
            if all(made() is None for made in self._made):
                return False
            gc.collect(generation)
        return any(made() is not None for made in self._made)


def _check_forward(model: nn.Module) -> None:
    """Refuse a network whose class does not say what a call of it computes."""
    calls = {"__call__", "_call_impl", "_wrapped_call_impl"}
    what = "a forward of its own" if "forward" in vars(model) else ""
    if any(
        calls & vars(kind).keys() for kind in type(model).__mro__ if not _comes_with_torch(kind)
    ):
        what = "a class that overrides calls"
    if what:
        raise UnsupportedLayerError(f"this {type(model).__name__} has {what}: no trace shows it")


def _check_graph(model: nn.Module, graph: fx.Graph) -> None:
    """Refuse what a graph shows as a single step, but may read anything; or as never being None."""
    for node in graph.nodes:
        if node.op == "placeholder" and str(node.target).startswith("*") and node.users:
            raise UnsupportedLayerError(
                f"{type(model).__name__}.forward reads {node.target}: which are given, is not known"
            )
        if node.op != "call_module":
            continue
        for module in model.get_submodule(str(node.target)).modules():
            if not _is_torchs(module):
                raise UnsupportedLayerError(
                    f"{node.target} calls code of {type(module).__name__}, which no trace shows"
                )


def _is_torchs(module: nn.Module) -> bool:
    """Whether a module runs torch's code alone, as far as its class and attributes say."""
    return all(map(_comes_with_torch, (patch.kind_of(module), *vars(module).values())))


def _comes_with_torch(value: Any) -> bool:
    while isinstance(value, partial):
        value = value.func
    if not callable(value) or isinstance(value, BuiltinFunctionType):
        return True
    return (getattr(value, "__module__", None) or "").startswith("torch.")


def _fetched(model: nn.Module, graph: fx.Graph) -> Iterator[Any]:
    """What ``forward`` takes from attributes, and the tensors modules of torch find in others."""
    for node in graph.nodes:
        if node.op == "get_attr":
            holder, _, name = str(node.target).rpartition(".")
            yield getattr(model.get_submodule(holder), name)
        elif node.op == "call_module":
            caller = model.get_submodule(str(node.target))
            for module in caller.modules():
                if module is not caller:
                    yield from tensors_of(module)


def _arguments(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Values to trace for each argument of ``forward``, but for a first one that is needed."""
    values: dict[str, tuple[Any, ...]] = {}
    for index, (name, argument) in enumerate(inspect.signature(model.forward).parameters.items()):
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        if isinstance(argument.default, bool):
            values[name] = True, False
        elif argument.default is None:
            values[name] = None, _PROXY
        elif index:
            values[name] = _PROXY, None
    return values


Held = list[tuple[Any, Any, list[int]]]  # a container, a copy, which objects it held


def _held(model: nn.Module) -> Held:
    """All that holds values for the network, as far as its attributes lead, and what it holds."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    of_kinds = [
        value
        for kind in kinds
        if not kind.__module__.startswith(("torch.", "builtins"))
        for value in vars(kind).values()
    ]
    coming = deque([*(module.__dict__ for module in model.modules()), *of_kinds])
    found: Held = []
    seen: set[int] = set()
    while coming and len(found) < _MOST_HELD:
        value = coming.popleft()
        container = value if isinstance(value, (dict, list, set, deque)) else _fields(value)
        if id(value) in seen or container is None or len(container) > _MOST_HELD:
            continue
        seen.add(id(value))
        if not isinstance(container, tuple):
            found.append((container, container.copy(), _contents(container)))
        coming.extend(container.values() if isinstance(container, dict) else container)
    return found


def _fields(value: Any) -> Any:
    """What an object holds that is no container itself; None where it is not looked into."""
    if isinstance(value, (tuple, frozenset)):
        return tuple(value)
    if isinstance(value, (type, ModuleType, FunctionType, MethodType, Tensor, Logger)):
        return None  # a logger notes its levels
    fields = getattr(value, "__dict__", None)
    return fields if isinstance(fields, dict) else None


def _contents(container: Any) -> list[int]:
    """Which objects a container holds."""
    if not isinstance(container, dict):
        return [*map(id, container)]
    return [
        id(part)
        for key, value in container.items()
        if not (isinstance(key, str) and key.startswith("_tensor_constant"))  # the tracer's own
        for part in (key, value)
    ]


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[Held]:
    """Gives what the network holds, and puts it back."""
    held = _held(model)
    try:
        yield held
    finally:
        for container, copied, before in held:
            if len(container) == len(copied) and _contents(container) == before:
                continue
            container.clear()
            (container.extend if isinstance(copied, (list, deque)) else container.update)(copied)
