"""The bracket relaxation: each weight is one of its two neighbours in the codebook.

One real number w a weight, in the network's own units. Between the levels ``a <= w <= b`` the
weight is b with probability ``t = (w - a) / (b - a)``, so that its mean is w and its variance
``(w - a)(b - w)``. It is the categorical model of the paper restricted to two entries; memory does
not depend on the number of levels. Ours, not the paper's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.counts import soft_bit_size, soft_counts
from ectorch.constrain.kernels import ops
from ectorch.constrain.lengths import LengthRule, find_rule, isotonic
from ectorch.constrain.relaxation.base import Parameters, Variables
from ectorch.constrain.relaxation.rounding import rounded, straight_through, uniform_noise
from ectorch.constrain.transforms import transformed


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
        return rounded(variables["weight"], codebook, None)

    def sampled(
        self, variables: Variables, codebook: Codebook, generator: Generator | None = None
    ) -> Tensor:
        weight = variables["weight"]
        return rounded(weight, codebook, uniform_noise(weight, generator))

    def moments(self, variables: Variables, codebook: Codebook) -> tuple[Tensor, Tensor]:
        weight = variables["weight"]
        if codebook.is_grid and not transformed():
            return ops.moments(weight, codebook.log_gaps, codebook.levels)
        ends = codebook.values.detach()
        mean = straight_through(weight.detach().clamp(ends[0], ends[-1]), weight, codebook)
        return mean, _variance(weight, codebook)

    def symbols(self, variables: Variables, codebook: Codebook) -> Tensor:
        return codebook.quantize(variables["weight"])

    def counts(self, variables: Variables, codebook: Codebook) -> Tensor:
        return self.counts_together([(variables, codebook)])[0]

    def charge(self, variables: Variables, codebook: Codebook, lengths: Tensor) -> Tensor:
        return self.charge_together([(variables, codebook)], [lengths], [1.0])

    def nearest_together(self, of: Parameters) -> list[Tensor]:
        if _on_grids(of):
            return ops.round_together(*_rows(of), of[0][1].dtype)
        return [self.nearest(*one) for one in of]

    def counts_together(self, of: Parameters) -> list[Tensor]:
        if _on_grids(of):
            return ops.counts(*_rows(of))
        return [soft_counts(own["weight"], book.levels, book.locate) for own, book in of]

    def charge_together(
        self, of: Parameters, lengths: Sequence[Tensor], scales: Sequence[float]
    ) -> Tensor:
        if _on_grids(of):
            return ops.charge(*_rows(of), lengths, scales)
        charges = [
            scale * soft_bit_size(own["weight"], book.gaps, bits, book.interval)
            for (own, book), bits, scale in zip(of, lengths, scales, strict=True)
        ]
        return torch.stack(charges).sum()


def _on_grids(of: Parameters) -> bool:
    """Whether there are kernels for all of them."""
    return all(book.is_grid for _, book in of) and not transformed()


def _rows(of: Parameters) -> tuple[list[Tensor], list[Tensor], list[int]]:
    weights = [variables["weight"] for variables, _ in of]
    return weights, [book.log_gaps for _, book in of], [book.levels for _, book in of]


def _variance(weight: Tensor, codebook: Codebook) -> Tensor:
    """``(w - a)(b - w)`` between neighbours a and b; 0 beyond the ends of the codebook."""
    values = codebook.values
    lower, _ = codebook.locate(weight)
    below, above = values[lower], values[lower + 1]
    inside = (weight >= values[0]) & (weight <= values[-1])
    return torch.where(inside, ((weight - below) * (above - weight)).clamp(min=0), 0.0)
