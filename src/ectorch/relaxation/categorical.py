"""The categorical relaxation, the paper's: every weight has a logit for every codebook value.

Probabilities ``p[k] = softmax(logits)[k]``, mean ``mu = sum_k p[k] w_k``, centred variance
``nu = sum_k p[k] (w_k - mu)^2``, histogram ``P_k = mean_i p[k, i]``. It costs ``levels`` numbers a
weight, and as many again in gradients and twice in Adam. The paper's abstract gives the idea; the
formulas are those of LR-nets (Shayer et al., 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from ectorch.codebook import Codebook
from ectorch.entropy import LengthRule, code_lengths
from ectorch.relaxation.base import Variables

_LEAST = 0.05  # initial probability of all but the nearest level together, at least


@dataclass(frozen=True)
class Categorical:
    """See the module's text; `Relaxation` names what each method gives.

    The Parameter gives the initial logits and is not trained.

    Attributes:
        lengths: how code lengths follow from the histogram, see `code_lengths`; "free" is the
            entropy itself.
    """

    lengths: LengthRule = "free"

    def extra_variables(self, weight: Tensor, codebook: Codebook) -> dict[str, Tensor]:
        """(levels, *shape) logits: a Gaussian around the weight, as wide as the gaps to its levels.

        By distance, since logits that match the mean alone may favour values far away.
        """
        values = _column(codebook.values, weight)
        lower, _ = codebook.locate(weight)
        gap = codebook.dequantize(lower + 1) - codebook.dequantize(lower)
        probabilities = torch.softmax(-2 * ((weight - values) / gap).square(), 0)
        probabilities = probabilities.clamp(_LEAST / (codebook.levels - 1), 1 - _LEAST)
        return {"logits": probabilities.log()}

    def nearest(self, variables: Variables, codebook: Codebook) -> Tensor:
        mean, _ = self.moments(variables, codebook)
        return _straight_through(self.symbols(variables, codebook), mean, codebook)

    def sampled(
        self, variables: Variables, codebook: Codebook, generator: Generator | None = None
    ) -> Tensor:
        logits = variables["logits"].detach()
        noise = torch.empty_like(logits).exponential_(generator=generator)
        mean, _ = self.moments(variables, codebook)
        return _straight_through((logits - noise.log()).argmax(0), mean, codebook)  # Gumbel-max

    def moments(self, variables: Variables, codebook: Codebook) -> tuple[Tensor, Tensor]:
        probabilities = torch.softmax(variables["logits"], 0)
        values = _column(codebook.values, variables["weight"])
        mean = (probabilities * values).sum(0)
        return mean, (probabilities * (values - mean).square()).sum(0)

    def symbols(self, variables: Variables, codebook: Codebook) -> Tensor:
        return variables["logits"].argmax(0)

    def rate_bits(self, variables: Variables, codebook: Codebook) -> Tensor:
        probabilities = torch.softmax(variables["logits"], 0)
        counts = probabilities.flatten(1).sum(1, dtype=torch.float64)
        lengths = code_lengths(counts.detach(), codebook.zero, self.lengths)
        return counts @ lengths  # its gradient is that of n H: the terms through P cancel


def _column(values: Tensor, weight: Tensor) -> Tensor:
    """(levels,) as (levels, 1, ...), to broadcast against (levels, *weight.shape)."""
    return values.reshape(-1, *[1] * weight.ndim)


def _straight_through(symbols: Tensor, mean: Tensor, codebook: Codebook) -> Tensor:
    """Hard values that pass their gradient to the mean, and through it to the codebook."""
    return codebook.dequantize(symbols).detach() + (mean - mean.detach())
