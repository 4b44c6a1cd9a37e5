"""The kernels as operators of torch, with gradients: ``torch.ops.ectorch``.

Compilers, exporters and dispatch modes see one operator each (fake, autograd and vmap are
registered). Eager calls go round the dispatcher, which costs more than a small kernel does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ectorch.constrain.kernels import cuda, native, plain
from ectorch.constrain.transforms import differentiate, differentiated_again

_LIBRARY: Any = torch.library.Library("ectorch", "DEF")  # type: ignore[no-untyped-call]
_PLAIN_TYPES = (Tensor, nn.Parameter)


def kernels_for(weight: Tensor) -> ModuleType:
    """The fastest kernels that serve a tensor; `plain` serves all."""
    for kernels in (native, cuda):
        if kernels.serves(weight):
            return kernels
    return plain


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
    if _is_eager(weight, log_gaps):
        found: Tensor = _apply(_Round, *arguments)
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
    if len(weights) > 1 and all(map(_is_eager, weights, log_gaps)):
        return list(_apply(_RoundTogether, levels, dtype, *weights, *log_gaps))
    return [round_to_grid(*one, None, dtype) for one in zip(weights, log_gaps, levels, strict=True)]


def moments(weight: Tensor, log_gaps: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """`plain.moments`, with the gradients of `plain.moments_backward`."""
    if _is_eager(weight, log_gaps):
        mean, variance = _apply(_Moments, weight, log_gaps, levels)
    else:
        mean, variance = torch.ops.ectorch.grid_moments(weight, log_gaps, levels)
    return mean, variance


@torch.no_grad()
def counts(
    weights: Sequence[Tensor], log_gaps: Sequence[Tensor], levels: Sequence[int]
) -> list[Tensor]:
    """`plain.counts` of many parameters of one device."""
    if all(map(_is_eager, weights, log_gaps)):
        return list(_grouped("counts", weights, log_gaps, levels))
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
    if all(map(_is_eager, weights, log_gaps)):
        found: Tensor = _apply(_Charge, *given, *tensors)
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
    if _is_eager(spread, seed):
        found: Tensor = _apply(_Deviate, spread, floor, seed)
    else:
        found = torch.ops.ectorch.deviate(spread, floor, seed)
    return found


def _is_eager(weight: Tensor, log_gaps: Tensor) -> bool:
    """Whether memory can be handed to a kernel as it stands; torch.func's is with the callers."""
    if type(weight) not in _PLAIN_TYPES or type(log_gaps) not in _PLAIN_TYPES:
        return False
    return not torch.compiler.is_compiling()


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Any:
    apply: Callable[..., Any] = function.apply
    return apply(*arguments)


class _Round(torch.autograd.Function):
    """Old style, ``forward(ctx, ...)``: a setup_context of its own costs as much as the kernel."""

    @staticmethod
    def forward(ctx: Any, weight, log_gaps, levels, noise, dtype):  # type: ignore[no-untyped-def]
        ctx.levels = levels
        ctx.save_for_backward(weight, log_gaps, noise)
        return kernels_for(weight).round_to_grid(weight, log_gaps, levels, noise, dtype)

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        return _round_backward(ctx, grad)


def _round_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, log_gaps, ctx.levels, noise, _ = inputs
    ctx.save_for_backward(weight, log_gaps, noise)


def _round_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    weight, log_gaps, noise = ctx.saved_tensors
    grad = grad.to(weight.dtype)
    needed = ctx.needs_input_grad[1]
    to_book = _by_step(grad, weight, log_gaps, ctx.levels, noise) if needed else None
    return grad, to_book, None, None, None


def _by_step(
    grad: Tensor, weight: Tensor, log_gaps: Tensor, levels: int, noise: Tensor | None = None
) -> Tensor:
    if differentiated_again(grad):  # through the exponential of the log gap, and grad itself
        found = plain.by_step(grad, weight.detach(), log_gaps, levels, noise)
    elif _is_eager(weight, log_gaps) and type(grad) is Tensor:
        found = kernels_for(weight).by_step(grad, weight, log_gaps, levels, noise)
    else:
        found = torch.ops.ectorch.round_to_grid_by_step(grad, weight, log_gaps, levels, noise)
    return found


