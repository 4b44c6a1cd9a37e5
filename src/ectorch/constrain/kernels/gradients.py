"""The gradients of the kernels, for eager calls and for the operators alike.

Eager calls are Functions of the old style, ``forward(ctx, ...)``: a setup_context of its own costs
as much as a kernel does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ectorch.constrain.kernels import cuda, plain
from ectorch.constrain.kernels.choose import grouped, is_eager, kernels_for
from ectorch.constrain.transforms import differentiate, differentiated_again


class Round(torch.autograd.Function):
    """`plain.round_to_grid`."""

    @staticmethod
    def forward(ctx: Any, weight, log_gaps, levels, noise, dtype):  # type: ignore[no-untyped-def]
        ctx.levels = levels
        ctx.save_for_backward(weight, log_gaps, noise)
        return kernels_for(weight, log_gaps).round_to_grid(weight, log_gaps, levels, noise, dtype)

    @staticmethod
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        return round_backward(ctx, grad)


def round_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weight, log_gaps, ctx.levels, noise, _ = inputs
    ctx.save_for_backward(weight, log_gaps, noise)


def round_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
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
    elif is_eager(weight, log_gaps) and type(grad) is Tensor:
        found = kernels_for(weight, log_gaps).by_step(grad, weight, log_gaps, levels, noise)
    else:
        found = torch.ops.ectorch.round_to_grid_by_step(grad, weight, log_gaps, levels, noise)
    return found


class RoundTogether(torch.autograd.Function):
    """`plain.round_to_grid` of several parameters, without noise."""

    @staticmethod
    def forward(ctx: Any, levels, dtype, *tensors):  # type: ignore[no-untyped-def]
        ctx.levels = levels
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        rows = zip(tensors, tensors[len(levels) :], levels, strict=False)
        return tuple(
            kernels_for(weight, log_gaps).round_to_grid(weight, log_gaps, many, None, dtype)
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


class Moments(torch.autograd.Function):
    """`plain.moments`."""

    @staticmethod
    def forward(ctx: Any, weight, log_gaps, levels):  # type: ignore[no-untyped-def]
        moments_setup(ctx, (weight, log_gaps, levels), ())
        return kernels_for(weight, log_gaps).moments(weight, log_gaps, levels)

    @staticmethod
    def backward(ctx: Any, *grads):  # type: ignore[no-untyped-def]
        return moments_backward(ctx, *grads)


def moments_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    weight, log_gaps, ctx.levels = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(weight, log_gaps)


def moments_backward(
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
    if is_eager(weight, log_gaps) and all(type(grad) is Tensor for grad in given):
        return *kernels_for(weight, log_gaps).moments_backward(*arguments), None
    return *torch.ops.ectorch.grid_moments_backward(*arguments), None


class Charge(torch.autograd.Function):
    """A zero that hands back `plain.charge_backward`: one node of many parameters."""

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


def charge_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    weights, log_gaps, ctx.levels, lengths, ctx.scales = inputs
    ctx.save_for_backward(*weights, *log_gaps, *lengths)


def charge_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    nothing = [None] * len(ctx.levels)
    return _charge_gradients(ctx, grad), nothing, None, nothing, None


def _charge_gradients(ctx: Any, grad: Tensor) -> list[Tensor]:
    many, again = len(ctx.levels), differentiated_again(grad)
    # linear in grad, and in nothing else
    tensors = [tensor.detach() if again else tensor for tensor in ctx.saved_tensors]
    weights, log_gaps, lengths = tensors[:many], tensors[many : 2 * many], tensors[2 * many :]
    if again:
        return plain.charge_backward(grad, weights, log_gaps, ctx.levels, lengths, ctx.scales)
    if type(grad) is Tensor and all(map(is_eager, weights, log_gaps)):
        rows = (weights, log_gaps, ctx.levels, lengths, ctx.scales)
        return grouped("charge_backward", *rows, first=(grad,))
    found = torch.ops.ectorch.grid_charge_backward(
        grad, weights, log_gaps, ctx.levels, lengths, ctx.scales
    )
    return list(found)


class Deviate(torch.autograd.Function):
    """`cuda.deviate`."""

    @staticmethod
    def forward(ctx: Any, spread, floor, seed):  # type: ignore[no-untyped-def]
        deviate_setup(ctx, (spread, floor, seed), None)
        return cuda.deviate(spread, floor, seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        return cuda.deviate_backward(grad, *ctx.saved_tensors), None, None


def deviate_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs)


def deviate_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return torch.ops.ectorch.deviate_backward(grad, *ctx.saved_tensors), None, None
