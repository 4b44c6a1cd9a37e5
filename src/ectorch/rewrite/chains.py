"""Which layers' units are read by one other layer alone: what can be proven of it.

Proven is a chain of two layers where, on every path through ``forward``

- the units are one axis, whole, of each tensor between the two, and what lies there keeps them
  apart: see `_follow`;
- nothing else reads or hooks these modules or their tensors: see `_is_watched`, `_is_read_apart`;
- and nothing outside ``forward`` can read what lies between: see `_is_exposed`, unless the caller
  says that nothing does.

Taken for granted: attributes that ``forward`` asks, other than ``training``, stay as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ectorch.constrain.modules import constraints
from ectorch.constrain.patch import kind_of
from ectorch.memory import shared
from ectorch.rewrite.tracing import Path, tensors_of, trace

# and their dimensions of space
CONVOLUTIONS: dict[type[nn.Module], int] = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
LAYERS: tuple[type[nn.Module], ...] = (nn.Linear, *CONVOLUTIONS)
BATCH_NORMS: dict[type[nn.Module], tuple[int, ...]] = {
    nn.BatchNorm1d: (0, 1),
    nn.BatchNorm2d: (2,),
    nn.BatchNorm3d: (3,),
}
_POOLS: dict[type[nn.Module], int] = {
    **{nn.MaxPool1d: 1, nn.MaxPool2d: 2, nn.MaxPool3d: 3},
    **{nn.AdaptiveMaxPool1d: 1, nn.AdaptiveMaxPool2d: 2, nn.AdaptiveMaxPool3d: 3},
    **{nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3},
}
_AVERAGES: dict[type[nn.Module], int] = {nn.AvgPool1d: 1, nn.AvgPool2d: 2, nn.AvgPool3d: 3}
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity)
_ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Hardswish, nn.Hardtanh, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softsign),
)
_ACTIVATION_NAMES = (
    *("relu", "relu_", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish"),
    *("hardswish", "hardtanh", "hardsigmoid", "sigmoid", "tanh", "softplus", "softsign"),
)
_POOL_NAMES = {
    f"{kind}_pool{dims}d": dims
    for kind in ("max", "adaptive_avg")  # "adaptive_max" gives indices, too
    for dims in (1, 2, 3)
}
_AVERAGE_NAMES = {f"avg_pool{dims}d": kind for kind, dims in _AVERAGES.items()}
_KNOWN_METHODS = {"forward", "extra_repr", "reset_parameters", "init_weights", "_init_weights"}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Step = Callable[[Tensor], Tensor]
_Space = int | None
"""Where units are: on axis 1, before so many dimensions of space; -1 for no axis of their own."""
_LAST: _Space = None  # on the last axis, of a tensor of any rank
_LOST: _Space = -1


@dataclass(frozen=True, eq=False)
class Chain:
    """Two layers and what lies between; only the second reads the units of the first.

    Attributes:
        names: of all modules that units pass, the two layers first and last.
        steps: map (units,) values, each constant over space, through what lies between.
        norms: batch norms between.
        places: inputs of the second layer that a unit feeds: more than 1 after a flatten.
    """

    names: tuple[str, ...]
    first: nn.Module
    second: nn.Module
    steps: tuple[Step, ...]
    norms: tuple[nn.Module, ...]
    places: int

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return self.first, *self.norms, self.second

    def __str__(self) -> str:
        return f"{self.names[0]} -> {self.names[-1]}"


def find_chains(
    model: nn.Module, forward_only: bool = False, ranks: Mapping[nn.Module, int] | None = None
) -> list[Chain]:
    """The chains of a network that are proven, in the order of its computation.

    Between the layers (Linear, Conv without groups) may lie activations, pooling, dropout, batch
    norm and a flatten.

    Args:
        forward_only: the network is used through its ``forward`` alone, on batches: no other
            method, and nobody who calls a part of it, reads what lies between two layers.
        ranks: dimensions of the outputs of layers, where they were measured.

    Raises:
        UnsupportedLayerError: when the network cannot be traced: what is in the way.
    """
    modules = dict(model.named_modules())
    paths = [_Path(path, modules, ranks or {}, forward_only) for path in trace(model)]
    twice = shared(tensor for module in modules.values() for tensor in tensors_of(module))
    return [
        chain
        for chain in paths[0].chains.values()
        if all(path.allows(chain) for path in paths)
        and not any(id(tensor) in twice for m in chain.modules for tensor in tensors_of(m))
        and not _is_watched(chain, modules)
        and (forward_only or not _is_exposed(chain, modules))
    ]


def weight_of(layer: nn.Module) -> Tensor:
    """The Parameter (outputs, inputs, ...) itself, constrained or not."""
    weight = layer._parameters["weight"]
    assert weight is not None
    return weight


class _Path:
    """One path through a network: its chains, and all that it reads."""

    def __init__(
        self,
        path: Path,
        modules: Mapping[str, nn.Module],
        ranks: Mapping[nn.Module, int],
        batched: bool,
    ) -> None:
        self._modules, self._ranks, self._batched = modules, ranks, batched
        nodes = path.graph.nodes
        self._calls = Counter(id(modules[str(n.target)]) for n in nodes if n.op == "call_module")
        self._read = path.read
        found = (self._follow(node) for node in nodes)
        self.chains = {(chain.names, chain.places): chain for chain in found if chain is not None}

    def allows(self, chain: Chain) -> bool:
        """Whether nothing on this path reads otherwise what ``chain`` is made of."""
        if any(id(tensor) in self._read for m in chain.modules for tensor in tensors_of(m)):
            return False
        calls = [self._calls[id(module)] for module in chain.modules]
        absent = not any(calls)
        return absent or (
            (chain.names, chain.places) in self.chains and all(count == 1 for count in calls)
        )

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self._modules[str(node.target)] if node.op == "call_module" else None

    def _layer(self, node: fx.Node) -> nn.Module | None:
        module = self._module(node)
        fits = module is not None and _is_plain(module, LAYERS) and _is_whole(module)
        return module if fits and getattr(module, "groups", 1) == 1 else None

    def _follow(self, start: fx.Node) -> Chain | None:
        """The chain from ``start`` to the next layer, if only that one reads its units."""
        first, node = self._layer(start), start
        if first is None:
            return None
        units, space = len(weight_of(first)), self._space(start, first)
        names = [str(start.target)]
        steps: list[Step] = []
        norms: list[nn.Module] = []
        while space != _LOST and len(node.users) == 1:
            (node,) = node.users
            second, module = self._layer(node), self._module(node)
            if second is not None:
                places = _places(second, units, space)
                chain = (*names, str(node.target)), first, second, tuple(steps), tuple(norms)
                return Chain(*chain, places) if places else None
            if self._may_meet_one(node, module, space) and not self._is_batched(first):
                return None
            step, space = _step(node, space) if module is None else _step_of(module, units, space)
            names.append(_function_name(node) + "()" if module is None else str(node.target))
            steps.append(step)
            if module is not None and _is_plain(module, BATCH_NORMS):
                norms.append(module)
        return None

    def _may_meet_one(self, node: fx.Node, module: nn.Module | None, space: _Space) -> bool:
        """Whether ``node`` would do something else to one example without a batch.

        A flatten would flatten space alone, a norm of one dimension normalize space.
        """
        one_dimensional = module is not None and kind_of(module) is nn.BatchNorm1d
        return bool(space and (_flattens(node, module) or one_dimensional))

    def _is_batched(self, layer: nn.Module) -> bool:
        return self._batched or layer in self._ranks

    def _space(self, node: fx.Node, layer: nn.Module) -> _Space:
        """Where the units of ``layer`` are in its output; -1 where that is not known."""
        dims = CONVOLUTIONS.get(kind_of(layer))
        rank = self._ranks[layer] if layer in self._ranks else self._rank(node)
        if dims is None:
            return 0 if rank == 2 else _LAST
        return dims if rank == dims + 2 else _LOST

    def _rank(self, node: fx.Node) -> int | None:
        """Dimensions of what ``node`` gives, as far as those before it tell."""
        while True:
            layer, module = self._layer(node), self._module(node)
            if layer is not None and kind_of(layer) in CONVOLUTIONS:
                return CONVOLUTIONS[kind_of(layer)] + 2
            if _flattens(node, module):
                return 2
            keeps = layer is not None or (
                _is_plain(module, (*_ACTIVATIONS, *_DROPOUTS, *BATCH_NORMS, *_POOLS, *_AVERAGES))
                if module is not None
                else _function_name(node) in _ACTIVATION_NAMES
            )
            if not keeps or not node.all_input_nodes:
                return None
            node = node.all_input_nodes[0]


def _is_plain(module: nn.Module, kinds: Any) -> bool:
    """Whether a module is just of one of torch's ``kinds``: what it computes is known."""
    return kind_of(module) in kinds and "forward" not in module.__dict__


