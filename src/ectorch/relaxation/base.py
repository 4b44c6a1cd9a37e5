"""What a relaxation has to offer: any object of this shape can be a `Config.relaxation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Generator, Tensor

from ectorch.codebook import Codebook

Variables = Mapping[str, Tensor]
"""The trained tensors of one constrained parameter; "weight" is the network's own Parameter."""


@runtime_checkable
class Relaxation(Protocol):
    """Turns "which codebook entry is this weight" into something with a gradient.

    All methods are functions of their arguments; an instance holds settings only. Gradients reach
    every variable; the codebook gets gradients from the loss, never from the rate.
    """

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

    def rate_bits(self, variables: Variables, codebook: Codebook) -> Tensor:
        """() float64: the relaxed size of all weights in bits; training lowers it."""
