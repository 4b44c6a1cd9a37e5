"""Values whose gradient passes straight through: to the weight, and to the codebook."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.kernels import ops, plain
from ectorch.constrain.transforms import transformed


def uniform_noise(weight: Tensor, generator: Generator | None) -> Tensor:
    """int16 of the weight's shape, uniform: four numbers from one draw, the draws cost most."""
    size = (-(-weight.numel() // 4),)
    draws = torch.randint(-(2**63), 2**63 - 1, size, generator=generator, device=weight.device)
    return draws.view(torch.int16)[: weight.numel()].view(weight.shape)


def uniform(noise: Tensor, weight: Tensor) -> Tensor:
    """`uniform_noise` as numbers in [0, 1), in steps of 2**-16, finer than half precision's."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    return noise.to(wide).mul_(2.0**-plain.NOISE_BITS).add_(0.5)


def rounded(weight: Tensor, codebook: Codebook, noise: Tensor | None) -> Tensor:
    """The nearest level's value, or with `uniform_noise` the upper one with probability t.

    Gradients are those of `straight_through`.
    """
    if codebook.is_grid and not transformed():
        return ops.round_to_grid(weight, codebook.log_gaps, codebook.levels, noise, codebook.dtype)
    if codebook.is_grid:
        log_gaps = codebook.log_gaps.detach()
        value = plain.round_to_grid(weight.detach(), log_gaps, codebook.levels, noise)
    else:
        lower, fraction = codebook.locate(weight)
        up = fraction > (0.5 if noise is None else uniform(noise, weight))
        value = codebook.values.detach()[lower + up]
    return straight_through(value, weight, codebook)


def straight_through(value: Tensor, weight: Tensor, codebook: Codebook) -> Tensor:
    """``value``, in the codebook's range and of no gradient, with gradients to weight and codebook.

    The gradient passes straight through to the weight, also out of range: an index is clipped,
    never w. It reaches the codebook through what rounding added, as in LSQ (Esser et al., 2020).
    """
    if not (torch.is_grad_enabled() or transformed()):
        return value
    if codebook.step is not None and not transformed():
        apply: Callable[..., Tensor] = _StraightThrough.apply
        return apply(value, weight, codebook.step)
    moved = _point(value, codebook) - _point(weight, codebook)
    # value + zero: the numbers are value's own bits
    return value + ((weight - weight.detach()) + (moved - moved.detach()))


def _point(weight: Tensor, codebook: Codebook) -> Tensor:
    """The weight as a point of its bracket, in range or beyond, that moves with the bracket."""
    lower, _ = codebook.locate(weight)
    below, above = codebook.values[lower], codebook.values[lower + 1]
    share = ((weight - below) / (above - below)).detach()
    return below + share * (above - below)


class _StraightThrough(torch.autograd.Function):
    """A value ``step * r`` of a weight ``step * u``: d/dw = 1, d/dstep = r - u, no curvature."""

    @staticmethod
    def forward(value: Tensor, weight: Tensor, step: Tensor) -> Tensor:
        return value.detach()  # no view: views of it are those of what has a gradient

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.save_for_backward(*inputs)  # the value is alive in the layer's product anyway

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        value, weight, step = (saved.detach() for saved in ctx.saved_tensors)
        return None, grad, plain.dot(grad, value - weight) / step
