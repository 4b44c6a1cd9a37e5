"""From the inputs of a data set to what a network is given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_IMAGE_DIMENSIONS = 4


def pixels(images: Tensor) -> Tensor:
    """uint8 images to the networks' input: divided by 255, and nothing else."""
    return images.float().div_(255)


def channels_last(images: Tensor) -> Tensor:
    """A copy in that memory format also by its strides, which images of one channel leave open.

    Convolutions take their own format from them: those of few channels are faster so.
    """
    return torch.empty_like(images, memory_format=torch.channels_last).copy_(images)


def values(inputs: Tensor) -> Tensor:
    """What the inputs of a `Split` are to a network: images as `pixels`, all others themselves."""
    return pixels(inputs) if inputs.dtype == torch.uint8 else inputs


def arranged(model: nn.Module, given: Tensor) -> Tensor:
    """``given`` in the memory format that ``model`` asks for.

    A network asks by an attribute ``memory_format = torch.channels_last``, as ours do: others may
    call ``view``, which then fails.
    """
    wanted = getattr(model, "memory_format", torch.contiguous_format)
    if wanted is torch.channels_last and given.ndim == _IMAGE_DIMENSIONS:
        return channels_last(given)
    return given.contiguous()
