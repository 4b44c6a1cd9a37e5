"""All tensors of a network at one slope: what a bit is worth is the same everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ectorch.posttrain.feedback import best_feedback_step, round_with_feedback
from ectorch.posttrain.grids import Rounded, best_step, round_to_grid, usual_step
from ectorch.posttrain.sensitivity import relative_power
from ectorch.posttrain.sites import Site
from ectorch.posttrain.statistics import Statistics

_STEP_HOLDS = 8.0  # steps are searched for at slopes that are so far apart


@dataclass
class Plan:
    """What is known of a network that is to be rounded.

    Attributes:
        sensitivities: by name, divergence for noise of a tensor's own power.
        statistics: by name, of layers with example inputs.
        measured: names of tensors whose sensitivity was.
        corrects: whether biases take over the mean of what rounding does to their layer.
    """

    sites: Sequence[Site]
    sensitivities: Mapping[str, float]
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    measured: Set[str] = frozenset()
    corrects: bool = False
    _ratios: dict[tuple[str, int], float] = field(default_factory=dict)

    def road(self, name: str) -> str:
        """How a tensor is rounded, see `ectorch.posttrain.report.Layer`."""
        if name not in self.measured:
            return "data-free"
        statistics = self.statistics.get(name)
        return "measured" if statistics is None or statistics.factor is None else "feedback"

    def start_slope(self, bits_per_weight: float) -> float:
        """Where a search for so many bits a weight begins: of Gaussian weights, by theory."""
        low, high = -80.0, 20.0
        numbers = sum(site.parameter.numel() for site in self.sites)
        for _ in range(60):
            slope = math.exp((low + high) / 2)
            bits = sum(self._expected_bits(site, slope) for site in self.sites)
            low, high = (
                (math.log(slope), high)
                if bits > bits_per_weight * numbers
                else (
                    low,
                    math.log(slope),
                )
            )
        return math.exp((low + high) / 2)

    def worth(self, slope: float) -> dict[str, float]:
        """By name, the squared error of a weight that a bit is worth."""
        return {
            site.name: slope / self.sensitivities[site.name] / relative_power(site.parameter)
            for site in self.sites
        }

    def _expected_bits(self, site: Site, slope: float) -> float:
        n = site.parameter.numel()
        noise = slope * n / (2 * math.log(2) * self.sensitivities[site.name])
        return n * max(0.0, 0.25 - 0.5 * math.log2(noise))

    @torch.no_grad()
    def round(self, slope: float) -> dict[str, Rounded]:
        """Every site, rounded.

        Args:
            slope: divergence that a bit is worth.
        """
        found, biases = {}, {}
        for site in self.sites:
            if site.parameter.ndim < 2:
                continue
            found[site.name] = rounded = self._round(site, site.parameter.detach(), slope)
            statistics = self.statistics.get(site.name)
            if self.corrects and site.bias is not None and statistics is not None:
                biases[id(site.bias)] = corrected_bias(site, rounded, statistics)
        for site in self.sites:
            if site.parameter.ndim < 2:
                value = biases.get(id(site.parameter), site.parameter.detach())
                found[site.name] = self._round(site, value, slope)
        return {site.name: found[site.name] for site in self.sites}

    def _round(self, site: Site, weight: Tensor, slope: float) -> Rounded:
        sensitivity, statistics = self.sensitivities[site.name], self.statistics.get(site.name)
        power = sensitivity * relative_power(site.parameter)
        if statistics is None or statistics.factor is None:
            own = slope / power
            step = self._step(site.name, slope, own, lambda near: best_step(weight, near))
            return round_to_grid(weight, step, own)
        read = site.readers[0][1]
        matrices = read.to_matrices(weight).cpu()
        # the measured divergence of noise is that of the output error it makes
        own = slope * statistics.trace / (power * weight.numel())
        factor, importance = statistics.factor, statistics.importance
        mean = factor.mean
        step = self._step(
            site.name,
            slope,
            own / mean,
            lambda near: best_feedback_step(matrices, factor, near * mean, importance),
        )
        rounded, _ = round_with_feedback(matrices, factor, own, step, importance)
        index = read.from_matrices(rounded.index, weight.shape)
        return Rounded(index.to(weight.device), rounded.step, rounded.bits)

    def _step(self, name: str, slope: float, own: float, search: Callable[[float], float]) -> float:
        """The step for ``own``, between those found at two slopes near by, which others share.

        So it moves with the slope without a jump, and whatever was asked before.
        """
        place = math.log(slope, _STEP_HOLDS)
        below, share = math.floor(place), place % 1
        ends = []
        for near in (below, below + 1):
            if (name, near) not in self._ratios:
                there = own * _STEP_HOLDS**near / slope
                self._ratios[name, near] = search(there) / usual_step(there)
            ends.append(math.log(self._ratios[name, near]))
        return math.exp((1 - share) * ends[0] + share * ends[1]) * usual_step(own)


def corrected_bias(site: Site, rounded: Rounded, statistics: Statistics) -> Tensor:
    """The bias of a layer that keeps the mean of its outputs where its weight is rounded."""
    assert site.bias is not None
    bias, weight = site.bias.detach(), site.parameter.detach()
    read = site.readers[0][1]
    if statistics.mean is None or read.axis is None:
        return bias
    error = read.to_matrices((weight - rounded.values(weight.dtype)).float().cpu())
    mean = torch.einsum("grc,gc->gr", error, statistics.mean).reshape(-1)
    return bias + mean.to(bias) if mean.shape == bias.shape else bias


def values_of(sites: Sequence[Site], rounded: Mapping[str, Rounded]) -> dict[nn.Parameter, Tensor]:
    """What each Parameter becomes."""
    return {
        site.parameter: rounded[site.name].values(site.parameter.dtype).to(site.parameter.device)
        for site in sites
    }
