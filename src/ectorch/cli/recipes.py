"""``ectorch recipes``."""

from __future__ import annotations

from typing import Annotated

import typer

from ectorch.cli.terminal import tables


def recipes(
    name: Annotated[
        str | None, typer.Argument(help="print this one, to copy", show_default=False)
    ] = None,
) -> None:
    """List the recipes that ship, or print one: `ectorch recipes digits > mine.toml`."""
    from ectorch.errors import RecipeError
    from ectorch.experiments.own import nearest
    from ectorch.experiments.recipe import read_recipe
    from ectorch.experiments.shipped import described, shipped_recipes
    from ectorch.report.tables import recipes_table

    shipped = shipped_recipes()
    if name is None:
        rows = []
        for known, path in shipped.items():
            recipe, said = read_recipe(path), described(path)
            rows.append((known, recipe.network, recipe.data, said.what, said.time))
        tables.print(recipes_table(rows))
    elif name in shipped:
        typer.echo(shipped[name].read_text("utf-8"), nl=False)
    else:
        raise RecipeError(
            f"no recipe {name!r}{nearest(name, shipped)}, known: {', '.join(shipped)}"
        )
