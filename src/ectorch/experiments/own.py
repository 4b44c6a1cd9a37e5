"""A user's own code by its name in a recipe: ``package.module:function``."""

from __future__ import annotations

import difflib
import importlib
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

from ectorch.arguments import shown
from ectorch.errors import EctorchError, RecipeError

_DOTTED = r"[^\W\d]\w*(\.[^\W\d]\w*)*"
_NAME = re.compile(f"{_DOTTED}:{_DOTTED}")
_OURS = Path(__file__).parents[1]


def is_own(name: str) -> bool:
    """Whether it names code of a user, which whoever asks for it wants to run."""
    return _NAME.fullmatch(name) is not None


def nearest(name: str, known: Collection[str]) -> str:
    """What ``name`` may have meant, for the end of a sentence: ``; digits?``, or nothing."""
    return "".join(f"; {near}?" for near in difflib.get_close_matches(name, known, n=1))


def check_known(key: str, name: str, known: Collection[str]) -> None:
    """Refuse what is neither known nor a user's own; nothing is imported.

    Raises:
        RecipeError: naming the key, the nearest that is known, and all of them.
    """
    if name in known or is_own(name):
        return
    raise RecipeError(
        f"{key}: {name!r} is unknown{nearest(name, known)}, known: {', '.join(known)}; "
        "your own: package.module:function"
    )


def call(key: str, name: str) -> Any:
    """What the function of that name returns; it is called without arguments.

    Raises:
        RecipeError: as `found`, or when it raises: what, and where.
    """
    function = found(key, name)
    with told(f"{key}: {name}"):
        return function()


def found(key: str, name: str) -> Callable[..., Any]:
    """The function of that name.

    Its module may lie in the current folder, which joins ``sys.path``, as ``python -m`` has it.

    Args:
        key: of the recipe, for errors.

    Raises:
        RecipeError: when there is no such module or function, or importing it raises.
    """
    module_name, _, attribute = name.partition(":")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, folder)
    importlib.invalidate_caches()
    with told(f"{key}: {name}: importing it"):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if not f"{module_name}.".startswith(f"{error.name}."):  # what it imports is missing
                raise
            raise RecipeError(f"{key}: {name}: no module {error.name}, here or installed") from None
    try:
        function = attrgetter(attribute)(module)
    except AttributeError as error:
        near = nearest(attribute, vars(module))
        raise RecipeError(f"{key}: {name}: {module_name} has no {attribute}{near}") from error
    if not callable(function):
        raise RecipeError(f"{key}: {name}: expected a function, got {shown(function)}")
    return cast(Callable[..., Any], function)


@contextmanager
def told(what: str, kind: type[EctorchError] = RecipeError) -> Iterator[None]:
    """Whatever a user's own code raises, as an error in one line with its place in that code."""
    try:
        yield
    except (EctorchError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        said = f"{type(error).__name__}: {words}" if words else type(error).__name__
        raise kind(f"{what} raises {said}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """The innermost line in the current folder that led to it."""
    here = Path.cwd()
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if (path := Path(frame.filename)).is_relative_to(here)
        and not path.is_relative_to(_OURS)
        and "site-packages" not in path.parts
    ]
    return f" ({Path(own[-1].filename).relative_to(here)} line {own[-1].lineno})" if own else ""