def own_names(module: nn.Module) -> list[str]:
    """Parameters and buffers of a layer or norm itself, without what constraining it added."""
    added = {
        f"{name}_{suffix}"
        for name, constraint in constraints(module).items()
        for suffix in constraint.added
    }
    tensors = module._parameters | module._buffers
    return [name for name, tensor in tensors.items() if tensor is not None and name not in added]


def _is_whole(module: nn.Module) -> bool:
    """Whether a layer or norm has its own tensors, not computed ones, and none that users added."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    known = {"weight", "bias", *(statistics if kind_of(module) in BATCH_NORMS else ())}
    vectors = module._parameters.keys() >= {"weight", "bias"}
    return vectors and known.issuperset(own_names(module))


def _places(second: nn.Module, units: int, space: _Space) -> int:
    """Inputs of the second layer that each unit feeds, one after the other; 0 if it is not so."""
    inputs, dims = weight_of(second).shape[1], CONVOLUTIONS.get(kind_of(second))
    if dims is None and space == 0:
        return 0 if inputs % units else inputs // units
    return int(inputs == units and space == (_LAST if dims is None else dims))


def _step_of(module: Any, units: int, space: _Space) -> tuple[Step, _Space]:
    """What a module makes of values that are constant over space, and where units are then."""
    if _is_plain(module, BATCH_NORMS):
        fits = space in BATCH_NORMS[kind_of(module)] and module.num_features == units
        fits = fits and _is_whole(module)
        return partial(_normalize, module), space if fits and module.track_running_stats else _LOST
    if _is_plain(module, _POOLS):
        return _keep, space if space == _POOLS[kind_of(module)] else _LOST
    if _is_plain(module, _AVERAGES):
        fits = space == _AVERAGES[kind_of(module)] and _keeps_constants(module)
        return _keep, space if fits else _LOST
    if _is_plain(module, (nn.Flatten,)):
        return _keep, _flattened(space) if _flattens_all(module) else _LOST
    if _is_plain(module, _DROPOUTS):
        return _keep, space
    return module, space if _is_plain(module, _ACTIVATIONS) else _LOST


def _step(node: fx.Node, space: _Space) -> tuple[Step, _Space]:
    """`_step_of` for a call of a function or of a tensor's method."""
    name = _function_name(node)
    if node.all_input_nodes != [*node.args[:1]]:
        return _keep, _LOST  # the network computes other arguments, or the tensor is given by name
    if name == "flatten":
        return _keep, _flattened(space) if _flattens(node, None) else _LOST
    if name in ("dropout", "contiguous"):
        return _keep, space
    if name in _POOL_NAMES:
        return _keep, space if space == _POOL_NAMES[name] else _LOST
    if name in _AVERAGE_NAMES:
        kind = _AVERAGE_NAMES[name]
        fits = space == _AVERAGES[kind] and _keeps_constants(kind(*node.args[1:], **node.kwargs))
        return _keep, space if fits else _LOST
    if name not in _ACTIVATION_NAMES:
        return _keep, _LOST
    function = getattr(torch.Tensor if node.op == "call_method" else F, name)
    return lambda values: function(values, *node.args[1:], **node.kwargs), space


