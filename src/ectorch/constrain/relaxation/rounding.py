"""Values whose gradient passes straight through: to the weight, and to the codebook."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.counts import pieces
from ectorch.constrain.transforms import clamp_, transformed

_NOISE_BITS = 16


def uniform_noise(weight: Tensor, generator: Generator | None) -> Tensor:
    """Uniform in [0, 1), in steps of 2**-16: four numbers from one draw, the draws cost most."""
    size = (-(-weight.numel() // 4),)
    draws = torch.randint(-(2**63), 2**63 - 1, size, generator=generator, device=weight.device)
    dtype = torch.promote_types(weight.dtype, torch.float32)  # finer than half precision
    noise = draws.view(torch.int16)[: weight.numel()].to(dtype)
    return noise.mul_(2.0**-_NOISE_BITS).add_(0.5).view(weight.shape)


def rounded(weight: Tensor, codebook: Codebook, noise: Tensor | None) -> Tensor:
    """The nearest level's value, or with uniform ``noise`` the upper one with probability t.

    Detached: `straight_through` gives it gradients.
    """
    if codebook.step is not None:
        place = codebook.in_steps(weight)
        index = place.round_() if noise is None else (place + noise).floor_()
        index = clamp_(index, *codebook.multiples).to(weight.dtype)
        return index.mul_(codebook.step.detach()).add_(0.0)  # + 0.0 turns -0.0 into +0.0
    lower, fraction = codebook.locate(weight)
    return codebook.values.detach()[lower + (fraction > (0.5 if noise is None else noise))]


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
        parts = zip(pieces(grad), pieces(value), pieces(weight), strict=True)
        moved = torch.stack([torch.dot(by, after - before) for by, after, before in parts]).sum()
        return None, grad, moved / step
