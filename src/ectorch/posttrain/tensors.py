"""Tensors without their network: rounded one by one, by shapes, names and their own power alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor

from ectorch.errors import ConfigError
from ectorch.posttrain.grids import best_step, round_to_grid, rounded_values, usual_step
from ectorch.posttrain.search import slope_for_size
from ectorch.posttrain.sensitivity import relative_power
from ectorch.posttrain.sites import check_finite, why_plain

# what a network counts, estimates or is configured by, which no noise may touch
FLOAT_NAMES = (
    "*running_mean",
    "*running_var",
    "*num_batches_tracked",
    "*inv_freq",
    "*position_ids",
    "*scale",
    "*scales",
    "*zero_point",
    "*zeros",
    "*alphas_cumprod",
)
_SAMPLE_ITEMS = 1 << 14
_HALVINGS = 24  # of the range of slopes, on samples


class RoundedTensors(Mapping[str, Tensor]):
    """Tensors by name, each rounded when it is read; nothing is kept.

    Args:
        source: tensors by name, which may be read from a file one by one.
        slope: relative error that a bit is worth.
        ratios: steps by name, as shares of the usual one at a slope; others stay as they are.
    """

    def __init__(
        self, source: Mapping[str, Tensor], slope: float, ratios: Mapping[str, float]
    ) -> None:
        self._source, self._slope, self._ratios = source, slope, ratios

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._source[name]
        if name not in self._ratios:
            return tensor
        own = self._slope / relative_power(tensor)
        return rounded_values(tensor, self._ratios[name] * usual_step(own), own)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source)

    def __len__(self) -> int:
        return len(self._source)


def round_tensors(
    source: Mapping[str, Tensor],
    size: Callable[[RoundedTensors], int],
    target_bytes: int,
    keep: Sequence[str] = (),
) -> RoundedTensors:
    """Tensors of a checkpoint, rounded so that their file has a size, to 99 %.

    Each gets a grid, on which a bit is worth the same error in all of them: the error of a tensor
    is taken as a share of its own power, so that large tensors get more of it. Samples tell where
    to begin.

    Args:
        source: tensors by name; each is read once, and then whenever ``size`` reads it.
        size: of a file of such tensors, in bytes.
        keep: patterns of names that stay float, beside `FLOAT_NAMES`.

    Raises:
        ConfigError: for a pattern that matches no name.
        MismatchError: when no file is that small.
        UnsupportedLayerError: for NaN or infinity, by name.
    """
    for pattern in keep:
        if not any(fnmatchcase(name, pattern) for name in source):
            raise ConfigError(f"keep: no tensor matches {pattern!r}")
    samples, left = _samples(source, target_bytes, keep)
    start = _start(samples, left)
    ratios = {
        name: best_step(sample.items, start / sample.power) / usual_step(start / sample.power)
        for name, sample in samples.items()
    }
    slope = slope_for_size(
        lambda slope: size(RoundedTensors(source, slope, ratios)), target_bytes, start
    )
    return RoundedTensors(source, slope, ratios)


@dataclass(frozen=True)
class _Sample:
    """Some items of a tensor, how its errors are weighed, and how many it has."""

    items: Tensor
    power: float
    number: int


def _samples(
    source: Mapping[str, Tensor], target_bytes: int, keep: Sequence[str]
) -> tuple[dict[str, _Sample], float]:
    """Samples of what is rounded, and how many bits are left for it."""
    samples, left = {}, 8.0 * target_bytes
    for name in source:
        tensor = source[name]
        if why_float(name, tensor, keep):
            left -= 8 * tensor.nbytes
            continue
        check_finite(name, tensor)
        flat = tensor.reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLE_ITEMS)].float()
        samples[name] = _Sample(some, relative_power(tensor), len(flat))
    return samples, left


def _start(samples: Mapping[str, _Sample], bits: float) -> float:
    """The slope at which samples promise so many bits."""
    low, high = -80.0, 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        slope, total = math.exp(middle), 0.0
        for sample in samples.values():
            own = slope / sample.power
            found = round_to_grid(sample.items, usual_step(own), own)
            total += found.bits * sample.number / len(sample.items)
        low, high = (middle, high) if total > bits else (low, middle)
    return math.exp(high)


def floats_of(source: Mapping[str, Tensor], keep: Sequence[str] = ()) -> dict[str, str]:
    """Why tensors stay as they are, by name."""
    found = {name: why_float(name, source[name], keep) for name in source}
    return {name: why for name, why in found.items() if why}


def why_float(name: str, tensor: Tensor, keep: Sequence[str]) -> str:
    """Why a tensor of a checkpoint stays as it is; empty if it is rounded."""
    if any(fnmatchcase(name, pattern) for pattern in keep):
        return "kept by its name"
    if any(fnmatchcase(name, pattern) for pattern in FLOAT_NAMES):
        return "statistics or settings, by its name"
    return why_plain(tensor)
