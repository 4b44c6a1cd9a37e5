"""Hidden units in their cheapest form before a file is written, compared with what was there."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ectorch.errors import UnsupportedLayerError
from ectorch.rewrite.batches import Run, outputs_of
from ectorch.rewrite.chains import LAYERS, Chain, find_chains
from ectorch.rewrite.units import remove_from, restore_shapes, sort_chain


@torch.no_grad()
def tidy(model: nn.Module, run: Run | None, forward_only: bool) -> None:
    """Zero hidden units that are not read, and sort the others, in place, where that is proven.

    Args:
        model: plain.
        run: one call of the network; its outputs before and after are compared, and a change that
            is more than rounding is undone, with a warning. None compares nothing.
        forward_only: see `ectorch.finalize`.
    """
    if run is None:
        for chain in _chains(model, forward_only, {}):
            _tidy_chain(model, chain)
        return
    expected, ranks = _outputs(model, run)
    kept = copy.deepcopy(model.state_dict())
    for chain in _chains(model, forward_only, ranks):
        _tidy_chain(model, chain)
    if _same(_outputs(model, run)[0], expected):
        return
    model.load_state_dict(kept)
    for chain in _chains(model, forward_only, ranks):
        before = copy.deepcopy(model.state_dict())
        _tidy_chain(model, chain)
        if not _same(_outputs(model, run)[0], expected):
            model.load_state_dict(before)
            warnings.warn(
                f"the units of {chain} stay as they are: the network would compute something else",
                stacklevel=4,
            )


def _tidy_chain(model: nn.Module, chain: Chain) -> None:
    remove_from(chain, None, fold=False)
    restore_shapes(model)
    sort_chain(chain)


def _chains(model: nn.Module, forward_only: bool, ranks: Mapping[nn.Module, int]) -> list[Chain]:
    try:
        return find_chains(model, forward_only, ranks)
    except UnsupportedLayerError:  # a file gets no smaller then
        return []


def _outputs(model: nn.Module, run: Run) -> tuple[list[Tensor], dict[nn.Module, int]]:
    """What the network gives, and the dimensions of what its layers give."""
    ranks: dict[nn.Module, int] = {}

    def note(layer: nn.Module, given: object, output: Tensor) -> None:
        ranks[layer] = output.ndim

    handles = [m.register_forward_hook(note) for m in model.modules() if type(m) in LAYERS]
    try:
        with outputs_of(model) as outputs:
            run(model)
    finally:
        for handle in handles:
            handle.remove()
    return outputs, ranks


def _same(outputs: list[Tensor], expected: list[Tensor]) -> bool:
    """Whether outputs are equal up to rounding: half the digits of their dtype."""
    return len(outputs) == len(expected) and all(map(_close, outputs, expected))


def _close(output: Tensor, expected: Tensor) -> bool:
    if output.shape != expected.shape or not output.is_floating_point():
        return torch.equal(output, expected)
    tolerance = torch.finfo(output.dtype).eps ** 0.5 * expected.abs().max() if len(expected) else 0
    return torch.allclose(output, expected, rtol=0, atol=float(tolerance), equal_nan=True)