class _RoundTogether(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, levels, dtype, *tensors):  # type: ignore[no-untyped-def]
        ctx.levels = levels
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        rows = zip(tensors, tensors[len(levels) :], levels, strict=False)
        return tuple(
            kernels_for(weight).round_to_grid(weight, log_gaps, many, None, dtype)
            for weight, log_gaps, many in rows
        )

    @staticmethod
    def backward(ctx: Any, *grads):  # type: ignore[no-untyped-def]
        many, tensors = len(ctx.levels), ctx.saved_tensors  # asked once, for checkpointing
        weights, log_gaps = tensors[:many], tensors[many:]
        to_weights: list[Tensor | None] = [None] * many
        to_books: list[Tensor | None] = [None] * many
        for at, grad in enumerate(grads):
            if grad is None:
                continue
            to_weights[at] = grad = grad.to(weights[at].dtype)
            if ctx.needs_input_grad[2 + many + at]:
                to_books[at] = _by_step(grad, weights[at], log_gaps[at], ctx.levels[at])
        return None, None, *to_weights, *to_books


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight, log_gaps, levels):  # type: ignore[no-untyped-def]
        _moments_setup(ctx, (weight, log_gaps, levels), ())
        return kernels_for(weight).moments(weight, log_gaps, levels)

    @staticmethod
    def backward(ctx: Any, *grads):  # type: ignore[no-untyped-def]
        return _moments_backward(ctx, *grads)


def _moments_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    weight, log_gaps, ctx.levels = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(weight, log_gaps)


def _moments_backward(
    ctx: Any, by_mean: Tensor | None, by_variance: Tensor | None
) -> tuple[Tensor | None, ...]:
    weight, log_gaps = ctx.saved_tensors
    given = [grad for grad in (by_mean, by_variance) if grad is not None]
    if not given:
        return None, None, None
    if differentiated_again(*given):

        def formula(weight: Tensor, log_gaps: Tensor) -> tuple[Tensor, Tensor]:
            return plain.moments_formula(weight, log_gaps, ctx.levels)

        return *differentiate(formula, (weight, log_gaps), (by_mean, by_variance)), None
    arguments = (by_mean, by_variance, weight.detach(), log_gaps.detach(), ctx.levels)
    if _is_eager(weight, log_gaps) and all(type(grad) is Tensor for grad in given):
        return *kernels_for(weight).moments_backward(*arguments), None
    return *torch.ops.ectorch.grid_moments_backward(*arguments), None


class _Charge(torch.autograd.Function):
    """One node of many parameters."""

    @staticmethod
    def forward(ctx: Any, levels, scales, *tensors):  # type: ignore[no-untyped-def]
        ctx.levels, ctx.scales = levels, scales
        ctx.save_for_backward(*tensors)
        return tensors[0].new_zeros((), dtype=torch.float64)

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        many = len(ctx.levels)
        found = _charge_gradients(ctx, grad)
        return None, None, *found, *(None,) * (2 * many)


def _charge_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weights, log_gaps, ctx.levels, lengths, ctx.scales = inputs
    ctx.save_for_backward(*weights, *log_gaps, *lengths)


def _charge_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    nothing = [None] * len(ctx.levels)
    return _charge_gradients(ctx, grad), nothing, None, nothing, None


def _charge_gradients(ctx: Any, grad: Tensor) -> list[Tensor]:
    many = len(ctx.levels)
    tensors = [*ctx.saved_tensors]
    if differentiated_again(grad):  # linear in grad, and in nothing else
        tensors = [tensor.detach() for tensor in tensors]
    weights, log_gaps, lengths = tensors[:many], tensors[many : 2 * many], tensors[2 * many :]
    if differentiated_again(grad):
        return plain.charge_backward(grad, weights, log_gaps, ctx.levels, lengths, ctx.scales)
    if type(grad) is Tensor and all(map(_is_eager, weights, log_gaps)):
        rows = (weights, log_gaps, ctx.levels, lengths, ctx.scales)
        return list(_grouped("charge_backward", *rows, first=(grad,)))
    found = torch.ops.ectorch.grid_charge_backward(
        grad, weights, log_gaps, ctx.levels, lengths, ctx.scales
    )
    return list(found)


