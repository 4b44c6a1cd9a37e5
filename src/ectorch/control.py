"""How alpha moves while a network trains."""

from __future__ import annotations


def ramp(progress: float, over: float) -> float:
    """Share of alpha after ``progress`` of the training: linear from 0 to 1 over ``over`` of it.

    Too fast a ramp kills weights that never return.

    Args:
        progress: in [0, 1].
        over: in [0, 1]; 0 starts at full alpha.

    >>> [ramp(p, over=0.5) for p in (0.0, 0.25, 0.5, 1.0)]
    [0.0, 0.5, 1.0, 1.0]
    """
    return min(progress / over, 1.0) if over > 0 else 1.0
