"""What example inputs tell of the layers: moments of what a weight is multiplied by.

An embedding is looked up, not multiplied: its errors are weighed by moments of the gradient that
reaches its output, a row's by what of it reached that row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.errors import ConfigError
from ectorch.posttrain.divergence import Divergence, Output
from ectorch.posttrain.feedback import Factor, best_damping
from ectorch.posttrain.layers import Reading
from ectorch.posttrain.sites import Site
from ectorch.rewrite.batches import Run

_WIDE_COLUMNS = 2048  # moments of so many columns are summed in float64
_MOST_COLUMNS = 16_384  # of a matrix of moments: 1 GiB
_PASS_BYTES = 1 << 31  # of moments at once


@dataclass(frozen=True)
class Statistics:
    """What is known of a weight's inputs.

    Attributes:
        factor: of the moments, for `ectorch.posttrain.feedback`; None where that is not wanted.
        trace: of the moments, summed over groups and rows: the output error that noise of variance
            1 in every weight gives.
        mean: (groups, columns) of the inputs; None where rows are looked up.
        importance: (groups, rows) of mean 1: the gradient's energy in what was looked up; None
            where rows are multiplied.
    """

    factor: Factor | None
    trace: float
    mean: Tensor | None = None
    importance: Tensor | None = None


@dataclass
class _Sums:
    """Of one weight, over batches: in two halves, which are told apart to find the damping."""

    moments: Tensor | None = None  # (2, groups, columns, columns)
    total: Tensor | None = None  # (groups, columns)
    rows: Tensor | None = None  # (groups, rows)
    positions: int = 0
    looked_up: int = 0

    def add(self, inputs: Sequence[Tensor]) -> None:
        """Inputs of each group, (positions, columns): first examples, then later ones."""
        columns = inputs[0].shape[-1]
        dtype = torch.float64 if columns <= _WIDE_COLUMNS else torch.float32
        if self.moments is None:
            self.moments = torch.zeros(2, len(inputs), columns, columns, dtype=dtype)
            self.total = torch.zeros(len(inputs), columns, dtype=torch.float64)
        assert self.total is not None
        for group, x in enumerate(inputs):
            x = x.detach().float().cpu()
            self.total[group] += x.sum(0)
            for half, part in enumerate(x.tensor_split(2)):
                self.moments[half, group] += (part.T @ part).to(dtype)
        self.positions += len(inputs[0])

    def add_rows(self, values: Tensor) -> None:
        self.rows = values if self.rows is None else self.rows + values


@torch.no_grad()
def gather(
    model: nn.Module,
    sites: Sequence[Site],
    runs: Sequence[Run],
    compare: Divergence,
    output: Output,
    worth: Mapping[str, float],
    keep: Callable[[str, Statistics], object],
    feedback: bool = True,
    seed: int = 0,
) -> None:
    """Statistics of every site of which the batches tell some.

    Args:
        runs: calls of the model, one a batch.
        compare: whose curvature tells which columns of an embedding matter.
        worth: by name, the squared error of a weight that a bit is worth, about.
        keep: is given what is found, by name; weights of layers that the batches do not reach, or
            that are not known, lack.
        feedback: whether factors are wanted.
    """
    sums = {site.name: _Sums() for site in sites if site.readers}
    for site in sites:
        for _, read in site.readers:
            if site.name in sums and _columns(site.parameter, read) > _MOST_COLUMNS:
                del sums[site.name]
    # gradients tell an embedding's errors, and with one what padding is
    cudnn = torch.backends.cudnn.enabled
    backward = any(site.readers[0][1].looks_up for site in sites if site.name in sums)
    for lot in _passes([site for site in sites if site.name in sums]):
        generator = torch.Generator().manual_seed(seed)
        with _watching(lot, sums):
            for run in runs:
                # recurrent layers of cuDNN have no gradient in eval mode
                with (
                    torch.set_grad_enabled(backward),
                    torch.backends.cudnn.flags(cudnn and not backward),
                ):
                    given = output(run(model))
                    if backward:
                        _backward(compare.draw(given, generator), [site.parameter for site in lot])
        for site in lot:
            statistics = _statistics(
                site, sums.pop(site.name), worth[site.name] if feedback else None
            )
            if statistics is not None:
                keep(site.name, statistics)


def _passes(sites: Sequence[Site]) -> Iterator[list[Site]]:
    """Sites whose moments fit memory together: each lot takes a pass over all batches."""
    lot: list[Site] = []
    taken = 0
    for site in sites:
        groups, _, columns = site.readers[0][1].to_matrices(site.parameter).shape
        size = 16 * groups * columns**2
        if lot and taken + size > _PASS_BYTES:
            yield lot
            lot, taken = [], 0
        lot.append(site)
        taken += size
    if lot:
        yield lot


def _columns(weight: Tensor, read: Reading) -> int:
    return read.to_matrices(weight).shape[-1]


def _backward(drawn: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Gradients for the hooks alone: those of Parameters stay what they were."""
    if not drawn.requires_grad:
        raise ConfigError(
            "the output has no gradient (torch.no_grad or detach in forward?): give batches=None"
        )
    torch.autograd.grad(drawn, parameters, allow_unused=True)


