"""Batch norms in few bytes: statistics of the hard network, then a scale and a shift on a grid.

At inference a batch norm is ``scale * x + shift`` with ``scale = weight / sqrt(var + eps)`` and
``shift = bias - mean * scale``. Two vectors on a grid say that in fewer bytes than four of floats.
They stay beside the convolution's weights: multiplied into them they would spoil the codebook.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def discretize_norms(
    model: nn.Module, batches: Sequence[Tensor] = (), levels: int = 129
) -> nn.Module:
    """Re-estimate the statistics of batch norms and round what they compute to grids, in place.

    For a network that is hard: after `ectorch.convert`, before `ectorch.save_file`. One forward
    pass of all ``batches`` at once meets each norm behind those already rounded, so that errors do
    not add up. Afterwards ``running_mean`` is 0 and ``running_var`` 1, ``weight`` and ``bias`` have
    at most ``levels`` values. Norms without weight and bias only get new statistics.

    Args:
        model: plain, with or without batch norms; left in eval mode.
        batches: inputs of ``model``, a few thousand examples of the training set in all, as many
            as memory holds in float at once; without any, norms keep the statistics that they have.
        levels: of a grid, zero included; at least 3.

    Returns:
        ``model``.
    """
    model.eval()
    if not batches:
        for norm in _norms(model):
            _discretize(norm, norm.running_mean, norm.running_var, levels)
        return model
    return _pass(model, batches, partial(_discretize, levels=levels))


@torch.no_grad()
def restore_norms(model: nn.Module, batches: Sequence[Tensor]) -> nn.Module:
    """Give batch norms the statistics of their inputs, in place, for training to go on.

    `discretize_norms` leaves a mean of 0 and a variance of 1, and a weight and bias that belong to
    these; in train mode a norm takes mean and variance from the batch, so that weight and bias
    would be wrong by as much as they differ. Afterwards they belong to the statistics of
    ``batches``. In eval mode the network computes what it did, up to rounding in sums.

    Args:
        model: plain or prepared, as it was loaded; left in eval mode.
        batches: as for `discretize_norms`, at least one.

    Returns:
        ``model``.
    """
    return _pass(model.eval(), batches, _restore)


def _pass(
    model: nn.Module, batches: Sequence[Tensor], use: Callable[[Any, Tensor, Tensor], None]
) -> nn.Module:
    """Hand each norm to ``use`` with mean and variance of its input, before it computes."""
    met: set[_BatchNorm] = set()

    def measure(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        if norm not in met:
            met.add(norm)
            dimensions = [d for d in range(inputs[0].dim()) if d != 1]
            variance, mean = torch.var_mean(inputs[0], dimensions, correction=0)
            use(norm, mean, variance)

    handles = [norm.register_forward_pre_hook(measure) for norm in _norms(model)]
    try:
        if handles:
            model(torch.cat(list(batches)))
    finally:
        for handle in handles:
            handle.remove()
    return model


def _norms(model: nn.Module) -> list[Any]:  # their buffers may be None to torch's types
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]


def _restore(norm: Any, mean: Tensor, variance: Tensor) -> None:
    if norm.affine:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += (mean - norm.running_mean) * scale
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _discretize(norm: Any, mean: Tensor, variance: Tensor, levels: int) -> None:
    norm.num_batches_tracked.zero_()
    if not norm.affine:
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        return
    # an input that never changes is normalized to 0
    scale = torch.where(variance > 0, norm.weight / (variance + norm.eps).sqrt(), 0.0)
    shift = norm.bias - mean * scale
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    norm.weight.copy_(_rounded(scale * (1 + norm.eps) ** 0.5, levels))
    norm.bias.copy_(_rounded(shift, levels))


def _rounded(values: Tensor, levels: int) -> Tensor:
    step = (values.abs().max() / ((levels - 1) // 2)).bfloat16().to(values)
    return (values / step).round() * step + 0.0 if step else torch.zeros_like(values)
