"""Random small changes of training images: more of them than the data set has."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from ectorch.errors import RecipeError

_IMAGE_DIMENSIONS = 4
_Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Augment:
    """Ranges of the uniform random changes of each image; all 0 leaves images alone.

    Attributes:
        rotate: degrees to either side.
        scale: relative change of either side's length, and shear.
        shift: pixels along either side.
        crop: whole pixels along either side, what comes in being reflected at the border.
        flip: left and right change places in half of the images.
        cutout: side of a square that is set to its image's mean, anywhere, cut at the border
            (DeVries and Taylor, 2017).
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    rotate: Annotated[float, Field(ge=0)] = 0.0
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    shift: Annotated[float, Field(ge=0)] = 0.0
    crop: _Count = 0
    flip: bool = False
    cutout: _Count = 0


def check_augment(ranges: Augment, inputs: Tensor) -> None:
    """Refuse to change inputs that are no images, or to crop more than there is.

    Raises:
        RecipeError: naming the shape.
    """
    if ranges == Augment():
        return
    shape = tuple(inputs.shape[1:])
    if inputs.ndim != _IMAGE_DIMENSIONS or not (
        inputs.is_floating_point() or inputs.dtype == torch.uint8
    ):
        raise RecipeError(
            f"augment: inputs (n, {', '.join(map(str, shape))}) are no images (n, channels, "
            "height, width): leave it out"
        )
    if ranges.crop >= min(shape[1:]):
        raise RecipeError(f"augment.crop = {ranges.crop}: images are {shape[1]} x {shape[2]}")


def augment(images: Tensor, ranges: Augment) -> Tensor:
    """Change each image at random; draws from torch's global generator.

    Args:
        images: (n, channels, height, width) floating point; `crop` is less than either side.

    Returns:
        the same shape and dtype.
    """
    if ranges.rotate or ranges.scale or ranges.shift:
        images = _map(images, ranges)
    if ranges.flip:
        flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
        images = torch.where(flipped, images.flip(3), images)
    if ranges.crop:
        images = _crop(images, ranges.crop)
    if ranges.cutout:
        images = _cut_out(images, ranges.cutout)
    return images


def _map(images: Tensor, ranges: Augment) -> Tensor:
    """A random affine map of each image, bilinear, black outside."""
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


def _crop(images: Tensor, margin: int) -> Tensor:
    n, channels, height, width = images.shape
    padded = F.pad(images, [margin] * 4, mode="reflect")
    starts = torch.randint(2 * margin + 1, (2, n, 1), device=images.device)
    rows = starts[0] + torch.arange(height, device=images.device)
    columns = starts[1] + torch.arange(width, device=images.device)
    across = columns[:, None, None].expand(n, channels, height + 2 * margin, width)
    down = rows[:, None, :, None].expand(n, channels, height, width)
    return padded.gather(3, across).gather(2, down)


def _cut_out(images: Tensor, side: int) -> Tensor:
    n, _, height, width = images.shape

    def outside(length: int) -> Tensor:
        places = torch.arange(length, device=images.device)
        first = torch.randint(1 - side, length, (n, 1), device=images.device)
        return (places < first) | (places >= first + side)

    kept = outside(height)[:, None, :, None] | outside(width)[:, None, None, :]
    return torch.where(kept, images, images.mean((1, 2, 3), keepdim=True))
