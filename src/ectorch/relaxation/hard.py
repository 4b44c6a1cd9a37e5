"""Hard assignment: the baseline of EC2T (Marban et al., 2020) and ECQ (Becking et al., 2021).

A weight is assigned to ``argmin_k (w - w_k)^2 + strength * step^2 * L_k`` with ``L_k = -log2 P_k``;
gradients pass straight through. The rate acts through the assignment alone, so ``alpha`` changes
nothing here: ``strength`` is the knob.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ectorch.codebook import Codebook
from ectorch.entropy import LengthRule, bit_size, code_lengths, hard_counts, soft_counts
from ectorch.relaxation.base import Variables
from ectorch.relaxation.rounding import straight_through


@dataclass(frozen=True)
class Hard:
    """See the module's text; `Relaxation` names what each method gives.

    Attributes:
        lengths: how code lengths follow from the soft histogram of the weights.
        strength: lambda, in units of the smallest gap squared a bit.
    """

    lengths: LengthRule = "running_maximum"
    strength: float = 0.05

    def extra_variables(self, weight: Tensor, codebook: Codebook) -> dict[str, Tensor]:
        return {}

    def nearest(self, variables: Variables, codebook: Codebook) -> Tensor:
        weight = variables["weight"]
        lower, _ = codebook.locate(weight)
        below, above = codebook.dequantize(lower), codebook.dequantize(lower + 1)
        value = codebook.dequantize(self.symbols(variables, codebook))
        return straight_through(value, weight, below, above)

    def sampled(
        self, variables: Variables, codebook: Codebook, generator: Generator | None = None
    ) -> Tensor:
        """Nothing is random here: the same as `nearest`."""
        return self.nearest(variables, codebook)

    def moments(self, variables: Variables, codebook: Codebook) -> tuple[Tensor, Tensor]:
        value = self.nearest(variables, codebook)
        return value, torch.zeros_like(value)

    @torch.no_grad()
    def symbols(self, variables: Variables, codebook: Codebook) -> Tensor:
        weight, values = variables["weight"], codebook.values
        lower, fraction = codebook.locate(weight)
        lengths = code_lengths(
            soft_counts(lower, fraction, codebook.levels), codebook.zero, self.lengths
        )
        charges = self.strength * values.diff().min().square() * lengths.to(weight.dtype)
        best = torch.full_like(weight, torch.inf)
        symbols = torch.zeros_like(lower)
        for level in range(codebook.levels):  # a pass a level keeps memory free of their number
            cost = (weight - values[level]).square_().add_(charges[level])
            symbols.masked_fill_(cost < best, level)
            best = torch.minimum(best, cost)
        return symbols

    @torch.no_grad()
    def rate_bits(self, variables: Variables, codebook: Codebook) -> Tensor:
        """The entropy of the assignment; it has no gradient."""
        return bit_size(hard_counts(self.symbols(variables, codebook), codebook.levels))
