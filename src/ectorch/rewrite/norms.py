"""Batch norms in few bytes: statistics of the hard network, then a scale and a shift on a grid.

At inference a batch norm is ``scale * x + shift`` with ``scale = weight / sqrt(var + eps)`` and
``shift = bias - mean * scale``. Two vectors on a grid say that in fewer bytes than four of floats.
They stay beside the convolution's weights: multiplied into them they would spoil the codebook.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ectorch.arguments import check_module
from ectorch.constrain.patch import kind_of
from ectorch.errors import ConfigError, UnsupportedLayerError
from ectorch.memory import shared
from ectorch.rewrite.batches import Batches, Run, check_runs, joined, listed
from ectorch.rewrite.tracing import Reads, tensors_of, trace

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_LEVELS = (129, 513, 2049, 8193, 32769)
_TOLERANCE = 0.01  # of the deviation of a channel's output


@torch.no_grad()
def discretize_norms(
    model: nn.Module, batches: Batches = (), levels: int | None = None
) -> nn.Module:
    """Re-estimate the statistics of batch norms and round what they compute to grids, in place.

    For a network that is hard: after `ectorch.convert`, before `ectorch.save_file`. One forward
    pass of all ``batches`` at once meets each norm behind those already rounded, so that errors do
    not add up. Afterwards ``running_mean`` is 0 and ``running_var`` 1, ``weight`` and ``bias`` lie
    on grids. Norms without weight and bias only get new statistics. Norms that share a tensor, or
    that the pass calls more than once, or that anything else reads, are left as they are; so are
    those of other classes than torch's, and those that were discretized before, or never trained.
    Who reads them is not known of a network that torch.fx cannot trace: a call of it on ``batches``
    tells; without any they are left, with a warning.

    Args:
        model: plain, with or without batch norms; left in eval mode.
        batches: inputs of ``model``, a few thousand examples of the training set in all, as many
            as memory holds in float at once: tensors, tuples of arguments or dicts of named ones;
            or a function that calls the network it is given, once, with all of them. Without any,
            norms keep the statistics that they have.
        levels: of a grid, zero included; at least 3. None takes as few as change the output of
            each channel by no more than 1 % of its deviation, and leaves a vector in floats where
            no grid does; without ``batches``, none that changes anything.

    Returns:
        ``model``.

    Raises:
        ConfigError: when ``batches`` have no such form, or the network does not run on them.
    """
    check_module("discretize_norms", model)
    given = listed(batches)
    if given:
        check_runs(model, given)
        round_ = partial(_discretize, levels=levels, tolerance=_TOLERANCE)
        return _pass(model.eval(), given, round_)
    for norm in _norms(model, None):
        _discretize(norm, norm.running_mean, norm.running_var, levels, tolerance=0.0)
    return model.eval()


@torch.no_grad()
def restore_norms(model: nn.Module, batches: Batches) -> nn.Module:
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

    Raises:
        ConfigError: when there are none, or the network does not run on them.
    """
    check_module("restore_norms", model)
    given = listed(batches)
    if not given:
        raise ConfigError("batches: expected training inputs, one batch at least")
    check_runs(model, given)
    return _pass(model.eval(), given, _restore)


def has_statistics(model: nn.Module) -> bool:
    """Whether the network has batch norms that gathered statistics while it trained."""
    return any(map(_gathers, model.modules()))


def _gathers(module: nn.Module) -> bool:
    return isinstance(module, _BatchNorm) and module.track_running_stats


def _pass(
    model: nn.Module, batches: list[Any] | Run, use: Callable[[Any, Tensor, Tensor], None]
) -> nn.Module:
    """Hand each norm to ``use`` with mean and variance of its input, before it computes."""
    few = joined(batches, most=2)
    norms = _norms(model, few)
    if not norms:
        return model
    calls: Counter[nn.Module] = Counter()
    _run_with_hooks(model, few, norms, lambda norm, _: calls.update([norm]))

    def measure(norm: _BatchNorm, inputs: tuple[Tensor]) -> None:
        dimensions = [d for d in range(inputs[0].dim()) if d != 1]
        variance, mean = torch.var_mean(inputs[0], dimensions, correction=0)
        use(norm, mean, variance)

    once = [norm for norm in norms if calls[norm] == 1]
    _run_with_hooks(model, joined(batches), once, measure)
    return model


def _run_with_hooks(
    model: nn.Module,
    run: Run,
    norms: list[Any],
    hook: Callable[[Any, Any], None],
) -> None:
    handles = [norm.register_forward_pre_hook(hook) for norm in norms]
    try:
        run(model)
    finally:
        for handle in handles:
            handle.remove()


