"""The kernels as operators of torch, with gradients: ``torch.ops.ectorch``.

Compilers, exporters and dispatch modes see one operator each (fake, autograd and vmap are
registered). Eager calls go round the dispatcher, which costs more than a small kernel does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ectorch.constrain.kernels import cuda, gradients
from ectorch.constrain.kernels.choose import check, grouped, is_eager, kernels_for

_LIBRARY: Any = torch.library.Library("ectorch", "DEF")  # type: ignore[no-untyped-call]


def round_to_grid(
    weight: Tensor,
    log_gaps: Tensor,
    levels: int,
    noise: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """`plain.round_to_grid`, with gradients: straight to the weight, `plain.by_step` to the grid.

    There is no curvature. Within torch.func `ectorch.constrain.relaxation.rounding` has formulas.
    """
    arguments = (weight, log_gaps, levels, noise, dtype)
    if is_eager(weight, log_gaps):
        found: Tensor = _apply(gradients.Round, *arguments)
    else:
        found = torch.ops.ectorch.round_to_grid(*arguments)
    return found


def round_together(
    weights: Sequence[Tensor],
    log_gaps: Sequence[Tensor],
    levels: Sequence[int],
    dtype: torch.dtype | None = None,
) -> list[Tensor]:
    """`round_to_grid` of each: one node on the way back, for nodes cost more than kernels."""
    if len(weights) > 1 and all(map(is_eager, weights, log_gaps)):
        return list(_apply(gradients.RoundTogether, levels, dtype, *weights, *log_gaps))
    return [round_to_grid(*one, None, dtype) for one in zip(weights, log_gaps, levels, strict=True)]


def moments(weight: Tensor, log_gaps: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """`plain.moments`, with the gradients of `plain.moments_backward`."""
    if is_eager(weight, log_gaps):
        mean, variance = _apply(gradients.Moments, weight, log_gaps, levels)
    else:
        mean, variance = torch.ops.ectorch.grid_moments(weight, log_gaps, levels)
    return mean, variance


@torch.no_grad()
def counts(
    weights: Sequence[Tensor], log_gaps: Sequence[Tensor], levels: Sequence[int]
) -> list[Tensor]:
    """`plain.counts` of many parameters of one device."""
    if all(map(is_eager, weights, log_gaps)):
        return grouped("counts", weights, log_gaps, levels)
    return list(torch.ops.ectorch.grid_counts(list(weights), list(log_gaps), list(levels)))


def charge(
    weights: Sequence[Tensor],
    log_gaps: Sequence[Tensor],
    levels: Sequence[int],
    lengths: Sequence[Tensor],
    scales: Sequence[float],
) -> Tensor:
    """() float64 zero, whose gradient to each weight is that of its scaled bits.

        bits = sum_i (1 - t_i) L[j] + t_i L[j + 1]       t = (w - v[j]) / (v[j + 1] - v[j])
        d bits / d w_i = (L[j + 1] - L[j]) / step

    for weight i between the levels j and j + 1, and 0 beyond the ends. With lengths ``-log2 P`` of
    the soft histogram itself this is the exact gradient of ``n H``: the terms through P cancel,
    because P sums to one.
    """
    given = ([*levels], [*scales])
    tensors = (*weights, *log_gaps, *lengths)
    if all(map(is_eager, weights, log_gaps)):
        found: Tensor = _apply(gradients.Charge, *given, *tensors)
    else:
        rows = [*weights], [*log_gaps], given[0], [*lengths], given[1]
        found = torch.ops.ectorch.grid_charge(*rows)
    return found


def deviate(spread: Tensor, floor: Tensor, seed: Tensor) -> Tensor:
    """Normal noise of variance ``max(spread, floor)``; on CUDA alone, where `cuda.serves` it.

    Nothing of its size is kept for the way back but ``spread``: numbers follow from the seed.

    Args:
        floor: () at least the smallest positive number; no gradient.
        seed: (1,) int64.
    """
    if is_eager(spread, seed):
        found: Tensor = _apply(gradients.Deviate, spread, floor, seed)
    else:
        found = torch.ops.ectorch.deviate(spread, floor, seed)
    return found


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    apply: Callable[..., Any] = function.apply
    return apply(*arguments)


def _vmapped(operator: Any) -> Callable[..., Any]:
    """One network after another, as kernels know none of several."""

    def rule(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        def slice_of(argument: Any, dim: Any, at: int) -> Any:
            if isinstance(argument, (list, tuple)) and isinstance(dim, (list, tuple)):
                return [slice_of(*pair, at) for pair in zip(argument, dim, strict=True)]
            return argument if dim is None else argument.select(dim, at)

        found = [
            operator(*(slice_of(*pair, at) for pair in zip(arguments, in_dims, strict=True)))
            for at in range(info.batch_size)
        ]
        if isinstance(found[0], Tensor):
            return torch.stack(found), 0
        stacked = [torch.stack(each) for each in zip(*found, strict=True)]
        kind: Any = type(found[0])
        return kind(stacked), kind([0] * len(stacked))

    return rule


def _register(
    schema: str,
    kernel: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup: Callable[..., Any] | None = None,
) -> None:
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, kernel, "CompositeExplicitAutograd")
    full = f"ectorch::{name}"
    torch.library.register_fake(full, fake, lib=_LIBRARY)
    if backward is None:
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    else:
        torch.library.register_autograd(full, backward, setup_context=setup, lib=_LIBRARY)
    operator = getattr(torch.ops.ectorch, name).default
    torch.library.register_vmap(full, _vmapped(operator), lib=_LIBRARY)


def _round(
    weight: Tensor, log_gaps: Tensor, levels: int, noise: Any = None, dtype: Any = None
) -> Tensor:
    check(weight, log_gaps, levels, noise=noise)
    found: Tensor = kernels_for(weight, log_gaps).round_to_grid(
        weight, log_gaps, levels, noise, dtype
    )
    return found


def _by_step(
    grad: Tensor, weight: Tensor, log_gaps: Tensor, levels: int, noise: Any = None
) -> Tensor:
    check(weight, log_gaps, levels, [grad], noise)
    found: Tensor = kernels_for(weight, log_gaps).by_step(
        grad.to(weight.dtype), weight, log_gaps, levels, noise
    )
    return found


def _moments(weight: Tensor, log_gaps: Tensor, levels: int) -> Any:
    check(weight, log_gaps, levels)
    return kernels_for(weight, log_gaps).moments(weight, log_gaps, levels)


def _moments_backward(
    by_mean: Any, by_variance: Any, weight: Tensor, log_gaps: Tensor, levels: int
) -> Any:
    check(weight, log_gaps, levels, [by_mean, by_variance])
    kernels = kernels_for(weight, log_gaps)
    return kernels.moments_backward(by_mean, by_variance, weight, log_gaps, levels)


def _counts(weights: Any, log_gaps: Any, levels: Any) -> list[Tensor]:
    for row in zip(weights, log_gaps, levels, strict=True):
        check(*row)
    return grouped("counts", weights, log_gaps, levels)


def _charge_backward(
    grad: Tensor, weights: Any, log_gaps: Any, levels: Any, lengths: Any, scales: Any
) -> list[Tensor]:
    for weight, gaps, many, bits, _ in zip(weights, log_gaps, levels, lengths, scales, strict=True):
        check(weight, gaps, many, lengths=bits)
    return grouped("charge_backward", weights, log_gaps, levels, lengths, scales, first=(grad,))


_register(
    "round_to_grid(Tensor weight, Tensor log_gaps, int levels, Tensor? noise=None, "
    "ScalarType? dtype=None) -> Tensor",
    _round,
    lambda weight, log_gaps, levels, noise=None, dtype=None: torch.empty_like(weight, dtype=dtype),
    gradients.round_backward,
    gradients.round_setup,
)
_register(
    "round_to_grid_by_step(Tensor grad, Tensor weight, Tensor log_gaps, int levels, "
    "Tensor? noise=None) -> Tensor",
    _by_step,
    lambda grad, weight, log_gaps, levels, noise=None: torch.empty_like(log_gaps),
)
_register(
    "grid_moments(Tensor weight, Tensor log_gaps, int levels) -> (Tensor, Tensor)",
    _moments,
    lambda weight, log_gaps, levels: (torch.empty_like(weight), torch.empty_like(weight)),
    gradients.moments_backward,
    gradients.moments_setup,
)
_register(
    "grid_moments_backward(Tensor? by_mean, Tensor? by_variance, Tensor weight, Tensor log_gaps, "
    "int levels) -> (Tensor, Tensor)",
    _moments_backward,
    lambda by_mean, by_variance, weight, log_gaps, levels: (
        torch.empty_like(weight),
        torch.empty_like(log_gaps),
    ),
)
_register(
    "grid_counts(Tensor[] weights, Tensor[] log_gaps, int[] levels) -> Tensor[]",
    _counts,
    lambda weights, log_gaps, levels: [
        weight.new_empty(many, dtype=torch.float64)
        for weight, many in zip(weights, levels, strict=True)
    ],
)
_register(
    "grid_charge(Tensor[] weights, Tensor[] log_gaps, int[] levels, Tensor[] lengths, "
    "float[] scales) -> Tensor",
    lambda weights, *rest: weights[0].new_zeros((), dtype=torch.float64),
    lambda weights, *rest: weights[0].new_empty((), dtype=torch.float64),
    gradients.charge_backward,
    gradients.charge_setup,
)
_register(
    "grid_charge_backward(Tensor grad, Tensor[] weights, Tensor[] log_gaps, int[] levels, "
    "Tensor[] lengths, float[] scales) -> Tensor[]",
    _charge_backward,
    lambda grad, weights, *rest: [torch.empty_like(weight) for weight in weights],
)
_register(
    "deviate(Tensor spread, Tensor floor, Tensor seed) -> Tensor",
    cuda.deviate,
    lambda spread, floor, seed: torch.empty_like(spread),
    gradients.deviate_backward,
    gradients.deviate_setup,
)
_register(
    "deviate_backward(Tensor grad, Tensor spread, Tensor floor, Tensor seed) -> Tensor",
    cuda.deviate_backward,
    lambda grad, spread, floor, seed: torch.empty_like(spread),
)