def _function_name(node: fx.Node) -> str:
    """Name of a known function or tensor's method that ``node`` calls; else empty."""
    if node.op == "call_method":
        return str(node.target)
    return _FUNCTIONS.get(node.target, "") if node.op == "call_function" else ""


def _known_functions() -> dict[Any, str]:
    names = (*_ACTIVATION_NAMES, *_POOL_NAMES, *_AVERAGE_NAMES, "flatten", "dropout")
    return {getattr(room, n): n for room in (torch, F) for n in names if hasattr(room, n)}


_FUNCTIONS = _known_functions()


def _flattens(node: fx.Node, module: nn.Module | None) -> bool:
    """Whether ``node`` flattens all but the first dimension."""
    if module is not None:
        return _is_plain(module, (nn.Flatten,)) and _flattens_all(module)
    if _function_name(node) != "flatten":
        return False
    given = dict(zip(("start_dim", "end_dim"), node.args[1:], strict=False)) | node.kwargs
    return (given.get("start_dim", 0), given.get("end_dim", -1)) == (1, -1)


def _flattens_all(flatten: Any) -> bool:
    return (flatten.start_dim, flatten.end_dim) == (1, -1)


def _flattened(space: _Space) -> _Space:
    return _LAST if space is _LAST else 0


def _keeps_constants(average: Any) -> bool:
    """Whether an average of equal values is that value, also at the border."""
    divided = getattr(average, "divisor_override", None) is not None
    return not divided and not torch.tensor(average.padding).any()


