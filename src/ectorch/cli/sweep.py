"""``ectorch sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ectorch.cli.stop import stop_on_signal
from ectorch.cli.terminal import DeviceName, say, say_device, tables


def sweep(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="a recipe: its file, or a name of `ectorch recipes`", show_default=False
        ),
    ],
    points: Annotated[int, typer.Option(help="of the curve")] = 8,
    span: Annotated[float, typer.Option(help="highest alpha over lowest")] = 16.0,
    network: Annotated[
        str | None, typer.Option(help="another network, or your own: module:function")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="another data set, or your own: module:loader")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder; runs/NAME-sweep if absent")] = None,
    device: DeviceName = None,
    holdout: Annotated[
        int | None,
        typer.Option(
            help="training examples that tell the errors; if absent the recipe's, else 5000 or a "
            "sixth of all where that is less"
        ),
    ] = None,
) -> None:
    """Trace bytes against error: each point goes on from the one before; draw OUT/curve.png.

    Interrupt with Ctrl-C; the same command goes on where it stopped.
    """
    from ectorch.experiments.progress import Interrupted
    from ectorch.experiments.recipe import read_recipe
    from ectorch.experiments.sweep import sweep as run
    from ectorch.experiments.sweep import with_holdout
    from ectorch.report.gather import gather
    from ectorch.report.page import WRITERS
    from ectorch.report.progress import progress_bar
    from ectorch.report.tables import curve_table

    given = {"holdout": holdout, "network": network, "data": data, "device": device}
    chosen = read_recipe(recipe, {key: value for key, value in given.items() if value is not None})
    if holdout is None:
        chosen = with_holdout(chosen)
        say(f"holdout {chosen.holdout:,} training examples of {chosen.data}")
    say_device(chosen.device)
    folder = out or Path("runs") / f"{chosen.name}-sweep"
    try:
        with stop_on_signal() as should_stop, progress_bar(tables) as show:
            results = run(chosen, folder, points, span, lambda at, p: show(p, at), should_stop)
    except Interrupted:
        say(f"stopped; the same command goes on in {folder}")
        raise typer.Exit(130) from None
    WRITERS["png"](gather(folder), folder / "curve.png")
    tables.print(curve_table(results))
    say(f"files   {folder}")
    say(f"picture {folder / 'curve.png'}")
