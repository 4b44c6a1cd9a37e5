"""The bracket relaxation: each weight is one of its two neighbours in the codebook.

One real number w a weight, in the network's own units. Between the levels ``a <= w <= b`` the
weight is b with probability ``t = (w - a) / (b - a)``, so that its mean is w and its variance
``(w - a)(b - w)``. It is the categorical model of the paper restricted to two entries; memory does
not depend on the number of levels. Ours, not the paper's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Generator, Tensor

from ectorch.codebook import Codebook
from ectorch.entropy import LengthRule, code_lengths, soft_bit_size, soft_counts
from ectorch.errors import ConfigError
from ectorch.relaxation.base import Variables
from ectorch.relaxation.rounding import round_to_level, straight_through


@dataclass(frozen=True)
class Bracket:
    """See the module's text; `Relaxation` names what each method gives.

    Attributes:
        lengths: how code lengths follow from the soft histogram, see `code_lengths`.
    """

    lengths: LengthRule = "isotonic"

    def __post_init__(self) -> None:
        allowed = get_args(LengthRule)
        if self.lengths not in allowed:
            raise ConfigError(f"lengths = {self.lengths!r}: expected one of {allowed}")

    def extra_variables(self, weight: Tensor, codebook: Codebook) -> dict[str, Tensor]:
        return {}

    def nearest(self, variables: Variables, codebook: Codebook) -> Tensor:
        return round_to_level(variables["weight"], codebook, None)

    def sampled(
        self, variables: Variables, codebook: Codebook, generator: Generator | None = None
    ) -> Tensor:
        weight = variables["weight"]
        noise = torch.rand(
            weight.shape, generator=generator, dtype=weight.dtype, device=weight.device
        )
        return round_to_level(weight, codebook, noise)

    def moments(self, variables: Variables, codebook: Codebook) -> tuple[Tensor, Tensor]:
        weight = variables["weight"]
        lower, fraction = codebook.locate(weight)
        below, above = codebook.dequantize(lower), codebook.dequantize(lower + 1)
        mean = straight_through(below + fraction * (above - below), weight, below, above)
        return mean, ((mean - below) * (above - mean)).clamp(min=0)

    def symbols(self, variables: Variables, codebook: Codebook) -> Tensor:
        return codebook.quantize(variables["weight"])

    def rate_bits(self, variables: Variables, codebook: Codebook) -> Tensor:
        weight = variables["weight"]
        lower, fraction = codebook.locate(weight)
        counts = soft_counts(lower, fraction, codebook.levels)
        lengths = code_lengths(counts, codebook.zero, self.lengths)
        return soft_bit_size(weight, lower, fraction, codebook.values, lengths)
