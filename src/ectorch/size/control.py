"""How alpha moves while a network trains: on a given path, or after a size that is given."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import nn

from ectorch.arguments import check_module, check_number, check_real
from ectorch.errors import ConfigError
from ectorch.size.targets import asked_bytes, check_reachable, frozen_names, size_range

_FIRST_EXCESS = 1.6  # nats by which the size is above its target at the start of the ramp
_SETTLED = 0.02  # progress from which sizes tell something
_PROPORTIONAL, _INTEGRAL = 2.0, 120.0  # of log alpha, a nat of excess, the latter a whole training
_MOST_RISE, _MOST_FALL = 0.4, 0.5  # of log alpha between two observations: dead weights stay dead
_STATE = ("_integral", "_excess", "_seen", "_size")
_MOST_EXCESS = 0.5  # that alpha answers to at once
_ROUNDING = 1e-9
_MARGIN = 0.006  # above the target, for a trim has to take something


def ramp(progress: float, rise: float = 0.5, peak: float = 2.5, fall: float = 0.3) -> float:
    """Factor of alpha after ``progress`` of the training: up from 0 to ``peak``, back to 1.

    Too fast a rise kills weights that never return. A peak above 1 presses weights out that alpha
    alone would not move from where they are, though the objective is lower without them; while
    alpha comes down again, the loss takes back those that it needs.

    Args:
        progress: in [0, 1].
        rise: share of the training for the linear rise; 0 starts at the peak.
        peak: highest factor, at least 1; 1 is a plain ramp.
        fall: share of the training for the linear fall that follows.

    Raises:
        ConfigError: when one of them is out of its range, or ``rise`` and ``fall`` are more
            than the training.

    >>> [ramp(p, rise=0.5, peak=3.0, fall=0.25) for p in (0.0, 0.25, 0.5, 0.625, 0.75)]
    [0.0, 1.5, 3.0, 2.0, 1.0]
    """
    check_number("progress", progress, most=1)
    _check_ramp(rise, peak, fall)
    if progress < rise:
        return peak * progress / rise
    if progress < rise + fall:
        return peak + (1 - peak) * (progress - rise) / fall
    return 1.0


def _check_ramp(rise: float, peak: float, fall: float) -> None:
    check_number("rise", rise, most=1)
    check_number("peak", peak, least=1)
    check_number("fall", fall, most=1)
    if peak > 1 and rise + fall > 1 + _ROUNDING:
        raise ConfigError(
            f"rise = {rise}, fall = {fall}: expected at most 1 together, for the factor to "
            "come down to 1"
        )


@dataclass
class SizeControl:
    """Finds the alpha that brings a file to a size: give it live sizes, ask it for alpha.

    Dual ascent on log alpha, around `ramp`: the size shall come down along a parabola (in log
    bytes) that meets the target where the ramp ends, and stay. Sizes of runs at a fixed alpha do
    so of themselves. What is left in the end is for `ectorch.fit_size`.

    Args:
        target_bytes: of the whole file.
        alpha: to start with; low is safe, since weights that die early are lost.
        rise, peak, fall: see `ramp`.
        lag: share of the training that the size takes to answer; more where it is short.

    Raises:
        ConfigError: when target or alpha is not positive, or another setting out of its range.

    >>> control = SizeControl(target_bytes=1000, alpha=0.1)
    >>> control.alpha_at(0.5)
    0.25
    >>> for progress in (0.4, 0.45, 0.5):
    ...     control.observe(progress, size_bytes=4000)
    >>> control.alpha_at(0.5) > 0.25
    True
    """

    target_bytes: float
    alpha: float = 0.1
    rise: float = 0.5
    peak: float = 2.5
    fall: float = 0.3
    lag: float = 0.06
    _integral: float = field(default=0.0, init=False)
    _excess: float = field(default=0.0, init=False)
    _seen: float = field(default=0.0, init=False)
    _size: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        for name in ("target_bytes", "alpha"):
            check_real(name, getattr(self, name))
            check_number(name, getattr(self, name), above=True)
        _check_ramp(self.rise, self.peak, self.fall)
        check_number("lag", self.lag, most=1)

    @classmethod
    def for_model(
        cls,
        model: nn.Module,
        *,
        target_bytes: float | None = None,
        target_ratio: float | None = None,
        target_bits_per_weight: float | None = None,
        alpha: float = 0.1,
        rise: float = 0.5,
        peak: float = 2.5,
        fall: float = 0.3,
        lag: float = 0.06,
    ) -> SizeControl:
        """The control that brings the file of a prepared ``model`` to a size; give one target.

        Args:
            target_bytes: of the whole file.
            target_ratio: the same, as float bytes over bytes of the file.
            target_bits_per_weight: the same, as bits of the file over parameters.
            alpha, rise, peak, fall, lag: of the control.

        Raises:
            ConfigError: when not one target is given, or it is not positive, or ``model`` is no
                module; or no file of it can have that size: what sizes can be had, and which
                tensors take the room. What stays float, or is frozen by ``requires_grad_(False)``,
                counts as it is now, and as `ectorch.finalize` leaves it.

        >>> from ectorch.workflow import prepare
        >>> SizeControl.for_model(prepare(nn.Linear(500, 300)), target_ratio=100).target_bytes
        6012
        """
        check_module("SizeControl.for_model", model)
        targets = {
            "target_bytes": target_bytes,
            "target_ratio": target_ratio,
            "target_bits_per_weight": target_bits_per_weight,
        }
        given = [name for name, value in targets.items() if value is not None]
        if len(given) != 1:
            known = ", ".join(targets)
            raise ConfigError(f"{' and '.join(given) or 'no target'}: give one of {known}")
        (name,) = given
        check_real(name, targets[name])
        check_number(name, targets[name], above=True)
        asked = asked_bytes(model, **targets)
        check_reachable(asked, *size_range(model), frozen=frozen_names(model))
        return cls(asked, alpha, rise, peak, fall, lag)

    def alpha_at(self, progress: float) -> float:
        """Alpha for a step after ``progress`` (in [0, 1]) of the training."""
        found = self.alpha * math.exp(self._integral + _PROPORTIONAL * self._excess)
        return found * ramp(progress, self.rise, self.peak, self.fall)

    def observe(self, progress: float, size_bytes: float) -> None:
        """Take note of the file's size as it would be now, some hundred times a training.

        Raises:
            ConfigError: when ``progress`` is not in [0, 1], or the size not positive.
        """
        check_number("progress", progress, most=1)
        check_number("size_bytes", size_bytes, above=True)
        size = math.log(size_bytes)
        slope = (size - self._size) / (progress - self._seen) if progress > self._seen else 0.0
        ahead = min(self.lag, 1 - progress)
        left = max(0.0, 1 - (progress + ahead) / self.rise) if self.rise else 0.0
        wanted = math.log(self.target_bytes) + _MARGIN + _FIRST_EXCESS * left**2
        if progress >= _SETTLED:
            # weights that have died hardly return, and more are on their way: look ahead
            excess = size + min(slope, 0.0) * ahead - wanted
            change = _INTEGRAL * excess * (progress - max(self._seen, _SETTLED))
            self._integral += min(max(change, -_MOST_FALL), _MOST_RISE)
            self._excess = min(max(excess, -_MOST_EXCESS), _MOST_EXCESS)
        self._seen, self._size = progress, size

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: dict[str, float]) -> None:
        for name, value in state.items():
            setattr(self, name, value)
