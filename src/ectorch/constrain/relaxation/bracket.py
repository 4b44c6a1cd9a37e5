"""The bracket relaxation: each weight is one of its two neighbours in the codebook.

One real number w a weight, in the network's own units. Between the levels ``a <= w <= b`` the
weight is b with probability ``t = (w - a) / (b - a)``, so that its mean is w and its variance
``(w - a)(b - w)``. It is the categorical model of the paper restricted to two entries; memory does
not depend on the number of levels. Ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.counts import soft_bit_size, soft_counts
from ectorch.constrain.lengths import LengthRule, find_rule, isotonic
from ectorch.constrain.relaxation.base import Variables
from ectorch.constrain.relaxation.rounding import rounded, straight_through, uniform_noise
from ectorch.constrain.transforms import differentiate, differentiated_again, transformed


@dataclass(frozen=True)
class Bracket:
    """See the module's text; `Relaxation` names what each method gives.

    Attributes:
        lengths: how code lengths follow from the soft histogram, a rule of
            `ectorch.constrain.lengths`.
    """

    lengths: LengthRule = isotonic
    trains_weight: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", find_rule(self.lengths))

    def extra_variables(self, weight: Tensor, codebook: Codebook) -> dict[str, Tensor]:
        return {}

    def nearest(self, variables: Variables, codebook: Codebook) -> Tensor:
        weight = variables["weight"]
        return straight_through(rounded(weight, codebook, None), weight, codebook)

    def sampled(
        self, variables: Variables, codebook: Codebook, generator: Generator | None = None
    ) -> Tensor:
        weight = variables["weight"]
        value = rounded(weight, codebook, uniform_noise(weight, generator))
        return straight_through(value, weight, codebook)

    def moments(self, variables: Variables, codebook: Codebook) -> tuple[Tensor, Tensor]:
        weight = variables["weight"]
        ends = codebook.values.detach()
        mean = straight_through(weight.detach().clamp(ends[0], ends[-1]), weight, codebook)
        if codebook.step is None or transformed():
            return mean, _variance(weight, codebook)
        apply: Callable[..., Tensor] = _VarianceOnGrid.apply
        return mean, apply(weight, codebook.step, codebook.levels)

    def symbols(self, variables: Variables, codebook: Codebook) -> Tensor:
        return codebook.quantize(variables["weight"])

    def counts(self, variables: Variables, codebook: Codebook) -> Tensor:
        return soft_counts(variables["weight"], codebook.levels, codebook.locate)

    def charge(self, variables: Variables, codebook: Codebook, lengths: Tensor) -> Tensor:
        return soft_bit_size(variables["weight"], codebook.gaps, lengths, codebook.interval)


def _variance(weight: Tensor, codebook: Codebook) -> Tensor:
    """``(w - a)(b - w)`` between neighbours a and b; 0 beyond the ends of the codebook."""
    values = codebook.values
    lower, _ = codebook.locate(weight)
    below, above = values[lower], values[lower + 1]
    inside = (weight >= values[0]) & (weight <= values[-1])
    return torch.where(inside, ((weight - below) * (above - weight)).clamp(min=0), 0.0)


class _VarianceOnGrid(torch.autograd.Function):
    """`_variance` on a grid.

    With ``a = step * k`` and ``w = step * (k + t)``:  d/dw = step (1 - 2 t),
    d/dstep = step (t (2 k + 1) - k). Only the weight is kept for the way back.
    """

    @staticmethod
    def forward(weight: Tensor, step: Tensor, levels: int) -> Tensor:
        share, _, _ = _share(weight, Codebook(levels, step))
        return (1 - share).mul_(share).mul_(step.square()).to(weight.dtype)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        weight, step, ctx.levels = inputs
        ctx.save_for_backward(weight, step)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        weight, step = ctx.saved_tensors
        if differentiated_again(grad):

            def plain(weight: Tensor, step: Tensor) -> tuple[Tensor]:
                return (_variance(weight, Codebook(ctx.levels, step)),)

            return *differentiate(plain, (weight, step), (grad,)), None
        share, below, inside = _share(weight, Codebook(ctx.levels, step))
        grad = grad * inside.mul_(step)
        to_step = (2 * below).add_(1).mul_(share).sub_(below)
        by_step = torch.dot(grad.reshape(-1), to_step.reshape(-1))
        to_weight = grad.mul_(share.mul_(-2).add_(1))
        return to_weight.to(weight.dtype), by_step.to(step.dtype), None


def _share(weight: Tensor, grid: Codebook) -> tuple[Tensor, Tensor, Tensor]:
    """t and k, and 1 or 0: whether the weight is within the grid."""
    low, high = grid.multiples
    position = grid.in_steps(weight)
    clipped = position.clamp(low, high)
    inside = position.eq_(clipped)
    below = clipped.floor().clamp_(max=high - 1)
    return clipped.sub_(below), below, inside
