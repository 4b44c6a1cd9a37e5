"""Which tensors of a network are rounded, who reads them, and which stay float."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ectorch.constrain.modules import is_prepared
from ectorch.errors import ConfigError, UnsupportedLayerError
from ectorch.posttrain.layers import Reading, reading


@dataclass(frozen=True, eq=False)
class Site:
    """A Parameter that is rounded.

    Attributes:
        name: the first that the network has for it.
        readers: modules that read it, and how.
        bias: that is added where it was multiplied, and nowhere else.
    """

    name: str
    parameter: nn.Parameter
    readers: tuple[tuple[nn.Module, Reading], ...]
    bias: nn.Parameter | None = None


def find_sites(model: nn.Module, keep: Sequence[str] = ()) -> tuple[list[Site], dict[str, str]]:
    """Every Parameter that can be rounded, and why the others stay as they are.

    Args:
        keep: patterns of names that stay float, as ``"head.*"``.

    Raises:
        ConfigError: for a pattern that matches no name, or a network that is prepared.
        UnsupportedLayerError: for a Parameter that holds NaN or infinity, by its name.
    """
    if is_prepared(model):
        raise ConfigError("the network is prepared: ectorch.finalize(model) first")
    holders: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append((module, name))
    named = [*model.named_parameters()]
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name, _ in named):
            raise ConfigError(f"keep: no parameter matches {pattern!r}")
    sites, kept = [], {}
    for name, parameter in named:
        own = holders[id(parameter)]
        why = _why_float(name, parameter, own, keep)
        if why:
            kept[name] = why
            continue
        check_finite(name, parameter)
        read = tuple((m, r) for m, n in own if (r := reading(m, n)) is not None)
        if len({r.to_matrices(parameter).shape for _, r in read}) > 1:
            read = ()  # what is tied, and read in two ways, is of no one layer
        bias = own[0][0]._parameters.get("bias") if len(own) == 1 and read else None
        alone = bias is not None and len(holders[id(bias)]) == 1 and not read[0][1].looks_up
        sites.append(Site(name, parameter, read, bias if alone else None))
    return sites, kept


def check_finite(name: str, tensor: Tensor) -> None:
    """Refuse NaN and infinity.

    Raises:
        UnsupportedLayerError: by name.
    """
    if not tensor.isfinite().all():
        raise UnsupportedLayerError(f"{name} holds NaN or infinity")


def why_plain(tensor: Tensor) -> str:
    """Why rounding gains nothing on a tensor, whatever its name; empty if it may."""
    if not tensor.is_floating_point() or tensor.element_size() == 1:
        return f"of dtype {str(tensor.dtype).removeprefix('torch.')}"
    if tensor.numel() < 2 or (tensor == tensor.reshape(-1)[0]).all():
        return "one value"
    return ""


def _why_float(
    name: str, parameter: Tensor, own: Sequence[tuple[nn.Module, str]], keep: Sequence[str]
) -> str:
    if parameter.is_meta:
        return "on meta: it has no values"
    if any(fnmatchcase(name, pattern) for pattern in keep):
        return "kept by its name"
    if any(isinstance(module, _BatchNorm) for module, _ in own):
        return "of a batch norm: finalize puts it on a grid"
    return why_plain(parameter)