def _keep(values: Tensor) -> Tensor:
    return values


def _normalize(norm: Any, values: Tensor) -> Tensor:
    statistics = norm.running_mean, norm.running_var
    return F.batch_norm(values[None], *statistics, norm.weight, norm.bias, eps=norm.eps)[0]


def _is_watched(chain: Chain, modules: Mapping[str, nn.Module]) -> bool:
    """Whether hooks see the modules of a chain, those that hold them, all, or their parameters."""
    if any(getattr(torch.nn.modules.module, f"_global{hooks}") for hooks in _HOOKS):
        return True
    passed = [name for name in chain.names if name in modules]
    holders = {holder for name in passed for holder in _holders(name)}
    seen = {*passed, *holders}
    return any(getattr(modules[name], hooks) for name in seen for hooks in _HOOKS) or any(
        tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None)
        for module in chain.modules
        for tensor in tensors_of(module)
    )


def _is_exposed(chain: Chain, modules: Mapping[str, nn.Module]) -> bool:
    """Whether others may read what lies between: by a method, or by calling a part of the network.

    Parts are the modules that hold others: a chain from one into another could be read at the
    border.
    """
    own = {id(module) for module in chain.modules}
    names = [name for name in chain.names if name in modules and id(modules[name]) in own]
    if len({name.rpartition(".")[0] for name in names}) > 1:
        return True
    return any(_has_other_methods(kind_of(modules[holder])) for holder in _holders(names[0]))


def _holders(name: str) -> list[str]:
    parts = name.split(".")[:-1]
    return [".".join(parts[:count]) for count in range(len(parts) + 1)]


def _has_other_methods(kind: type[nn.Module]) -> bool:
    """Whether a class has methods or properties of its own that could compute something else."""
    return any(
        (callable(value) or isinstance(value, (property, classmethod, staticmethod)))
        and name not in _KNOWN_METHODS
        and (name == "__call__" or not name.startswith("_"))
        for base in kind.__mro__
        if not base.__module__.startswith("torch.") and base is not object
        for name, value in vars(base).items()
    )
