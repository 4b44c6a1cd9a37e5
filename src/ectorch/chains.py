"""Which layers' units are read by one other layer alone, found by tracing with torch.fx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ectorch.errors import UnsupportedLayerError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_KEEPING = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity),
)
_AVERAGING = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_KEEPING_NAMES = (
    *("max_pool1d", "max_pool2d", "max_pool3d", "dropout", "contiguous"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
)
_AVERAGING_NAMES = {f"avg_pool{dims}d": kind for dims, kind in enumerate(_AVERAGING, 1)}
_ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign),
)
_ELEMENTWISE_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardtanh", "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign"),
)

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Chain:
    """Two layers and what lies between; only the second reads the units of the first.

    Attributes:
        steps: map (units,) values, each constant over space, through what lies between.
        norms: batch norms between.
        places: inputs of the second layer that a unit feeds: more than 1 after a flatten.
    """

    first: nn.Module
    second: nn.Module
    steps: tuple[Step, ...]
    norms: tuple[nn.Module, ...]
    places: int

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return self.first, *self.norms, self.second


def find_chains(model: nn.Module) -> list[Chain]:
    """The chains of a network that `torch.fx` can trace, in the order of its computation.

    Between the layers (Linear, Conv without groups) may lie activations, pooling, dropout, batch
    norm and a flatten. A layer that is called twice or shares a parameter is in none.

    Raises:
        UnsupportedLayerError: when the network cannot be traced: what torch.fx says.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # tracing runs the network's own code
        raise UnsupportedLayerError(
            f"torch.fx cannot trace {type(model).__name__}: {error}"
        ) from error
    modules = dict(model.named_modules())
    calls = Counter(id(modules[n.target]) for n in graph.nodes if n.op == "call_module")
    owners = Counter(id(p) for module in modules.values() for p in module._parameters.values())
    chains = [_follow(node, modules) for node in graph.nodes]
    return [
        chain
        for chain in chains
        if chain is not None
        and all(calls[id(module)] == 1 for module in chain.modules)
        and all(owners[id(p)] == 1 for module in chain.modules for p in module.parameters(False))
    ]


def weight_of(layer: nn.Module) -> Tensor:
    """The Parameter (outputs, inputs, ...) itself, constrained or not."""
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


def _layer(node: fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    module = modules[str(node.target)] if node.op == "call_module" else None
    fits = isinstance(module, LAYERS) and getattr(module, "groups", 1) == 1
    return module if fits and module is not None and "weight" in module._parameters else None


def _follow(start: fx.Node, modules: Mapping[str, nn.Module]) -> Chain | None:
    """The chain from ``start`` to the next layer, if only that one reads its units."""
    first, node = _layer(start, modules), start
    steps: list[Step] = []
    norms: list[nn.Module] = []
    while first is not None and len(node.users) == 1:
        (node,) = node.users
        second = _layer(node, modules)
        if second is not None:
            places, rest = divmod(weight_of(second).shape[1], len(weight_of(first)))
            return None if rest else Chain(first, second, tuple(steps), tuple(norms), places)
        module = modules[str(node.target)] if node.op == "call_module" else None
        step = _step(node) if module is None else _step_of_module(module)
        if step is None:
            return None
        steps.append(step)
        if isinstance(module, NORMS):
            norms.append(module)
    return None


def _step_of_module(module: nn.Module) -> Step | None:
    """What a module makes of values that are constant over space; None if that is not known."""
    if isinstance(module, NORMS):
        return partial(_normalize, module) if module.running_mean is not None else None
    if isinstance(module, nn.Flatten):
        return _keep if module.start_dim == 1 else None
    if isinstance(module, _AVERAGING):
        divided = getattr(module, "divisor_override", None)
        return _keep if divided is None and not torch.tensor(module.padding).any() else None
    if isinstance(module, _KEEPING):
        return _keep
    return module if isinstance(module, _ELEMENTWISE) else None


def _step(node: fx.Node) -> Step | None:
    """`_step_of_module` for a call of a function or of a tensor's method."""
    if node.all_input_nodes != [*node.args[:1]]:
        return None  # the network computes other arguments, or the tensor is given by name
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if name == "flatten":
        start = node.kwargs.get("start_dim", node.args[1] if len(node.args) > 1 else 0)
        return _keep if start == 1 else None
    if name in _KEEPING_NAMES:
        return _keep
    if name in _AVERAGING_NAMES:
        return _step_of_module(_AVERAGING_NAMES[name](*node.args[1:], **node.kwargs))
    if name not in _ELEMENTWISE_NAMES:
        return None
    function = getattr(torch.Tensor if node.op == "call_method" else F, name)
    return lambda values: function(values, *node.args[1:], **node.kwargs)


def _keep(values: Tensor) -> Tensor:
    return values


def _normalize(norm: Any, values: Tensor) -> Tensor:
    statistics = norm.running_mean, norm.running_var
    return F.batch_norm(values[None], *statistics, norm.weight, norm.bias, eps=norm.eps)[0]
