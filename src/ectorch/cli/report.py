"""``ectorch report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ectorch.cli.terminal import check_ending, say
from ectorch.errors import ConfigError


def report(
    results: Annotated[
        list[Path], typer.Argument(help="folders of a run, of runs, or of results.json")
    ],
    out: Annotated[Path, typer.Option(help="what to write")] = Path("report.html"),
    kind: Annotated[
        str | None, typer.Option("--format", help="html, md, png or svg; as --out ends if absent")
    ] = None,
    network: Annotated[
        str, typer.Option(help="a network of your own that may be run", show_default=False)
    ] = "",
    data: Annotated[
        str, typer.Option(help="a loader of your own that may be run", show_default=False)
    ] = "",
) -> None:
    """Show results on one page: curve, baselines, bytes, codebooks, sparsity, training.

    Where a float network is kept, other ways to store it are measured once, as baselines.json. A
    network or data set of your own is code: it is run only where --network and --data name it.
    """
    from ectorch.report.gather import gather
    from ectorch.report.page import WRITERS, measure_baselines

    if kind is None:
        check_ending(out, *(f".{form}" for form in WRITERS))
    elif kind not in WRITERS:
        raise ConfigError(f"--format {kind}: expected one of {', '.join(WRITERS)}")
    form = kind or out.suffix.removeprefix(".")
    points = gather(*results)
    measure_baselines(points, say, {network, data})
    say(f"report  {WRITERS[form](points, out)}")
