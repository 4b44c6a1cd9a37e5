"""`prepare` a network, train it with `penalty`, `finalize` it: the way of a network to its file."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.arguments import check_module, check_number, check_real, shown
from ectorch.constrain import patch
from ectorch.constrain.checks import check_places
from ectorch.constrain.config import Config
from ectorch.constrain.modules import (
    Constrained,
    check_values,
    constrained_in,
    constrained_parameters,
    is_prepared,
)
from ectorch.constrain.rate import refresh_lengths, relaxed_bits
from ectorch.constrain.selection import choose, warn_of_floats
from ectorch.constrain.transforms import transformed
from ectorch.constrain.watch import watch
from ectorch.errors import ConfigError, DivergedError, UnsupportedLayerError
from ectorch.rewrite.batches import Batches, check_runs, joined, listed
from ectorch.rewrite.norms import discretize_norms, has_statistics
from ectorch.rewrite.tidy import tidy
from ectorch.rewrite.units import restore_shapes

_COMPARED = 256  # examples
_CODEBOOK_LR_SCALE = 0.1  # codebooks that move fast collapse


def prepare(model: nn.Module, config: Config | None = None) -> nn.Module:
    """Constrain the parameters that ``config`` names, in place, starting from their values.

    Names, Parameters and plain checkpoints stay what they were; ``<name>_log_gaps``,
    ``<name>_lengths`` and ``<name>_bits`` join the state dict. A Parameter that several modules
    share is constrained in all of them as in the first that ``config`` names. Build the optimizer
    from `param_groups` afterwards. `ectorch.coverage` tells what is constrained and what is not.

    With the default ``Config(reach=1.33)`` a network is far coarser at once than it was, and so is
    its accuracy; training brings it back. ``reach=16`` starts near where the network is.

    Returns:
        ``model``.

    Raises:
        ConfigError: when a pattern matches nothing, or a parameter is constrained already; or for
            a model that is no module, or a config that is no `Config`.
        UnsupportedLayerError: for parameters that cannot be trained so: lazy, scripted,
            parametrized, under an old weight norm or pruning; of embeddings with ``max_norm`` or
            sparse gradients; not of plain floats, or not finite. All are named, and nothing was
            changed then.

    >>> net = prepare(nn.Sequential(nn.Linear(4, 3)), Config(levels=3))
    >>> net[0].weight.unique().numel() <= 3
    True
    """
    check_module("prepare", model)
    config = Config() if config is None else config
    if not isinstance(config, Config):
        raise ConfigError(
            f"config = {shown(config)}: expected an ectorch.Config, as ectorch.Config(levels=33)"
        )
    chosen = choose(model, config)
    places = [
        (f"{module_name}.{name}" if module_name else name, module, name, parameter)
        for module_name, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in chosen
    ]
    check_places(places)
    first: dict[int, Constrained] = {}
    done: list[Constrained] = []
    try:
        for _, module, name, parameter in places:
            done.append(Constrained(module, name))
            if id(parameter) in first:
                patch.tie(module, name, first[id(parameter)])
            else:
                first[id(parameter)] = done[-1]
                patch.constrain(module, name, chosen[id(parameter)])
    except BaseException:  # of a relaxation of the user's own, say
        for handle in done:
            patch.abandon(handle.module, handle.name)
        raise
    warn_of_floats(model, config)
    return model


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    codebook_lr: float | None = None,
    step_lr: float | None = None,
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer.

    Args:
        lr: of the weights, in the network's own units, and of all other parameters.
        weight_decay: of parameters that are not constrained; constrained ones have none.
        codebook_lr: of the log gaps, in relative units; ``lr / 10`` if not given.
        step_lr: of constrained weights, in steps of their own grid (mean gaps of other codebooks)
            as they are now, in place of ``lr``. Under Adam weights of every layer then take about
            equally long from one level to the next, however small they are.

    Returns:
        groups named "constrained" (with ``step_lr`` one a parameter), "codebook" and "float".

    Raises:
        ConfigError: when a rate is negative or no finite number, or ``model`` is no module.
    """
    check_module("param_groups", model)
    for setting, rate in (
        ("lr", lr),
        ("weight_decay", weight_decay),
        ("codebook_lr", codebook_lr),
        ("step_lr", step_lr),
    ):
        if rate is not None and not isinstance(rate, Tensor):  # to read one may wait for a device
            check_number(setting, rate)
    constrained: dict[int, Tensor] = {}
    rates: dict[int, float] = {}
    books: dict[int, Tensor] = {}
    for handle in constrained_parameters(model):
        constrained |= {id(t): t for t in handle.variables().values()}
        if handle.log_gaps is None:
            continue
        books[id(handle.log_gaps)] = handle.log_gaps
        if step_lr is not None:
            gap = handle.log_gaps.detach().exp().mean().item()
            rates[id(handle.parameter)] = step_lr * gap
    special = constrained.keys() | books.keys()
    plain = [p for p in model.parameters() if id(p) not in special]
    book_lr = _CODEBOOK_LR_SCALE * lr if codebook_lr is None else codebook_lr
    shared = [p for at, p in constrained.items() if at not in rates]
    own = [([constrained[at]], rate) for at, rate in rates.items() if at in constrained]
    groups: list[dict[str, Any]] = [
        *(
            {"name": "constrained", "params": params, "lr": rate, "weight_decay": 0.0}
            for params, rate in [(shared, lr), *own]
        ),
        {"name": "codebook", "params": [*books.values()], "lr": book_lr, "weight_decay": 0.0},
        {"name": "float", "params": plain, "lr": lr, "weight_decay": weight_decay},
    ]
    return [group for group in groups if group["params"]]


