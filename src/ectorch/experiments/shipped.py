"""The recipes that come with ectorch, and how a recipe is found by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ectorch.errors import RecipeError
from ectorch.experiments.own import nearest

_FOLDER = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Described:
    """What the comment at the top of a recipe says, a line each.

    Attributes:
        what: the network, on what.
        time: how long it takes, about.
    """

    what: str
    time: str


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with ectorch, by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.toml"))}


def find_recipe(recipe: str | Path) -> Path:
    """The file of a recipe that is given by its path, or by the name of one that ships.

    Raises:
        RecipeError: when there is neither: which names there are.
    """
    path, shipped = Path(recipe), shipped_recipes()
    if str(recipe) in shipped and not path.is_file():
        return shipped[str(recipe)]
    if not path.exists() and not path.suffix:
        near, known = nearest(path.name, shipped), ", ".join(shipped)
        raise RecipeError(
            f"{recipe}: no such file, and no recipe of that name{near}, known: {known}"
        )
    return path


def described(path: Path) -> Described:
    """What a recipe that ships says of itself."""
    what, time = (line.removeprefix("# ") for line in path.read_text().splitlines()[:2])
    return Described(what, time)
