"""`quantize`: a network that is trained, to a size or a quality, without training."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from ectorch import workflow
from ectorch.arguments import check_module, check_number, check_real, shown
from ectorch.errors import ConfigError, MismatchError
from ectorch.posttrain.calibration import Calibration
from ectorch.posttrain.divergence import Output, first_output
from ectorch.posttrain.divergence import divergence as find_divergence
from ectorch.posttrain.folder import Folder, digest_of
from ectorch.posttrain.grids import Rounded
from ectorch.posttrain.report import Layer, Report
from ectorch.posttrain.rounding import Plan, values_of
from ectorch.posttrain.search import slope_for_quality, slope_for_size
from ectorch.posttrain.sensitivity import holding
from ectorch.posttrain.sites import find_sites
from ectorch.rewrite.batches import Batches, listed
from ectorch.size.measure import FileSize, SizeMeter
from ectorch.size.targets import asked_bytes

_START_BITS = 4.0  # a weight, where a quality is asked for


def quantize(
    model: nn.Module,
    batches: Batches | None = None,
    *,
    target_bytes: float | None = None,
    target_ratio: float | None = None,
    target_bits_per_weight: float | None = None,
    max_loss_increase: float | None = None,
    quality: Callable[[nn.Module], float] | None = None,
    floor: float | None = None,
    divergence: str = "mse",
    output: Output = first_output,
    keep: Sequence[str] = (),
    feedback: bool = True,
    correct_biases: bool = False,
    forward_only: bool = False,
    folder: str | os.PathLike[str] | None = None,
    on_progress: Callable[[str], object] | None = None,
) -> Report:
    """Round a trained network to grids, in place, so that its file has a size or it a quality.

    Every tensor gets a grid whose step is found, and every weight the grid value that costs least,
    error and code length together; a bit is worth the same divergence of the network's outputs in
    all of them (docs/how-to/trained-network.md). Without batches a tensor's error is weighed by its
    share of the tensor's own power. With them it is measured how much each tensor may be hurt, and
    columns make up for one another's errors; batch norms are estimated anew. The network is
    finalized, as by `ectorch.finalize`.

    Args:
        batches: inputs, 128 to 1,024 examples like those that the network will see, in any form
            that `ectorch.finalize` takes. None touches no data.
        target_bytes, target_ratio, target_bits_per_weight: the size of the file that
            `ectorch.save_model` writes, or how often it goes into four bytes a number, or its bits
            over all numbers. It ends at 99 to 100 % of it, a little lower for tiny networks.
        max_loss_increase: the largest divergence on the batches; as small a file as it admits.
        quality: of a network, say its accuracy; as small a file as has ``floor`` or more.
        floor: the least quality.
        divergence: how outputs are compared: "mse" (mean square), "kl" (of softmax over the last
            dimension, for classifiers and language models), "cosine" (of the last dimension, for
            embeddings).
        output: which tensor of what the network returns is compared; the first of floats.
        keep: patterns of names that stay float, as ``"head.*"``.
        feedback: with batches, let columns make up for one another's errors; without, no layer's
            inputs are looked at, and the batches tell sensitivities alone.
        correct_biases: let biases take over the mean of what rounding does to the outputs of their
            layer; where columns make up for one another's errors it did no good.
        forward_only: see `ectorch.finalize`.
        folder: where what is measured is kept: the same call goes on from it, should it be killed,
            and layers' statistics need not fit memory together. It may be deleted afterwards.
        on_progress: is told what happens, in a few words.

    Returns:
        sizes, and for each tensor its bytes, error and how it was rounded.

    Raises:
        ConfigError: unless one size or quality is asked for; for batches that the network does not
            run on; for a prepared network.
        MismatchError: when no file is that small, or no quality that high: how far it goes.
        UnsupportedLayerError: for a tensor with NaN or infinity, by its name; for a network that
            cannot be copied.

    Whatever is raised, the network is what it was.

    >>> net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> quantize(net, torch.randn(256, 64), target_bytes=1200).size_bytes <= 1200
    True
    """
    check_module("quantize", model)
    sizes = target_bytes, target_ratio, target_bits_per_weight
    _check_asked(sizes, max_loss_increase, quality, floor, batches)
    target = asked_bytes(model, *sizes)
    compare = find_divergence(divergence)
    told = on_progress or (lambda words: None)
    sites, kept = find_sites(model, keep)
    if not sites:
        raise ConfigError(f"quantize: {type(model).__name__} has no tensor that could be rounded")
    given = [] if batches is None else listed(batches)
    bits = 8 * target / sum(site.parameter.numel() for site in sites) or _START_BITS
    work = None
    if folder is not None:
        how = target, divergence, tuple(keep), feedback, correct_biases, forward_only
        work = Folder(folder, digest_of(model, given, how))
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        calibration, plan = None, Plan(sites, {site.name: 1.0 for site in sites})
        if batches is not None:
            calibration = Calibration.of(model, given, compare, output)
            plan = calibration.plan(model, sites, told, work)
            if feedback or correct_biases:
                calibration.gather(model, plan, bits, feedback, told, work)
        plan.corrects = correct_biases
        finalize = partial(workflow.finalize, batches=given, forward_only=forward_only)
        trial = _Trial(model, plan, finalize, calibration, told, work)
        if target:
            slope = slope_for_size(trial.size, target, plan.start_slope(bits))
        else:
            good = _goodness(calibration, max_loss_increase, quality, floor)
            if not good(model):
                raise MismatchError("the float network has not the quality that is asked for")
            slope = slope_for_quality(
                lambda slope: good(trial.of(slope)[0]), plan.start_slope(bits)
            )
        report = trial.report(slope, kept)
        report = report if quality is None else replace(report, quality=quality(trial.of(slope)[0]))
    except BaseException:
        for module in training:
            module.training = True
        raise
    _copy(trial.of(slope)[0], model)
    dead = [layer.name for layer in report.layers if layer.step and not layer.reach]
    if dead:
        more = f" and {len(dead) - 1} more" if len(dead) > 1 else ""
        warnings.warn(
            f"{dead[0]}{more}: no nonzero is left, and what was asked for takes all of it away: "
            "look at what the network gives, and ask for a larger file",
            RuntimeWarning,
            stacklevel=2,
        )
    return report


@dataclass
class _Trial:
    """Networks and files at slopes; the last one is kept."""

    model: nn.Module
    plan: Plan
    finalize: Callable[[nn.Module], nn.Module]
    calibration: Calibration | None
    told: Callable[[str], object]
    work: Folder | None = None
    _last: tuple[float, nn.Module, FileSize, dict[str, Rounded]] | None = None

    def of(self, slope: float) -> tuple[nn.Module, FileSize, dict[str, Rounded]]:
        if self._last is None or self._last[0] != slope:
            rounded = self.plan.round(slope)
            with holding(values_of(self.plan.sites, rounded)), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is left alone, each time anew
                final = self.finalize(workflow.copied(self.model))
            size = SizeMeter(lambda network: network)(final)
            self.told(f"{size.total:,} bytes at {slope:.3g} a bit")
            self._last = slope, final, size, rounded
        return self._last[1:]

    def size(self, slope: float) -> int:
        known = None if self.work is None else self.work.size(slope)
        if known is not None:
            return known
        size = self.of(slope)[1].total
        if self.work is not None:
            self.work.note_size(slope, size)
        return size

    def report(self, slope: float, kept: Mapping[str, str]) -> Report:
        """What the network at a slope is.

        Args:
            kept: why tensors stay float, by name.
        """
        final, size, rounded = self.of(slope)
        sites = {site.name: site for site in self.plan.sites}
        first = {id(site.parameter): site.name for site in self.plan.sites}
        own_state = self.model.state_dict(keep_vars=True)
        layers = []
        for name, value in final.state_dict().items():
            own, shape = size.tensors.get(name, 0), tuple(value.shape)
            if name not in sites:
                tied = first.get(id(own_state.get(name)))
                road = f"tied to {tied}" if tied else kept.get(name, "float")
                layers.append(Layer(name, shape, road, own))
                continue
            grid, before = rounded[name], sites[name].parameter.detach()
            noise = (before - grid.values(before.dtype)).square().sum() / before.square().sum()
            levels = int((grid.index.reshape(-1).sort().values.diff() != 0).sum()) + 1
            reach = int(grid.index.abs().max())
            road = self.plan.road(name)
            layers.append(Layer(name, shape, road, own, grid.step, levels, reach, float(noise)))
        apart = None if self.calibration is None else self.calibration.apart(final)
        numbers = sum(layer.numbers for layer in layers)
        return Report(size.total, 4 * numbers, apart, None, slope, tuple(layers))


@torch.no_grad()
def _copy(source: nn.Module, target: nn.Module) -> None:
    """Numbers of a copy, which may be finalized, into the network that it was copied from."""
    for tensors in ("named_parameters", "named_buffers"):
        values = dict(getattr(source, tensors)())
        for name, tensor in getattr(target, tensors)():
            tensor.data.copy_(values[name])
    target.eval()


def _check_asked(
    sizes: Sequence[float | None],
    most: float | None,
    quality: object,
    floor: float | None,
    batches: Batches | None,
) -> None:
    names = "target_bytes", "target_ratio", "target_bits_per_weight", "max_loss_increase"
    if sum(each is not None for each in (*sizes, most, quality)) != 1:
        raise ConfigError(f"quantize: expected one of {', '.join(names)} and quality")
    for name, value in zip(names, (*sizes, most), strict=True):
        if value is not None:
            check_real(name, value)
            check_number(name, value, above=True)
    if (quality is None) != (floor is None):
        raise ConfigError("quality and floor go together: the least that the function may say")
    if quality is not None and not callable(quality):
        raise ConfigError(f"quality = {shown(quality)}: expected a function of a network")
    if floor is not None:
        check_number("floor", floor, least=-math.inf)
    if most is not None and batches is None:
        raise ConfigError("max_loss_increase is measured on batches: give some")


def _goodness(
    calibration: Calibration | None,
    most: float | None,
    quality: Callable[[nn.Module], float] | None,
    floor: float | None,
) -> Callable[[nn.Module], bool]:
    """Whether a network is as good as was asked for."""
    if quality is not None and floor is not None:
        return lambda network: quality(network) >= floor
    assert calibration is not None
    assert most is not None
    return lambda network: calibration.apart(network) <= most