@contextmanager
def _watching(sites: Sequence[Site], sums: dict[str, _Sums]) -> Iterator[None]:
    frozen = [site.parameter for site in sites if not site.parameter.requires_grad]
    handles = []
    for site in sites:
        for module, read in site.readers:
            hook = _hook(read, sums[site.name], site.parameter)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        for handle in handles:
            handle.remove()


def _hook(read: Reading, sums: _Sums, weight: Tensor) -> Callable[..., None]:
    rows = len(weight)

    def note(module: nn.Module, given: Any, named: Any, output: Any) -> None:
        with torch.no_grad():
            inputs = read.inputs(given, named, output)
        if inputs is None:
            return
        positions = output.shape[:-1].numel() if isinstance(output, Tensor) else 0
        if read.looks_up:
            if output.requires_grad:
                output.register_hook(partial(see_rows, inputs[0].cpu()))
        elif read.axis == -1 and positions == len(inputs[0]) and output.requires_grad:
            output.register_hook(partial(see, inputs))
        else:
            sums.add(inputs)

    def see(inputs: Sequence[Tensor], gradient: Tensor) -> None:
        reached = gradient.reshape(-1, gradient.shape[-1]).any(1)  # padding reaches no output
        sums.add([x[reached] for x in inputs])

    def see_rows(looked_up: Tensor, gradient: Tensor) -> None:
        flat = gradient.reshape(-1, gradient.shape[-1]).float().cpu()
        energy = flat.double().square().sum(1)
        sums.add([flat])
        sums.add_rows(
            torch.zeros(1, rows, dtype=energy.dtype).index_add_(1, looked_up, energy[None])
        )
        sums.looked_up += int((energy > 0).sum())

    return note


def _statistics(site: Site, sums: _Sums, worth: float | None) -> Statistics | None:
    if sums.moments is None or sums.total is None or not bool(sums.moments.any()):
        return None
    read = site.readers[0][1]
    one, other = sums.moments / max(sums.positions, 1)
    importance = sums.rows
    if importance is not None:
        # a row that no example has looked up is looked up by another: each counts once more
        importance = importance + importance.sum() / max(sums.looked_up, 1)
        importance = (importance / importance.mean()).float()
    weight = read.to_matrices(site.parameter.detach()).float().cpu()
    trace = float((one + other).diagonal(dim1=1, dim2=2).sum()) * weight.shape[1]
    mean = None if read.looks_up else (sums.total / max(sums.positions, 1)).float()
    if worth is None:
        return Statistics(None, trace, mean, importance)
    slope = worth * trace / weight.numel()
    # both halves together tell twice as much as the one
    damping = best_damping(2 * one, 2 * other, weight, slope, importance) / 2
    return Statistics(Factor.of(one + other, damping), trace, mean, importance)
