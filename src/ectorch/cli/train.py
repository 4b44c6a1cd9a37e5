"""``ectorch train``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ectorch.cli.stop import stop_on_signal
from ectorch.cli.terminal import DeviceName, say, say_device, tables


def train(
    recipe: Annotated[
        Path,
        typer.Argument(
            help="a recipe: its file, or a name of `ectorch recipes`", show_default=False
        ),
    ],
    network: Annotated[
        str | None, typer.Option(help="another network, or your own: module:function")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="another data set, or your own: module:loader")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; runs/NAME if absent")] = None,
    device: DeviceName = None,
    seed: Annotated[int | None, typer.Option(help="another seed than the recipe's")] = None,
    alpha: Annotated[float | None, typer.Option(help="another alpha than the recipe's")] = None,
    holdout: Annotated[int | None, typer.Option(help="training examples to choose with")] = None,
    start: Annotated[Path | None, typer.Option(help="file of the network to start from")] = None,
    target_bytes: Annotated[
        str | None, typer.Option(help="bytes that the file may take, as 6000 or 6KB")
    ] = None,
    target_ratio: Annotated[float | None, typer.Option(help="float bytes over file bytes")] = None,
    target_bits_per_weight: Annotated[
        float | None, typer.Option(help="bits of the file over parameters")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="folder of TensorBoard's events")] = None,
    target_error: Annotated[
        float | None, typer.Option(help="percent of the held-out examples: the smallest such file")
    ] = None,
) -> None:
    """Train a recipe, write OUT/model.ect, evaluate the decoded network, draw OUT/report.png.

    With a target size alpha is found while training, and the file is at most 1 % smaller. With a
    target error several trainings, each from the last, look for the smallest file.

    Interrupt with Ctrl-C; the same command goes on where it stopped.
    """
    from ectorch.experiments.progress import Interrupted, Progress
    from ectorch.experiments.recipe import read_recipe
    from ectorch.experiments.result import FLOAT_FILE, MODEL_FILE, RESULT_FILE
    from ectorch.experiments.search import smallest
    from ectorch.experiments.tensorboard import TensorBoard
    from ectorch.experiments.training import train as run
    from ectorch.report.plots import plot_run
    from ectorch.report.progress import progress_bar
    from ectorch.report.tables import result_table

    given = {
        "network": network,
        "data": data,
        "device": device,
        "seed": seed,
        "holdout": holdout,
        "constrain.alpha": alpha,
        "start": None if start is None else str(start),
        "target_bytes": target_bytes,
        "target_ratio": target_ratio,
        "target_bits_per_weight": target_bits_per_weight,
        "target_error": target_error,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    chosen = read_recipe(recipe, changes)
    folder = out or Path("runs") / chosen.name
    had_ended, trained = (folder / RESULT_FILE).exists(), False
    if not had_ended:
        say_device(chosen.device)
    board: AbstractContextManager[TensorBoard | None]
    board = TensorBoard(tensorboard) if tensorboard else nullcontext()
    try:
        with stop_on_signal() as should_stop, progress_bar(tables) as bars, board as events:

            def show(progress: Progress, point: str = "") -> None:
                nonlocal trained
                trained = True
                bars(progress, point)
                if events:
                    events(progress, point)

            if chosen.target_error:
                result = smallest(chosen, folder, lambda at, p: show(p, at), should_stop)
            else:
                result = run(chosen, folder, show, should_stop)
    except Interrupted:
        say(f"stopped; the same command goes on from the checkpoint in {folder}")
        raise typer.Exit(130) from None
    if had_ended and not trained:
        say(f"{folder}: this run ended before; to train anew choose another --out or delete it")
    picture = folder / "report.png"
    plot_run(folder / MODEL_FILE, folder / FLOAT_FILE, result, picture)
    tables.print(result_table(result))
    if result.get("warning"):
        say(f"warning {result['warning']}")
    say(f"file    {folder / MODEL_FILE}")
    say(f"picture {picture}")