def penalty(model: nn.Module, alpha: float, examples: int, refresh: bool = True) -> Tensor:
    """The entropy term of the objective, in nats an example, to add to a mean loss.

        penalty = alpha * (ln 2 / examples) * sum of the constrained parameters' relaxed bits

    so that ``alpha = 1`` is the two-part MDL code: a bit of a weight weighs as much as a bit of a
    label. A tied parameter counts once; a frozen one does not count. A warning names, once, layers
    on the CPU that have no nonzero left, and codebooks that the optimizer does not have.

    Args:
        alpha: 0 or more, no unit.
        examples: N of the training set (for sequence models, predicted tokens).
        refresh: count the levels anew. A step without (``refresh=step % 4 == 0``) is faster: code
            lengths and value are those of the last count, the gradient is of the weights as they
            are.

    Returns:
        () float32, differentiable.

    Raises:
        ConfigError: when the model has not been prepared, or alpha or examples cannot be.
        DivergedError: when a constrained parameter on the CPU holds NaN or infinity. On other
            devices the penalty is NaN, and `convert` raises: nothing waits for the device here.
    """
    check_module("penalty", model)
    for name, number in (("alpha", alpha), ("examples", examples)):
        check_real(name, number)
    check_number("alpha", alpha)
    check_number("examples", examples, least=1)
    constrained = [*constrained_parameters(model)]
    if not constrained:
        raise ConfigError(f"{type(model).__name__} is not prepared: call ectorch.prepare first")
    if refresh and transformed():
        raise ConfigError("levels are not counted within torch.func: give penalty refresh=False")
    charged = [h for h in constrained if h.relaxation is not None and h.frozen is None]
    if charged and refresh:
        refresh_lengths(charged)
    bits = relaxed_bits(charged) if charged else torch.zeros(())
    if refresh and not torch.compiler.is_compiling():  # what is looked for shows in a count
        if bits.device.type == "cpu":
            _refuse_divergence(model, bits)
        watch(model, charged)
    return (alpha * math.log(2) / examples * bits).float()


def freeze_symbols(model: nn.Module) -> nn.Module:
    """Harden in place: symbols are fixed, codebooks and float parameters go on training.

    Raises:
        DivergedError: when a constrained parameter holds NaN or infinity. Nothing was changed then.
    """
    check_module("freeze_symbols", model)
    check_values(model)
    handles = [handle for module in model.modules() for handle in constrained_in(module)]
    # of all, before the first is frozen: modules may share a Parameter
    trained = [handle.trained() for handle in handles]
    for handle, names in zip(handles, trained, strict=True):
        handle.freeze(names)
    return model


def convert(model: nn.Module) -> nn.Module:
    """Make plain modules of their own classes again, whose weights are exactly codebook values.

    Zeros are +0.0. In place; the state dict has the keys and shapes it had before `prepare`: units
    that were removed are zeros again.

    Returns:
        ``model``.

    Raises:
        ConfigError: when ``model`` is no module.
        DivergedError: when a constrained parameter holds NaN or infinity. Nothing was changed then.
    """
    check_module("convert", model)
    check_values(model)
    for module in model.modules():
        patch.make_plain(module)
    return restore_shapes(model)


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
    prepared, given = is_prepared(model), listed(batches)
    if given:
        check_runs(model, given)
    if prepared and not given and has_statistics(model):
        warnings.warn(
            "finalize(model) keeps the statistics that batch norms gathered while weights moved, "
            "which may ruin the network: give training inputs, finalize(model, batches=[inputs])",
            stacklevel=2,
        )
    discretize_norms(convert(model), given, norm_levels)
    tidy(model, joined(given, _COMPARED) if given else None, forward_only)
    return model.eval()


def snapshot(model: nn.Module, batches: Batches = (), **settings: Any) -> nn.Module:
    """The network that `finalize` would leave now, as a copy; ``model`` trains on untouched.

    What it gets right is what the file will get right: training mode and running statistics of
    batch norms make ``model`` itself look worse, or better.

    Args:
        batches, settings: see `finalize`.
    """
    check_module("snapshot", model)
    with warnings.catch_warnings(record=True) as said:
        final = finalize(copied(model), batches, **settings)
    for warning in said:
        warnings.warn(warning.message, stacklevel=2)
    return final


def emptied(model: nn.Module) -> nn.Module:
    """A plain copy of a prepared ``model`` in which all that is discrete is zero.

    Raises:
        UnsupportedLayerError: when the model cannot be copied.
    """
    empty = copied(model)
    discrete = [h for h in constrained_parameters(empty) if h.relaxation is not None]
    convert(empty)
    for handle in discrete:
        handle.parameter.data.zero_()
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


def _refuse_divergence(model: nn.Module, bits: Tensor) -> None:
    if not bits.isfinite():
        check_values(model)
        raise DivergedError(f"the relaxed size is {bits.item()} bits: its rule gives no number")