def _norms(model: nn.Module, run: Run | None) -> list[Any]:  # to torch some tensors may be None
    """Batch norms with statistics, whose tensors nothing but they has or reads.

    Where the network cannot be traced, ``run`` shows who reads them; without one they are left,
    with a warning.
    """
    twice = shared(tensor for module in model.modules() for tensor in tensors_of(module))
    norms = [m for m in model.modules() if _is_whole(m) and not _has_any(m, twice)]
    try:
        paths = trace(model) if has_statistics(model) else []
        return [m for m in norms if not any(_has_any(m, path.read) for path in paths)]
    except UnsupportedLayerError as error:
        read = _read_in(model, norms, run) if run is not None else None
        safe = [m for m in norms if read is not None and not _has_any(m, read)]
        left = [
            name
            for name, m in model.named_modules()
            if _gathers(m) and m not in safe and not _has_any(m, twice) and not _is_discretized(m)
        ]
        if left:
            names = ", ".join(left)
            why = "" if run is None else ", and a call of it reads them elsewhere"
            warnings.warn(f"batch norms stay as they are ({names}): {error}{why}", stacklevel=5)
        return safe


def _is_whole(module: Any) -> bool:
    """Whether a module is torch's batch norm, with statistics, and with both vectors or neither."""
    tensors = module._parameters | module._buffers
    known = kind_of(module) in _NORMS and "forward" not in vars(module)
    return (
        known
        and module.track_running_stats
        and all(tensors.get(name) is not None for name in _STATISTICS)
        and all((tensors.get(name, 0) is not None) == module.affine for name in ("weight", "bias"))
        and tensors.keys() >= {"weight", "bias"}  # else they are computed
    )


def _has_any(module: nn.Module, tensors: AbstractSet[int]) -> bool:
    return any(id(tensor) in tensors for tensor in tensors_of(module))


def _read_in(model: nn.Module, norms: list[Any], run: Run) -> set[int]:
    """Which tensors of ``norms`` are read in a run of the network, but by their own calls."""
    reads = Reads(model)

    def pause(norm: Any, *_: Any) -> None:
        reads.paused = not reads.paused

    handles = [norm.register_forward_pre_hook(pause) for norm in norms]
    handles += [norm.register_forward_hook(pause, prepend=True) for norm in norms]
    try:
        with reads:
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    return reads.found


def _restore(norm: Any, mean: Tensor, variance: Tensor) -> None:
    if norm.affine:
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += (mean - norm.running_mean) * scale
        norm.weight.copy_(scale * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _discretize(
    norm: Any, mean: Tensor, variance: Tensor, levels: int | None, tolerance: float
) -> None:
    if _is_discretized(norm):
        return
    if not norm.affine:
        norm.num_batches_tracked.zero_()
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        return
    scale = norm.weight / (variance + norm.eps).sqrt()
    if tolerance:  # an input that never changes is normalized to 0, as measured
        scale = torch.where(variance > 0, scale, 0.0)
    if not scale.isfinite().all():
        return
    norm.num_batches_tracked.zero_()
    root = (1 + norm.eps) ** 0.5
    deviation = scale.abs() * variance.sqrt()
    # half for the output's deviation, and half for its mean
    norm.weight.copy_(_on_grid(scale * root, levels, tolerance / 2 * scale.abs() * root))
    live = deviation > 0
    allowed = tolerance / 2 * torch.where(live, deviation, deviation[live].mean())
    norm.bias.copy_(_on_grid(norm.bias - mean * norm.weight / root, levels, allowed))
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)


def _is_discretized(norm: Any) -> bool:
    """Whether this was done already: other statistics would normalize a second time."""
    if norm.running_mean is None or norm.running_var is None:
        return True  # there is nothing to be done
    untrained = not norm.num_batches_tracked and not norm.running_mean.any()
    return bool(untrained and (norm.running_var == 1).all())


def _on_grid(values: Tensor, levels: int | None, allowed: Tensor) -> Tensor:
    """On a grid of ``levels``; or the coarsest that moves none by more than ``allowed``, if any."""
    if levels is not None:
        return _rounded(values, levels)
    for count in _LEVELS:
        rounded = _rounded(values, count)
        if bool(((rounded - values).abs() <= allowed).all()):
            return rounded
    return values


def _rounded(values: Tensor, levels: int) -> Tensor:
    step = (values.abs().max() / ((levels - 1) // 2)).bfloat16().to(values)
    return (values / step).round() * step + 0.0 if step else torch.zeros_like(values)
