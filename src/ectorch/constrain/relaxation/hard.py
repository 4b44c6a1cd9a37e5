"""Hard assignment: the baseline of EC2T (Marban et al., 2020) and ECQ (Becking et al., 2021).

A weight is assigned to ``argmin_k (w - w_k)^2 + strength * step^2 * L_k`` with ``L_k = -log2 P_k``;
gradients pass straight through. The rate acts through the assignment alone, so ``alpha`` changes
nothing here: ``strength`` is the knob.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.counts import hard_counts, soft_counts
from ectorch.constrain.lengths import LengthRule, chunks, find_rule, running_maximum
from ectorch.constrain.relaxation.base import Variables
from ectorch.constrain.relaxation.rounding import straight_through


@dataclass(frozen=True)
class Hard:
    """See the module's text; `Relaxation` names what each method gives.

    Attributes:
        lengths: how code lengths follow from the soft histogram, a rule of
            `ectorch.constrain.lengths`.
        strength: lambda, in units of the smallest gap squared a bit.
    """

    lengths: LengthRule = running_maximum
    strength: float = 0.05
    trains_weight: ClassVar[bool] = True

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
        weight, values = variables["weight"].detach(), codebook.values.detach().double()
        counts = soft_counts(weight, codebook.levels, codebook.locate)
        charges = self.lengths(counts, codebook.zero) * values.diff().min().square()
        if weight.device.type != "cpu" or torch.compiler.is_compiling():
            edges = _edges_by_bounds(values, self.strength * charges)
        else:
            apply: Callable[..., Tensor] = _Edges.apply
            edges = apply(values, self.strength * charges)
        edges = edges.to(weight.dtype)
        return torch.bucketize(weight.contiguous(), edges)

    def counts(self, variables: Variables, codebook: Codebook) -> Tensor:
        return hard_counts(self.symbols(variables, codebook), codebook.levels).double()

    def charge(self, variables: Variables, codebook: Codebook, lengths: Tensor) -> Tensor:
        """The rate has no gradient: it acts through the assignment."""
        return torch.zeros((), dtype=torch.float64, device=lengths.device)


class _Edges(torch.autograd.Function):
    """`_edges` of tensors: a loop on the host, under vmap one network after another."""

    @staticmethod
    def forward(values: Tensor, charges: Tensor) -> Tensor:
        return values.new_tensor(_edges(values.tolist(), charges.tolist()))

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info, in_dims, *inputs):  # type: ignore[no-untyped-def]
        rows = (
            [tensor] * info.batch_size if dim is None else tensor.unbind(dim)
            for tensor, dim in zip(inputs, in_dims, strict=True)
        )
        return torch.stack([*map(_Edges.apply, *rows)]), 0


def _edges_by_bounds(values: Tensor, charges: Tensor) -> Tensor:
    """`_edges` without a look at the values, which would wait for a device.

    With ``c(i, j)`` where level j becomes cheaper than i < j, a weight prefers some level beyond k
    from ``max over i <= k of min over j > k of c(i, j)`` on.

    Args:
        values, charges: (levels,) float64.
    """
    cost, place = charges + values.square(), torch.arange(len(values), device=values.device)
    found = torch.full_like(values[1:], -torch.inf)
    for rows in chunks(len(values), len(values)):
        gap = values - values[rows, None]
        cross = (cost - cost[rows, None]) / (2 * gap)
        beyond = (place > place[rows, None]) & (gap > 0)
        least = cross.where(beyond, torch.inf).flip(-1).cummin(-1).values.flip(-1)[:, 1:]
        least = least.where(place[:-1] >= place[rows, None], -torch.inf)
        found = torch.maximum(found, least.amax(0))
    return found


def _edges(values: list[float], charges: list[float]) -> list[float]:
    """Where ``argmin_k (w - values[k])^2 + charges[k]`` rises with w past each level but the last.

    The square of w is common to all, so the minimum is the lower envelope of straight lines. Levels
    that are never the cheapest have no room between two edges.
    """
    edges: list[float] = []
    levels = [0]
    for k in range(1, len(values)):
        while True:
            rise = charges[k] + values[k] ** 2 - charges[levels[-1]] - values[levels[-1]] ** 2
            gap = values[k] - values[levels[-1]]  # 0 where half precision runs out of numbers
            edge = rise / (2 * gap) if gap else math.inf
            if not edges or edge > edges[-1]:
                break
            edges.pop()
            levels.pop()
        edges.append(edge)
        levels.append(k)
    steps = zip(levels, [*levels[1:], len(values) - 1], [*edges, math.inf], strict=True)
    return [edge for here, after, edge in steps for _ in range(here, after)]