class _Deviate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spread, floor, seed):  # type: ignore[no-untyped-def]
        _deviate_setup(ctx, (spread, floor, seed), None)
        return cuda.deviate(spread, floor, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        return cuda.deviate_backward(grad, *ctx.saved_tensors), None, None


def _deviate_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def _deviate_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return torch.ops.ectorch.deviate_backward(grad, *ctx.saved_tensors), None, None


def _grouped(name: str, *rows: Sequence[Any], first: tuple[Any, ...] = ()) -> list[Tensor]:
    """A kernel of many parameters, called once for all that the same kernels serve."""
    by_kernels: dict[ModuleType, list[int]] = {}
    for at, weight in enumerate(rows[0]):
        by_kernels.setdefault(kernels_for(weight), []).append(at)
    if len(by_kernels) == 1:
        (kernels,) = by_kernels
        found: list[Tensor] = getattr(kernels, name)(*first, *rows)
        return found
    filled: dict[int, Tensor] = {}
    for kernels, places in by_kernels.items():
        some = ([row[at] for at in places] for row in rows)
        filled |= dict(zip(places, getattr(kernels, name)(*first, *some), strict=True))
    return [filled[at] for at in range(len(rows[0]))]


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


_register(
    "round_to_grid(Tensor weight, Tensor log_gaps, int levels, Tensor? noise=None, "
    "ScalarType? dtype=None) -> Tensor",
    lambda weight, *rest: kernels_for(weight).round_to_grid(weight, *rest),
    lambda weight, log_gaps, levels, noise=None, dtype=None: torch.empty_like(weight, dtype=dtype),
    _round_backward,
    _round_setup,
)
_register(
    "round_to_grid_by_step(Tensor grad, Tensor weight, Tensor log_gaps, int levels, "
    "Tensor? noise=None) -> Tensor",
    lambda grad, weight, *rest: kernels_for(weight).by_step(grad, weight, *rest),
    lambda grad, weight, log_gaps, levels, noise=None: torch.empty_like(log_gaps),
)
_register(
    "grid_moments(Tensor weight, Tensor log_gaps, int levels) -> (Tensor, Tensor)",
    lambda weight, *rest: kernels_for(weight).moments(weight, *rest),
    lambda weight, log_gaps, levels: (torch.empty_like(weight), torch.empty_like(weight)),
    _moments_backward,
    _moments_setup,
)
_register(
    "grid_moments_backward(Tensor? by_mean, Tensor? by_variance, Tensor weight, Tensor log_gaps, "
    "int levels) -> (Tensor, Tensor)",
    lambda by_mean, by_variance, weight, *rest: kernels_for(weight).moments_backward(
        by_mean, by_variance, weight, *rest
    ),
    lambda by_mean, by_variance, weight, log_gaps, levels: (
        torch.empty_like(weight),
        torch.empty_like(log_gaps),
    ),
)
_register(
    "grid_counts(Tensor[] weights, Tensor[] log_gaps, int[] levels) -> Tensor[]",
    lambda *rows: _grouped("counts", *rows),
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
    _charge_backward,
    _charge_setup,
)
_register(
    "grid_charge_backward(Tensor grad, Tensor[] weights, Tensor[] log_gaps, int[] levels, "
    "Tensor[] lengths, float[] scales) -> Tensor[]",
    lambda grad, *rows: _grouped("charge_backward", *rows, first=(grad,)),
    lambda grad, weights, *rest: [torch.empty_like(weight) for weight in weights],
)
_register(
    "deviate(Tensor spread, Tensor floor, Tensor seed) -> Tensor",
    cuda.deviate,
    lambda spread, floor, seed: torch.empty_like(spread),
    _deviate_backward,
    _deviate_setup,
)
_register(
    "deviate_backward(Tensor grad, Tensor spread, Tensor floor, Tensor seed) -> Tensor",
    cuda.deviate_backward,
    lambda grad, spread, floor, seed: torch.empty_like(spread),
)
