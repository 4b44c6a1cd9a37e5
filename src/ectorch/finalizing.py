"""`finalize`: all that is done to a network before its file is written."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.arguments import check_module
from ectorch.constrain import modules as layers
from ectorch.errors import UnsupportedLayerError
from ectorch.rewrite.batches import Batches, Run, check_runs, joined, listed, outputs_of
from ectorch.rewrite.chains import LAYERS, Chain, find_chains
from ectorch.rewrite.norms import discretize_norms, has_statistics
from ectorch.rewrite.units import remove_from, restore_shapes, sort_chain
from ectorch.workflow import constrained_parameters, convert

_COMPARED = 256  # examples


def finalize(
    model: nn.Module,
    batches: Batches = (),
    norm_levels: int | None = None,
    forward_only: bool = False,
) -> nn.Module:
    """All that is done to a network before its file is written, in place.

    `convert`; batch norms go to grids (`ectorch.rewrite.norms`); units that are not read become
    zeros, and units are sorted (`ectorch.rewrite.units`), where it is proven that this changes
    nothing that the network computes. With ``batches`` outputs are compared: a change that is more
    than rounding is undone, with a warning.

    Args:
        batches: training inputs, a few thousand examples in all: tensors, tuples of arguments or
            dicts of named ones; or a function that calls the network it is given, once. They tell
            the statistics of batch norms, which would else be those of the training, and may ruin
            the network; and how many dimensions all its inputs have.
        norm_levels: see `ectorch.rewrite.norms.discretize_norms`.
        forward_only: the network is used through its ``forward`` alone, on batches: no other
            method of it, and nobody who calls a part of it, needs hidden units where they are.
            Files get smaller.

    Returns:
        ``model``, plain, in eval mode.

    Raises:
        ConfigError: when ``batches`` have none of these forms, or the network does not run on
            them; then nothing has changed.
    """
    check_module("finalize", model)
    trained = any(map(layers.constraints, model.modules()))
    given = listed(batches)
    if given:
        check_runs(model, given)
    if trained and not given and has_statistics(model):
        warnings.warn(
            "finalize(model) keeps the statistics that batch norms gathered while weights moved, "
            "which may ruin the network: give training inputs, finalize(model, batches=[inputs])",
            stacklevel=2,
        )
    discretize_norms(convert(model), given, norm_levels)
    _tidy(model, joined(given, _COMPARED) if given else None, forward_only)
    return model.eval()


def snapshot(model: nn.Module, batches: Batches = (), **settings: Any) -> nn.Module:
    """The network that `finalize` would leave now, as a copy; ``model`` trains on untouched.

    What it gets right is what the file will get right: training mode and running statistics of
    batch norms make ``model`` itself look worse, or better.

    Args:
        batches, settings: see `finalize`.
    """
    check_module("snapshot", model)
    return finalize(copied(model), batches, **settings)


def emptied(model: nn.Module) -> nn.Module:
    """A plain copy of a prepared ``model`` in which all that is discrete is zero.

    Raises:
        UnsupportedLayerError: when the model cannot be copied.
    """
    empty = copied(model)
    constrained = [*constrained_parameters(empty)]
    convert(empty)
    for module, name, constraint in constrained:
        weight = module._parameters[name]
        assert weight is not None
        if constraint.relaxation is not None:
            weight.data.zero_()
    return empty


def copied(model: nn.Module) -> nn.Module:
    """A copy of ``model``.

    Raises:
        UnsupportedLayerError: when it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a module's own __deepcopy__ or __getstate__ raises
        what = f"{type(model).__name__} cannot be copied, and a copy is finalized or measured"
        raise UnsupportedLayerError(f"{what}: {error}") from error


@torch.no_grad()
def _tidy(model: nn.Module, run: Run | None, forward_only: bool) -> None:
    """Zero what is not read, sort what is; compare outputs of ``run`` before and after."""
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
