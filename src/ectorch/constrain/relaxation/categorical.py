"""The categorical relaxation, the paper's: every weight has a logit for every codebook value.

Probabilities ``p[k] = softmax(logits)[k]``, mean ``mu = sum_k p[k] w_k``, centred variance
``nu = sum_k p[k] (w_k - mu)^2``, histogram ``P_k = mean_i p[k, i]``. It costs ``levels`` numbers a
weight, and as many again in gradients and twice in Adam. The paper's abstract gives the idea; the
formulas are those of LR-nets (Shayer et al., 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from ectorch.constrain.codebook import Codebook
from ectorch.constrain.lengths import LengthRule, find_rule, free
from ectorch.constrain.relaxation.base import Variables
from ectorch.constrain.relaxation.rounding import uniform, uniform_noise
from ectorch.constrain.transforms import differentiate, differentiated_again, transformed

_LEAST = 0.05  # initial probability of all but the nearest level together, at least


@dataclass(frozen=True)
class Categorical:
    """See the module's text; `Relaxation` names what each method gives.

    The Parameter gives the initial logits and is not trained.

    Attributes:
        lengths: how code lengths follow from the histogram, a rule of
            `ectorch.constrain.lengths`; `free` is the entropy itself.
    """

    lengths: LengthRule = free
    trains_weight: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", find_rule(self.lengths))

    def extra_variables(self, weight: Tensor, codebook: Codebook) -> dict[str, Tensor]:
        """(levels, *shape) logits: a Gaussian around the weight, as wide as the gaps to its levels.

        By distance, since logits that match the mean alone may favour values far away.
        """
        values = codebook.values.reshape(-1, *[1] * weight.ndim)
        lower, _ = codebook.locate(weight)
        gap = codebook.dequantize(lower + 1) - codebook.dequantize(lower)
        wide = torch.promote_types(weight.dtype, torch.float32)  # squares overflow in float16
        away = (weight.to(wide) - values) / gap
        probabilities = torch.softmax(-2 * away.square(), 0)
        probabilities = probabilities.clamp(_LEAST / (codebook.levels - 1), 1 - _LEAST)
        return {"logits": probabilities.log().to(weight.dtype)}

    def nearest(self, variables: Variables, codebook: Codebook) -> Tensor:
        return self._straight_through(self.symbols(variables, codebook), variables, codebook)

    def sampled(
        self, variables: Variables, codebook: Codebook, generator: Generator | None = None
    ) -> Tensor:
        with torch.no_grad():
            probabilities = torch.softmax(variables["logits"], 0)
            noise = uniform(uniform_noise(variables["weight"], generator), variables["weight"])
            symbols = torch.zeros_like(noise, dtype=torch.int32)
            for probability in probabilities[:-1]:  # the distribution function, inverted
                symbols = symbols + (noise >= probability)
                noise = noise - probability
        return self._straight_through(symbols, variables, codebook)

    def _straight_through(
        self, symbols: Tensor, variables: Variables, codebook: Codebook
    ) -> Tensor:
        """Hard values that pass their gradient to the mean, and through it to the codebook."""
        mean, _ = self.moments(variables, codebook)
        return codebook.dequantize(symbols).detach() + (mean - mean.detach())

    def moments(self, variables: Variables, codebook: Codebook) -> tuple[Tensor, Tensor]:
        if transformed():
            return _moments(variables["logits"], codebook.values)
        apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = _Moments.apply
        mean, variance, _ = apply(variables["logits"], codebook.values)
        return mean, variance

    @torch.no_grad()
    def symbols(self, variables: Variables, codebook: Codebook) -> Tensor:
        first, *others = variables["logits"].detach()
        best, symbols = first.clone(), torch.zeros_like(first, dtype=torch.int64)
        for level, logits in enumerate(others, 1):  # argmax over the first dimension is slower
            symbols.masked_fill_(logits > best, level)
            best = torch.maximum(best, logits)
        return symbols

    def counts(self, variables: Variables, codebook: Codebook) -> Tensor:
        probabilities = torch.softmax(variables["logits"], 0)
        return probabilities.flatten(1).sum(1, dtype=torch.float64)

    def charge(self, variables: Variables, codebook: Codebook, lengths: Tensor) -> Tensor:
        return self.counts(variables, codebook) @ lengths.double()


def _moments(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    probabilities = torch.softmax(logits, 0)
    mean = torch.tensordot(values, probabilities, 1)
    deviation = values.reshape(-1, *[1] * mean.ndim) - mean
    return mean, (probabilities * deviation.square()).sum(0)


class _Moments(torch.autograd.Function):
    """`_moments` level by level: memory for the probabilities alone.

    d mean / d logit_k = p_k (v_k - mean), d variance / d logit_k = p_k ((v_k - mean)^2 - variance).
    """

    @staticmethod
    def forward(logits: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        probabilities = torch.softmax(logits, 0)
        mean, variance = torch.zeros_like(logits[0]), torch.zeros_like(logits[0])
        for probability, value in zip(probabilities, values, strict=True):
            mean.addcmul_(probability, value)
        for probability, value in zip(probabilities, values, strict=True):
            deviation = value - mean
            variance.addcmul_(probability * deviation, deviation)
        return mean, variance, probabilities

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, *output)

    @staticmethod
    def backward(ctx, by_mean, by_variance, _):  # type: ignore[no-untyped-def]
        logits, values, mean, variance, probabilities = ctx.saved_tensors
        if differentiated_again(by_mean, by_variance):
            return differentiate(_moments, (logits, values), (by_mean, by_variance))
        by_mean = torch.zeros_like(mean) if by_mean is None else by_mean
        by_logits, by_values = torch.empty_like(probabilities), torch.empty_like(values)
        for k, (probability, value) in enumerate(zip(probabilities, values, strict=True)):
            deviation = value - mean
            slope = by_mean * deviation
            pull = by_mean.clone()
            if by_variance is not None:
                slope.addcmul_(deviation * deviation - variance, by_variance)
                pull.addcmul_(deviation, by_variance, value=2)
            torch.mul(slope, probability, out=by_logits[k])
            by_values[k] = torch.dot(pull.reshape(-1), probability.reshape(-1))
        return by_logits, by_values
