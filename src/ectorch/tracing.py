"""What a network's ``forward`` computes, for every way it may be called: graphs of torch.fx.

One graph is one path. A network may take others in training mode, or when an argument is left out:
each of them is traced.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

from torch import Tensor, fx, nn

from ectorch import layers
from ectorch.errors import UnsupportedLayerError

_MOST_PATHS = 64
_PROXY = object()  # an argument whose value the trace leaves open


def trace(model: nn.Module) -> list[fx.Graph]:
    """The graphs of a network in eval and in training mode, with and without optional arguments.

    The network is left as it is; constrained parameters are traced as plain ones.

    Raises:
        UnsupportedLayerError: when a path cannot be traced, or ``forward`` writes to attributes of
            the network, from which anything could be read later: what is in the way.
    """
    name = type(model).__name__
    variants = list(product((False, True), *_arguments(model).values()))
    if len(variants) > _MOST_PATHS:
        raise UnsupportedLayerError(f"{name}.forward has {len(variants)} paths to trace")
    with _as_it_was(model), layers.unconstrained(model):
        return [
            _trace(model, training, dict(zip(_arguments(model), values, strict=True)))
            for training, *values in variants
        ]


def tensors_of(module: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a module itself."""
    held = (*module._parameters.values(), *module._buffers.values())
    return [tensor for tensor in held if tensor is not None]


def tensors_read(model: nn.Module, graph: fx.Graph) -> set[int]:
    """Which parameters and buffers ``forward`` reads itself, not by calls of their modules."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    names = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    return {id(tensors[name]) for name in names & tensors.keys()}


def _trace(model: nn.Module, training: bool, given: dict[str, Any]) -> fx.Graph:
    for module in model.modules():
        module.training = training
    before = _attributes(model)
    try:
        graph = _Tracer().trace(
            model, {name: value for name, value in given.items() if value is not _PROXY}
        )
    except Exception as error:  # tracing runs the network's own code
        raise UnsupportedLayerError(
            f"torch.fx cannot trace {type(model).__name__}: {error}"
        ) from error
    if _attributes(model) != before:
        raise UnsupportedLayerError(f"{type(model).__name__}.forward writes to its attributes")
    return graph


class _Tracer(fx.Tracer):
    proxy_buffer_attributes = True  # a read of a buffer shows, as one of a parameter does


def _arguments(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Values to trace for each optional argument of ``forward``."""
    values: dict[str, tuple[Any, ...]] = {}
    for name, argument in inspect.signature(model.forward).parameters.items():
        if isinstance(argument.default, bool):
            values[name] = True, False
        elif argument.default is None:
            values[name] = None, _PROXY
    return values


def _attributes(model: nn.Module) -> dict[tuple[str, str], int]:
    """Which object each attribute and buffer of each module is."""
    return {
        (prefix, name): id(value)
        for prefix, module in model.named_modules()
        for held in (module.__dict__, module._buffers)
        for name, value in held.items()
        if not name.startswith("_tensor_constant")  # the tracer's own
    }


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    kept = [(m, m.__dict__.copy(), m._buffers.copy()) for m in model.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in kept:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
