"""How much each tensor may be hurt: the divergence that noise in it makes, measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ectorch.posttrain.divergence import Divergence, Output
from ectorch.posttrain.sites import Site
from ectorch.rewrite.batches import Run

NOISE = 0.1  # standard deviation, as a share of the tensor's root mean square
_LEAST_SHARE = 1e-6  # of the largest: what makes less is not reached by the batches
_CLAMPED = 30  # no tensor may be that much less sensitive than usual


def relative_power(tensor: Tensor) -> float:
    """``1 / (n * mean square)``, the weight of a squared error without any data.

    Noise of a given share of a tensor's own power hurts the output of its layer by that share,
    whatever its size: so errors may have a power that grows with n, for the same bits bought.
    """
    total = sum(float(part.double().square().sum()) for part in _parts(tensor))
    return 1 / total if total > 0 else 1.0


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    return iter(torch.split(tensor.detach().reshape(-1), 1 << 22))


@torch.no_grad()
def outputs(model: nn.Module, runs: Sequence[Run], output: Output) -> list[Tensor]:
    """What the network gives now, a tensor a batch."""
    return [output(run(model)).detach().clone() for run in runs]


@torch.no_grad()
def mean_divergence(
    model: nn.Module,
    runs: Sequence[Run],
    references: Sequence[Tensor],
    compare: Divergence,
    output: Output,
) -> float:
    """Mean distance of the network's outputs from references."""
    apart = [
        compare.between(output(run(model)), reference).reshape(-1)
        for run, reference in zip(runs, references, strict=True)
    ]
    return float(torch.cat(apart).double().mean())


@contextmanager
def holding(values: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Parameters have other values meanwhile."""
    before = {parameter: parameter.data for parameter in values}
    try:
        for parameter, value in values.items():
            parameter.data = value
        yield
    finally:
        for parameter, value in before.items():
            parameter.data = value


def measure(
    sites: Sequence[Site],
    apart: Callable[[], float],
    told: Callable[[str, float], object],
    known: Mapping[str, float],
    seed: int = 0,
) -> dict[str, float]:
    """Divergence for noise of a tensor's own power, by name: linear in the power, from `NOISE`.

    Args:
        apart: the network's mean divergence as it is.
        told: what is measured, as soon as it is.
        known: what was measured before.
    """
    found: dict[str, float] = {}
    for site in sites:
        if site.name in known:
            found[site.name] = known[site.name]
            continue
        weight = site.parameter.detach()
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
        scale = NOISE * float(weight.double().square().mean().sqrt())
        with holding({site.parameter: weight + (scale * drawn).to(weight)}):
            found[site.name] = apart() / NOISE**2
        told(site.name, found[site.name])
    return found


def settled(
    measured: Mapping[str, float], names: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """Sensitivities to work with, and the names of tensors of which the batches tell nothing.

    Those, and vectors, which are not measured, are taken as usual ones; and no tensor is taken as
    far less sensitive than usual, which other inputs may not confirm.

    Args:
        names: of all tensors.
    """
    most = max(measured.values(), default=0.0)
    seen = [value for value in measured.values() if value > _LEAST_SHARE * most]
    usual = math.exp(sum(map(math.log, seen)) / len(seen)) if seen else 1.0
    unseen = [name for name, value in measured.items() if value <= _LEAST_SHARE * most]
    least = usual / _CLAMPED
    found = {name: max(value, least) for name, value in measured.items() if name not in unseen}
    return dict.fromkeys(names, usual) | found, unseen
