"""Which parameters of a network a `Config` names, and which large ones it leaves in floats."""

from __future__ import annotations

import warnings
from fnmatch import fnmatchcase

from torch import nn

from ectorch.constrain.config import NORMS, Config, dimensions_of
from ectorch.constrain.modules import constraints
from ectorch.errors import ConfigError

_WORTH_A_WORD = 0.1  # share of the bytes


def choose(model: nn.Module, config: Config) -> dict[int, Config]:
    """The settings of each parameter to constrain, by its id.

    Raises:
        ConfigError: when a pattern matches nothing, or nothing is to be constrained.
    """
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


def warn_of_floats(model: nn.Module, config: Config) -> None:
    """Say what a prepared network keeps in floats though nobody asked for that."""
    left = {
        f"{module_name}.{name}" if module_name else name: parameter.nbytes
        for module_name, module in model.named_modules()
        for name, parameter in module._parameters.items()
        if parameter is not None
        and config.include is None
        and not isinstance(module, NORMS)
        and not constraints(module)
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
