"""Random small changes of training images: more of them than the data set has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Augment:
    """Ranges of the uniform random affine map of each image; all 0 leaves images alone.

    Attributes:
        rotate: degrees to either side.
        scale: relative change of either side's length, and shear.
        shift: pixels along either side.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    rotate: Annotated[float, Field(ge=0)] = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[float, Field(ge=0)] = 0.0


def augment(images: Tensor, ranges: Augment) -> Tensor:
    """Map each image at random, bilinear, black outside; draws from torch's global generator.

    Args:
        images: (n, channels, height, width) floating point.

    Returns:
        the same shape and dtype.
    """
    if ranges == Augment():
        return images
    n, _, height, width = images.shape

    def uniform(half_range: float) -> Tensor:
        return (torch.rand(n, device=images.device) * 2 - 1) * half_range

    angle = uniform(math.radians(ranges.rotate))
    wider, taller, shear = (uniform(ranges.scale) for _ in range(3))
    across, along = uniform(2 * ranges.shift / width), uniform(2 * ranges.shift / height)
    cosine, sine = angle.cos(), angle.sin()
    first_row = (cosine * (1 + wider), shear - sine * (1 + taller), across)
    second_row = (sine * (1 + wider), cosine * (1 + taller), along)
    maps = torch.stack([torch.stack(row, 1) for row in (first_row, second_row)], 1)
    grid = F.affine_grid(maps.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
