"""What is refused by name: parameters that could not be trained, or not alone; odd numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ectorch.constrain.modules import (
    BITS,
    LENGTHS,
    LOG_GAPS,
    SYMBOLS,
    constraints,
    taken_names,
)
from ectorch.errors import ConfigError, UnsupportedLayerError
from ectorch.memory import span

Place = tuple[str, nn.Module, str, Tensor]  # full name, module, its own name of it, the Parameter

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MOST_NAMED = 8
# hooks that compute the weight from other parameters before each forward, and how to undo them
_RECOMPUTED: dict[type, str] = {
    WeightNorm: "torch.nn.utils.remove_weight_norm",
    SpectralNorm: "torch.nn.utils.remove_spectral_norm",
    BasePruningMethod: "torch.nn.utils.prune.remove",
}


def check_places(places: Sequence[Place]) -> None:
    """Refuse parameters that cannot be constrained, all of them in one message.

    Raises:
        ConfigError: when one is constrained already.
        UnsupportedLayerError: see `ectorch.prepare`.
    """
    for full_name, module, name, _ in places:
        if name in constraints(module):
            kind = type(module).__name__
            raise ConfigError(f"{full_name} ({kind}) is constrained already: convert it first")
    problems = [
        f"{full_name} ({type(module).__name__}) {problem}"
        for full_name, module, name, parameter in places
        if (problem := _problem(module, name, parameter))
    ]
    problems = problems or [*_overlaps(places)]
    if problems:
        more = len(problems) - _MOST_NAMED
        listed = "; ".join(problems[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise UnsupportedLayerError(f"{listed}; or exclude by Config(exclude=...)")


def _problem(module: Any, name: str, parameter: Tensor) -> str:
    """What is in the way, and what to do; empty if nothing is."""
    if is_lazy(parameter):
        return "is lazy: run one batch, then prepare"
    if is_parametrized(module) or isinstance(module, ParametrizationList):
        return "is parametrized: torch.nn.utils.parametrize.remove_parametrizations, then prepare"
    if isinstance(module, torch.jit.ScriptModule):
        return "is scripted: prepare, then script"
    for hook in module._forward_pre_hooks.values():
        for kind, undo in _RECOMPUTED.items():
            if isinstance(hook, kind):
                return f"is computed anew by {kind.__name__}: {undo}, then prepare"
    if taken := taken_names(module, name, (LOG_GAPS, LENGTHS, BITS, SYMBOLS)):
        return f"has {taken[0]} beside it, where ectorch puts a tensor: rename that, then prepare"
    if getattr(module, "sparse", False):
        return "has sparse gradients: set sparse=False, then prepare"
    if getattr(module, "max_norm", None) is not None:
        return "is renormed by max_norm while it is read: set max_norm=None, then prepare"
    return _problem_of_values(parameter)


def _problem_of_values(parameter: Tensor) -> str:
    data = parameter.detach()
    if type(data) not in (Tensor, nn.Parameter) or data.layout != torch.strided:
        form = type(data).__name__ if data.layout == torch.strided else data.layout
        return f"is a {form}, expected a plain tensor"
    if data.dtype not in _FLOATS:
        return f"is {data.dtype}, expected {', '.join(map(str, _FLOATS))}"
    if data.is_meta:
        return "is on meta, without values: load them, then prepare"
    if not data.isfinite().all():
        bad = int(data.numel() - data.isfinite().sum())
        wrong = f"{bad:,} of {data.numel():,} values"
        return f"holds NaN or infinity ({wrong}): give it finite ones, then prepare"
    return ""


def _overlaps(places: Sequence[Place]) -> Iterator[str]:
    """Pairs of different Parameters that lie in the same memory: each would get its own values."""
    named = {id(p): (full_name, p) for full_name, _, _, p in places}.values()
    spans = sorted((own, full_name) for full_name, p in named if (own := span(p)) is not None)
    tensors = dict(named)
    for index, ((device, _, end), name) in enumerate(spans):
        for (other_device, start, _), other in spans[index + 1 :]:
            if device != other_device or start >= end:
                break
            if _share(tensors[name], tensors[other]):
                yield (
                    f"{name} and {other} lie in the same memory: make them one Parameter, or copies"
                )


def _share(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors whose memory is entwined have a number in common.

    Those without gaps have; others may be columns side by side.
    """
    if _is_dense(one) and _is_dense(other):
        return True
    return bool(torch.isin(_places(one), _places(other)).any())


def _is_dense(tensor: Tensor) -> bool:
    own = span(tensor)
    return own is not None and own[2] - own[1] == tensor.nbytes


def _places(tensor: Tensor) -> Tensor:
    """Where each number of ``tensor`` begins."""
    place = torch.tensor(tensor.data_ptr())
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        place = place[..., None] + torch.arange(size) * (stride * tensor.element_size())
    return place.flatten()
