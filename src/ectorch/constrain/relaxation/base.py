"""What a relaxation has to offer: any object of this shape can be a `Config.relaxation`."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.lengths import LengthRule

Variables = Mapping[str, Tensor]
"""The trained tensors of one constrained parameter; "weight" is the network's own Parameter."""
Parameters = Sequence[tuple[Variables, Codebook]]
"""Many constrained parameters, which kernels serve at once."""


@runtime_checkable
class Relaxation(Protocol):
    """Turns "which codebook entry is this weight" into something with a gradient.

    All methods are functions of their arguments; an instance holds settings only. Gradients reach
    every variable; the codebook gets gradients from the loss, never from the rate.

    One that is hashable may have three methods more, which are then asked in place of `nearest`,
    `counts` and `charge`, once for parameters whose relaxations are equal:
    ``nearest_together(of)``, ``counts_together(of)`` and ``charge_together(of, lengths, scales)``,
    see the functions of these names.

    Attributes:
        lengths: the rule of `ectorch.constrain.lengths` by which the levels are charged.
        trains_weight: whether the Parameter itself is trained, each weight near its level; False
            where it only gives initial values.
    """

    @property
    def lengths(self) -> LengthRule: ...

    @property
    def trains_weight(self) -> bool: ...

    def extra_variables(self, weight: Tensor, codebook: Codebook) -> dict[str, Tensor]:
        """Initial values of what is trained beside the weight, by a name of their own."""

    def nearest(self, variables: Variables, codebook: Codebook) -> Tensor:
        """The hard weight, values of the codebook, with a straight-through gradient."""

    def sampled(
        self, variables: Variables, codebook: Codebook, generator: Generator | None = None
    ) -> Tensor:
        """A random weight, values of the codebook, with a straight-through gradient."""

    def moments(self, variables: Variables, codebook: Codebook) -> tuple[Tensor, Tensor]:
        """Mean and variance of each weight, both of the weight's shape."""

    def symbols(self, variables: Variables, codebook: Codebook) -> Tensor:
        """The hard decision: int64 in ``[0, levels)``; `nearest` holds their values."""

    def counts(self, variables: Variables, codebook: Codebook) -> Tensor:
        """(levels,) float64: how many weights to expect on each level."""

    def charge(self, variables: Variables, codebook: Codebook, lengths: Tensor) -> Tensor:
        """() float64 of any value, with the gradient of the rate ``counts @ lengths``.

        ``lengths``, (levels,) bits, are fixed: those of the counts of this step, or of some before.
        """


def lacking(relaxation: object) -> list[str]:
    """What a `Relaxation` has and an object has not; an instance, where it is a type."""
    if isinstance(relaxation, type):
        return ["an instance"]
    members = [name for name in vars(Relaxation) if not name.startswith("_")]
    return [name for name in members if not hasattr(relaxation, name)]


def group_of(relaxation: Any) -> Hashable:
    """What relaxations have in common that may be asked together."""
    return relaxation if hasattr(relaxation, "counts_together") else id(relaxation)


def nearest_together(relaxation: Any, of: Parameters) -> list[Tensor]:
    """`Relaxation.nearest` of each."""
    if hasattr(relaxation, "nearest_together"):
        found: list[Tensor] = relaxation.nearest_together(of)
        return found
    return [relaxation.nearest(*one) for one in of]


def counts_together(relaxation: Any, of: Parameters) -> list[Tensor]:
    """`Relaxation.counts` of each; NaN where a weight is NaN or infinite."""
    if hasattr(relaxation, "counts_together"):
        found: list[Tensor] = relaxation.counts_together(of)
        return found
    finite = [0.0 * variables["weight"].sum(dtype=torch.float64) for variables, _ in of]
    return [relaxation.counts(*one) + zero for one, zero in zip(of, finite, strict=True)]


def charge_together(
    relaxation: Any, of: Parameters, lengths: Sequence[Tensor], scales: Sequence[float]
) -> Tensor:
    """() float64 of any value, with the gradient of the sum of each scaled `Relaxation.charge`."""
    if hasattr(relaxation, "charge_together"):
        found: Tensor = relaxation.charge_together(of, lengths, scales)
        return found
    charges = [relaxation.charge(*one, bits) for one, bits in zip(of, lengths, strict=True)]
    return torch.stack([scale * each for scale, each in zip(scales, charges, strict=True)]).sum()
