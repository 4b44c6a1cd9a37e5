"""`prepare` a network, train it with `penalty`, `convert` it: PyTorch's own words of QAT."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ectorch.arguments import check_module, check_number, check_real, shown
from ectorch.constrain import codebook, patch
from ectorch.constrain import modules as layers
from ectorch.constrain.checks import check_places
from ectorch.constrain.config import NORMS, Config, dimensions_of
from ectorch.constrain.modules import Constraint
from ectorch.constrain.transforms import transformed
from ectorch.constrain.watch import watch
from ectorch.errors import ConfigError, DivergedError
from ectorch.rewrite import units

_WORTH_A_WORD = 0.1  # share of the bytes
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
    chosen = _choose(model, config)
    places = [
        (f"{module_name}.{name}" if module_name else name, module, name, parameter)
        for module_name, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) in chosen
    ]
    check_places(places)
    first: dict[int, tuple[nn.Module, str]] = {}
    done: list[tuple[nn.Module, str]] = []
    try:
        for _, module, name, parameter in places:
            holder = first.setdefault(id(parameter), (module, name))
            done.append((module, name))
            if holder == (module, name):
                patch.constrain(module, name, _constraint(chosen[id(parameter)], parameter.ndim))
            else:
                patch.tie(module, name, *holder)
    except BaseException:  # of a relaxation of the user's own, say
        for module, name in done:
            patch.abandon(module, name)
        raise
    _warn_of_floats(model, config)
    return model


def _choose(model: nn.Module, config: Config) -> dict[int, Config]:
    """The settings of each parameter to constrain, by its id."""
    chosen: dict[int, Config] = {}
    unmatched = set(config.patterns())
    for module_name, module in model.named_modules():
        for name, parameter in module._parameters.items():
            full_name = f"{module_name}.{name}" if module_name else name
            unmatched -= {
                p for p in unmatched if fnmatchcase(full_name, p) or fnmatchcase(module_name, p)
            }
            if parameter is None:
                continue
            own = config.for_parameter(module_name, module, name, dimensions_of(parameter))
            if own is not None:
                chosen.setdefault(id(parameter), own)
    if unmatched:
        raise ConfigError(f"no parameter matches {', '.join(sorted(map(repr, unmatched)))}")
    if not chosen:
        raise ConfigError(f"{type(model).__name__} has no parameter that the config includes")
    return chosen


def _warn_of_floats(model: nn.Module, config: Config) -> None:
    """Say what a network keeps in floats though nobody asked for that."""
    left = {
        f"{module_name}.{name}" if module_name else name: parameter.nbytes
        for module_name, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
        and config.include is None
        and not isinstance(module, NORMS)
        and not layers.constraints(module)
        and config.for_parameter(module_name, module, name, 2) is not None
    }
    share = sum(left.values()) / max(sum(p.nbytes for p in model.parameters()), 1)
    if share > _WORTH_A_WORD:
        largest = ", ".join(sorted(left, key=lambda name: -left[name])[:3])
        warnings.warn(
            f"{100 * share:.0f} % of the parameters' bytes stay float, {largest} above all: "
            "Config(include=...) constrains them, Config(exclude=...) says that they shall; "
            "ectorch.coverage(model) lists all",
            stacklevel=3,
        )


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
    for module, name, _ in constrained_parameters(model):
        constrained |= {id(t): t for t in layers.variables(module, name).values()}
        log_gaps = module._parameters.get(f"{name}_log_gaps")
        if log_gaps is None:
            continue
        books[id(log_gaps)] = log_gaps
        if step_lr is not None:
            rates[id(module._parameters[name])] = step_lr * log_gaps.detach().exp().mean().item()
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
    charged, watched = [], []
    for module, name, constraint in constrained:
        if constraint.relaxation is None or layers.frozen_symbols(module, name) is not None:
            continue
        if refresh:
            layers.refresh_lengths(module, name)
        charged.append(constraint.alpha_scale * layers.relaxed_bits(module, name))
        watched.append((module, name))
    bits = torch.stack(charged).sum() if charged else torch.zeros(())
    if not (torch.compiler.is_compiling() or transformed()):
        if bits.device.type == "cpu":
            _refuse_divergence(model, bits)
        watch(model, watched, refresh)
    return (alpha * math.log(2) / examples * bits).float()


def freeze_symbols(model: nn.Module) -> nn.Module:
    """Harden in place: symbols are fixed, codebooks and float parameters go on training.

    Raises:
        DivergedError: when a constrained parameter holds NaN or infinity. Nothing was changed then.
    """
    check_module("freeze_symbols", model)
    check_finite(model)
    trained = {  # of all, before the first is frozen: modules may share a Parameter
        (module, name): layers.trained_names(module, name)
        for module in model.modules()
        for name in layers.constraints(module)
    }
    for (module, name), names in trained.items():
        layers.freeze(module, name, names)
    return model


def stays(module: nn.Module, name: str) -> bool:
    """Whether a constrained parameter is frozen by its user, not by `freeze_symbols` alone."""
    trained, log_gaps = layers.trained_names(module, name), module._parameters[f"{name}_log_gaps"]
    if layers.frozen_symbols(module, name) is not None:
        trained = layers.constraints(module)[name].trained
        if log_gaps is not None and not log_gaps.requires_grad:
            return True
    return len(trained) < len(layers.variables(module, name))


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
    check_finite(model)
    for module in model.modules():
        if layers.constraints(module):
            patch.release(module)
    return units.restore_shapes(model)


def check_finite(model: nn.Module) -> None:
    """Read all that constrained parameters are computed from, and refuse what no level stands for.

    Raises:
        DivergedError: which tensor holds NaN or infinity.
    """
    names = {module: f"{name}." if name else "" for name, module in model.named_modules()}
    for module, name, constraint in constrained_parameters(model):
        for suffix in ("", "_log_gaps", *(f"_{extra}" for extra in constraint.extra)):
            tensor = module._parameters.get(name + suffix)
            if tensor is not None:
                codebook.check_finite(names[module] + name + suffix, tensor)


def _refuse_divergence(model: nn.Module, bits: Tensor) -> None:
    if not bits.isfinite():
        check_finite(model)
        raise DivergedError(f"the relaxed size is {bits.item()} bits: its rule gives no number")


def constrained_parameters(model: nn.Module) -> Iterator[tuple[nn.Module, str, Constraint]]:
    """Every constrained parameter once, tied ones at their first place."""
    seen: set[int] = set()
    for module in model.modules():
        for name, constraint in layers.constraints(module).items():
            if id(module._parameters[name]) not in seen:
                seen.add(id(module._parameters[name]))
                yield module, name, constraint


def _constraint(config: Config, dimensions: int) -> Constraint:
    if dimensions > 1:
        relaxation = config.make_relaxation()
        return Constraint(
            relaxation,
            config.forward,
            config.codebook,
            config.levels,
            config.reach,
            config.keep_grid,
            config.alpha_scale,
        )
    if config.bias == "float16":
        return Constraint(None)
    return Constraint(
        config.make_relaxation(),
        levels=config.bias_levels,
        keep_grid=config.keep_grid,
        alpha_scale=config.alpha_scale,
    )
