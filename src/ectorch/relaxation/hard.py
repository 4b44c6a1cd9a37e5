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
from ectorch.entropy import hard_counts, soft_counts
from ectorch.lengths import LengthRule, find_rule, running_maximum
from ectorch.relaxation.base import Variables
from ectorch.relaxation.rounding import straight_through


@dataclass(frozen=True)
class Hard:
    """See the module's text; `Relaxation` names what each method gives.

    Attributes:
        lengths: how code lengths follow from the soft histogram, a rule of `ectorch.lengths`.
        strength: lambda, in units of the smallest gap squared a bit.
    """

    lengths: LengthRule = running_maximum
    strength: float = 0.05

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", find_rule(self.lengths))

    def extra_variables(self, weight: Tensor, codebook: Codebook) -> dict[str, Tensor]:
        return {}

    def nearest(self, variables: Variables, codebook: Codebook) -> Tensor:
        value = codebook.dequantize(self.symbols(variables, codebook)).detach()
        return straight_through(value, variables["weight"], codebook)

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
        values = codebook.values.double()
        counts = soft_counts(variables["weight"], codebook.levels, codebook.locate)
        charges = self.lengths(counts, codebook.zero) * values.diff().min().square()
        edges, levels = _cheapest(values.tolist(), (self.strength * charges).tolist())
        weight = variables["weight"]
        place = torch.bucketize(weight.contiguous(), weight.new_tensor(edges), out_int32=True)
        return torch.tensor(levels, device=weight.device)[place]

    def counts(self, variables: Variables, codebook: Codebook) -> Tensor:
        return hard_counts(self.symbols(variables, codebook), codebook.levels).double()

    def charge(self, variables: Variables, codebook: Codebook, lengths: Tensor) -> Tensor:
        """The rate has no gradient: it acts through the assignment."""
        return torch.zeros((), dtype=torch.float64, device=lengths.device)


def _cheapest(values: list[float], charges: list[float]) -> tuple[list[float], list[int]]:
    """Where ``argmin_k (w - values[k])^2 + charges[k]`` changes with w, and its levels between.

    The square of w is common to all, so the minimum is the lower envelope of straight lines.
    """
    edges: list[float] = []
    levels = [0]
    for k in range(1, len(values)):
        while True:
            rise = charges[k] + values[k] ** 2 - charges[levels[-1]] - values[levels[-1]] ** 2
            edge = rise / (2 * (values[k] - values[levels[-1]]))
            if not edges or edge > edges[-1]:
                break
            edges.pop()
            levels.pop()
        edges.append(edge)
        levels.append(k)
    return edges, levels
