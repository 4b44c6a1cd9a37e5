"""The rate of many constrained parameters at once: code lengths by counts, and what they charge."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor

from ectorch.constrain.kernels.layout import constants
from ectorch.constrain.lengths import apply_rule
from ectorch.constrain.modules import Constrained
from ectorch.constrain.relaxation.base import charge_together, counts_together, group_of


def refresh_lengths(handles: Sequence[Constrained]) -> None:
    """Set the code lengths and their mean by the weights as they are now.

    The mean is NaN where weights or codebook are no numbers: `ectorch.penalty` asks it.

    Args:
        handles: of parameters that train and have a relaxation.
    """
    with torch.no_grad():
        of = [(handle.variables(), handle.codebook()) for handle in handles]
        counts: dict[int, Tensor] = {}
        for places in _alike(handles, _relaxation_and_codebook):
            relaxation = handles[places[0]].relaxation
            found = counts_together(relaxation, [of[at] for at in places])
            counts |= dict(zip(places, found, strict=True))
        for places in _alike(handles, _rule_and_levels):
            some = [handles[at] for at in places]
            relaxation = some[0].relaxation
            assert relaxation is not None
            rows = torch.stack([counts[at] for at in places])
            lengths = apply_rule(relaxation.lengths, rows, of[places[0]][1].zero)
            mean = (rows * lengths).sum(-1) / rows.sum(-1).clamp(min=1.0)
            gaps = [of[at][1].log_gaps for at in places]
            gaps = [own if own.numel() == 1 else own.sum().reshape(1) for own in gaps]
            mean = mean + 0.0 * torch.cat(gaps)  # NaN where a codebook is no number
            _write([handle.lengths for handle in some], lengths)
            _write([handle.mean_bits for handle in some], mean)


def relaxed_bits(handles: Sequence[Constrained]) -> Tensor:
    """() float64: the relaxed size at the last refresh, its gradient as of now.

    Each parameter counts ``alpha_scale`` times.
    """
    configs = [handle.config for handle in handles]
    scales = [config.alpha_scale for config in configs]
    # copies: a refresh may come before the way back
    lengths = torch.split(
        torch.cat([handle.lengths for handle in handles]), [config.levels for config in configs]
    )
    means = torch.stack([handle.mean_bits for handle in handles]).double()
    sizes = [scale * h.parameter.numel() for scale, h in zip(scales, handles, strict=True)]
    bits = (means * _constants(tuple(sizes), means.device)).sum()
    of = [(handle.charged_variables(), handle.charged_codebook()) for handle in handles]
    for places in _alike(handles, _relaxation_and_codebook):
        charge = charge_together(
            handles[places[0]].relaxation,
            [of[at] for at in places],
            [lengths[at] for at in places],
            [scales[at] for at in places],
        )
        bits = bits + (charge - charge.detach())
    return bits


def _alike(
    handles: Sequence[Constrained], key: Callable[[Constrained], Hashable]
) -> list[list[int]]:
    """The places of those that have a key in common."""
    places: dict[Hashable, list[int]] = {}
    for at, handle in enumerate(handles):
        places.setdefault(key(handle), []).append(at)
    return [*places.values()]


def _relaxation_and_codebook(handle: Constrained) -> Hashable:
    return group_of(handle.relaxation), handle.config.codebook


def _rule_and_levels(handle: Constrained) -> Hashable:
    assert handle.relaxation is not None
    return id(handle.relaxation.lengths), handle.config.levels


def _write(buffers: Sequence[Tensor], rows: Tensor) -> None:
    torch._foreach_copy_([*buffers], [*rows.to(buffers[0].dtype).unbind()])


def _constants(numbers: tuple[float, ...], device: torch.device) -> Tensor:
    if device.type == "cpu" or torch.compiler.is_compiling():
        return torch.tensor(numbers, dtype=torch.float64, device=device)
    return constants(numbers, device)
