"""Rounding whose gradient passes straight through: to the weight, and to the codebook."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ectorch.codebook import Codebook


def round_to_level(weight: Tensor, codebook: Codebook, noise: Tensor | None) -> Tensor:
    """Round to the nearest level, or up with probability t where uniform ``noise`` is given.

    The gradient passes straight through to the weight, also out of range: the index is clipped,
    never w. It reaches the codebook through what rounding added, as in LSQ (Esser et al., 2020).
    """
    if codebook.step is not None:
        low, high = -codebook.zero, codebook.levels - 1 - codebook.zero
        apply: Callable[..., tuple[Tensor, Tensor]] = _RoundOnGrid.apply
        return apply(weight, codebook.step, noise, low, high)[0]
    lower, fraction = codebook.locate(weight)
    symbols = lower + (fraction > (0.5 if noise is None else noise))
    below, above = codebook.values[lower], codebook.values[lower + 1]
    return straight_through(codebook.values[symbols], weight, below, above)


def straight_through(value: Tensor, weight: Tensor, below: Tensor, above: Tensor) -> Tensor:
    """``value`` with the gradients of ``weight + (value - between)``.

    ``between`` is the weight as a point of its bracket, in range or beyond, that keeps its share
    when the bracket's ends move.
    """
    share = ((weight - below) / (above - below)).detach()
    moved = value - (below + share * (above - below))
    # value + zero: the numbers are value's own bits
    return value.detach() + ((weight - weight.detach()) + (moved - moved.detach()))


class _RoundOnGrid(torch.autograd.Function):
    """``step * round(w / step)``; d/dw = 1, d/dstep = round(u) - u with u = w / step."""

    @staticmethod
    def forward(
        weight: Tensor, step: Tensor, noise: Tensor | None, low: int, high: int
    ) -> tuple[Tensor, Tensor]:
        position = weight / step
        index = position.round() if noise is None else (position + noise).floor_()
        index.clamp_(low, high)
        residual = position.sub_(index)
        return index.mul_(step).add_(0.0), residual  # + 0.0 turns -0.0 into +0.0

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, grad, _):  # type: ignore[no-untyped-def]
        (residual,) = ctx.saved_tensors
        return grad, -torch.dot(grad.reshape(-1), residual.reshape(-1)), None, None, None
