"""The bracket relaxation: each weight is one of its two neighbours in the codebook.

One real number w a weight, in the network's own units. Between the levels ``a <= w <= b`` the
weight is b with probability ``t = (w - a) / (b - a)``, so that its mean is w and its variance
``(w - a)(b - w)``. It is the categorical model of the paper restricted to two entries; memory does
not depend on the number of levels. Ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ectorch.codebook import Codebook
from ectorch.entropy import LengthRule, code_lengths, soft_bit_size, soft_counts
from ectorch.relaxation.base import Variables


@dataclass(frozen=True)
class Bracket:
    """See the module's text; `Relaxation` names what each method gives.

    Attributes:
        lengths: how code lengths follow from the soft histogram, see `code_lengths`.
    """

    lengths: LengthRule = "running_maximum"

    def extra_variables(self, weight: Tensor, codebook: Codebook) -> dict[str, Tensor]:
        return {}

    def nearest(self, variables: Variables, codebook: Codebook) -> Tensor:
        return _round(variables["weight"], codebook, None)

    def sampled(
        self, variables: Variables, codebook: Codebook, generator: Generator | None = None
    ) -> Tensor:
        weight = variables["weight"]
        noise = torch.rand(
            weight.shape, generator=generator, dtype=weight.dtype, device=weight.device
        )
        return _round(weight, codebook, noise)

    def moments(self, variables: Variables, codebook: Codebook) -> tuple[Tensor, Tensor]:
        weight = variables["weight"]
        lower, _ = codebook.locate(weight)
        below, above = codebook.dequantize(lower), codebook.dequantize(lower + 1)
        mean = weight + (weight.clamp(codebook.values[0], codebook.values[-1]) - weight).detach()
        return mean, ((mean - below) * (above - mean)).clamp(min=0)

    def symbols(self, variables: Variables, codebook: Codebook) -> Tensor:
        return codebook.quantize(variables["weight"])

    def rate_bits(self, variables: Variables, codebook: Codebook) -> Tensor:
        weight = variables["weight"]
        lower, fraction = codebook.locate(weight)
        counts = soft_counts(lower, fraction, codebook.levels)
        lengths = code_lengths(counts, codebook.zero, self.lengths)
        return soft_bit_size(weight, lower, fraction, codebook.values, lengths)


def _round(weight: Tensor, codebook: Codebook, noise: Tensor | None) -> Tensor:
    """Round to the nearest level, or up with probability t where uniform ``noise`` is given.

    The gradient passes straight through to the weight, also out of range: the index is clipped,
    never w. It reaches the codebook through what rounding added, as in LSQ (Esser et al., 2020).
    """
    if codebook.step is not None:
        low, high = -codebook.zero, codebook.levels - 1 - codebook.zero
        apply: Callable[..., Tensor] = _RoundOnGrid.apply
        return apply(weight, codebook.step, noise, low, high)
    lower, fraction = codebook.locate(weight)
    symbols = lower + (fraction > (0.5 if noise is None else noise))
    below, above = codebook.values[lower], codebook.values[lower + 1]
    between = below + fraction * (above - below)
    value = codebook.values[symbols]
    moved = value - between
    # value + zero: the numbers are the codebook's own bits, the gradients those of weight + moved
    return value.detach() + ((weight - weight.detach()) + (moved - moved.detach()))


class _RoundOnGrid(torch.autograd.Function):
    """``step * round(w / step)``; d/dw = 1, d/dstep = round(u) - u with u = w / step."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        weight: Tensor,
        step: Tensor,
        noise: Tensor | None,
        low: int,
        high: int,
    ) -> Tensor:
        position = weight / step
        index = position.round() if noise is None else (position + noise).floor_()
        index.clamp_(low, high)
        ctx.save_for_backward(position.sub_(index))
        return index.mul_(step).add_(0.0)  # + 0.0 turns -0.0 into +0.0

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (residual,) = ctx.saved_tensors
        return grad, -torch.dot(grad.reshape(-1), residual.reshape(-1)), None, None, None
