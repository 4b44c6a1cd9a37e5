"""How alpha moves while a network trains."""

from __future__ import annotations


def ramp(progress: float, over: float = 0.5, peak: float = 2.5, release: float = 0.3) -> float:
    """Factor of alpha after ``progress`` of the training: up from 0 to ``peak``, back to 1.

    Too fast a rise kills weights that never return. A peak above 1 presses weights out that alpha
    alone would not move from where they are, though the objective is lower without them; while
    alpha comes down again, the loss takes back those that it needs.

    Args:
        progress: in [0, 1].
        over: share of the training for the linear rise; 0 starts at the peak.
        peak: highest factor, at least 1; 1 is a plain ramp.
        release: share of the training for the linear fall that follows.

    >>> [ramp(p, over=0.5, peak=3.0, release=0.25) for p in (0.0, 0.25, 0.5, 0.625, 0.75)]
    [0.0, 1.5, 3.0, 2.0, 1.0]
    """
    if progress < over:
        return peak * progress / over
    if progress < over + release:
        return peak + (1 - peak) * (progress - over) / release
    return 1.0
