"""A uniform grid around zero, as kernels see it: the log of its step, and its number of levels."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def log_gap_range(dtype: torch.dtype, levels: int) -> tuple[float, float]:
    """Bounds of a log gap, so that no value is infinite, in ``dtype`` or bfloat16, and none NaN."""
    own, single = torch.finfo(dtype), torch.finfo(torch.float32)
    least = max(own.tiny * own.eps, single.tiny / single.eps)
    most = min(own.max, torch.finfo(torch.bfloat16).max) / levels
    return math.log(least), math.log(most)


# for kernels, into which compilers do not look
known_log_gap_range = lru_cache(maxsize=256)(log_gap_range)


def zero_index(levels: int) -> int:
    """Index of the value 0: the middle, the lower one of the two for an even number of levels."""
    return (levels - 1) // 2


def multiples(levels: int) -> tuple[int, int]:
    """The first and the last level, in steps."""
    zero = zero_index(levels)
    return -zero, levels - 1 - zero


def gap_of(log_gaps: Tensor, levels: int) -> Tensor:
    """``exp`` of log gaps, of their shape, within `log_gap_range`; differentiable."""
    return log_gaps.clamp(*log_gap_range(log_gaps.dtype, levels)).exp()


def step_of(log_gaps: Tensor, levels: int) -> Tensor:
    """() the step of a grid of (1,) ``log_gaps``, rounded to bfloat16; detached."""
    gap = gap_of(log_gaps.detach(), levels)
    return gap.bfloat16().to(gap.dtype).squeeze(0)
