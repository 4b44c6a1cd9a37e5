"""Batch norms in few bytes: statistics of the hard network, then a scale and a shift on a grid.

At inference a batch norm is ``scale * x + shift`` with ``scale = weight / sqrt(var + eps)`` and
``shift = bias - mean * scale``. Two vectors on a grid say that in fewer bytes than four of floats.
They stay beside the convolution's weights: multiplied into them they would spoil the codebook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class _Measured(Exception):  # noqa: N818 - ends a forward pass early
    """The norm has seen its input."""


@torch.no_grad()
def discretize_norms(
    model: nn.Module, batches: Sequence[Tensor] = (), levels: int = 129
) -> nn.Module:
    """Re-estimate the statistics of batch norms and round what they compute to grids, in place.

    For a network that is hard: after `ectorch.convert`, before `ectorch.save_file`. Norms are taken
    in the order of the computation, each from the outputs of those already rounded, so that errors
    do not add up. Afterwards ``running_mean`` is 0 and ``running_var`` 1, ``weight`` and ``bias``
    have at most ``levels`` values. Norms without weight and bias only get new statistics.

    Args:
        model: plain, with or without batch norms; left in eval mode.
        batches: inputs of ``model``, a few thousand examples of the training set in all; without
            any, norms keep the statistics that they have.
        levels: of a grid, zero included; at least 3.

    Returns:
        ``model``.
    """
    model.eval()
    norm: Any  # its buffers may be None to torch's types
    for norm in _in_order(model, batches):
        mean, variance = norm.running_mean.clone(), norm.running_var.clone()
        if batches:
            mean, variance = _statistics(model, norm, batches)
        norm.num_batches_tracked.zero_()
        if not norm.affine:
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            continue
        # an input that never changes is normalized to 0
        scale = torch.where(variance > 0, norm.weight / (variance + norm.eps).sqrt(), 0.0)
        shift = norm.bias - mean * scale
        norm.running_mean.zero_()
        norm.running_var.fill_(1.0)
        norm.weight.copy_(_rounded(scale * (1 + norm.eps) ** 0.5, levels))
        norm.bias.copy_(_rounded(shift, levels))
    return model


def _in_order(model: nn.Module, batches: Sequence[Tensor]) -> list[_BatchNorm]:
    """Batch norms with running statistics, as one forward pass first meets them."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms or not batches:
        return norms
    met: dict[_BatchNorm, None] = {}
    _forward(model, batches[0][:1], dict.fromkeys(norms, lambda norm, _: met.setdefault(norm)))
    return list(met)


def _statistics(
    model: nn.Module, norm: _BatchNorm, batches: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel of what ``norm`` is given."""
    origins: list[Tensor] = []
    sums: list[Tensor] = []

    def measure(_: _BatchNorm, inputs: tuple[Tensor]) -> None:
        channels = inputs[0].transpose(0, 1).flatten(1).double()
        origins.append(channels[:, :1])
        channels = channels - origins[0]  # what never changes has a variance of exactly 0
        sums.append(torch.stack([torch.ones_like(channels), channels, channels**2]).sum(2))
        raise _Measured

    for batch in batches:
        _forward(model, batch, {norm: measure})
    count, first, second = torch.stack(sums).sum(0)
    mean = first / count
    variance = (second / count - mean**2).clamp(min=0)
    return (origins[0][:, 0] + mean).float(), variance.float()


def _forward(
    model: nn.Module, batch: Tensor, hooks: dict[_BatchNorm, Callable[..., object]]
) -> None:
    handles = [norm.register_forward_pre_hook(hook) for norm, hook in hooks.items()]
    try:
        model(batch)
    except _Measured:
        pass
    finally:
        for handle in handles:
            handle.remove()


def _rounded(values: Tensor, levels: int) -> Tensor:
    step = (values.abs().max() / ((levels - 1) // 2)).bfloat16().to(values)
    return (values / step).round() * step + 0.0 if step else torch.zeros_like(values)
