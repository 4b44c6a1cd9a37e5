"""Arguments of another kind than a function takes: what it is, and what was expected."""

from __future__ import annotations

import math
from numbers import Real
from reprlib import Repr
from typing import Any

from torch import Tensor, nn

from ectorch.errors import ConfigError

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def check_module(function: str, model: Any) -> None:
    """Refuse a ``model`` of ``function`` that is none.

    Raises:
        ConfigError: what it is.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{function}: expected a torch.nn.Module as model, got {shown(model)}")


def check_real(name: str, value: Any) -> None:
    """Refuse what is no number at all; `check_number` tells which ones may be.

    Raises:
        ConfigError: what ``name`` is.
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        raise ConfigError(f"{name} = {shown(value)}: expected a number")


def check_number(
    name: str, value: Any, least: float = 0, most: float = math.inf, above: bool = False
) -> None:
    """Refuse what is no finite number from ``least`` to ``most``, or ``above`` the least.

    Raises:
        ConfigError: what ``name`` is, and what was expected.
    """
    known = isinstance(value, Real) and not isinstance(value, bool)
    if known and least <= value <= most and value < math.inf and not (above and value == least):
        return
    expected = f"a number from {least} to {most}"
    if most == math.inf:
        expected = f"more than {least}" if above else f"a finite number, {least} or more"
    raise ConfigError(f"{name} = {value if known else shown(value)}: expected {expected}")


def shown(value: Any) -> str:
    """``value`` in a few words, however large it is.

    >>> shown("model"), shown(nn.Linear), shown(nn.Linear(2, 2)), shown(None)
    ("'model' (str)", 'the class Linear', 'a Linear', 'None')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, nn.Module):
        return f"a {type(value).__name__}"
    if isinstance(value, Tensor):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    text = " ".join(_SHORT.repr(value).split())
    return text if value is None else f"{text} ({type(value).__name__})"
