"""``ectorch eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ectorch.cli.terminal import readable, say, say_device


def evaluate(
    source: Annotated[Path, typer.Argument(help=".ect or .safetensors file", callback=readable)],
    data: Annotated[
        str, typer.Option(help="data set whose test split is used, or your own: module:loader")
    ],
    network: Annotated[
        str,
        typer.Option(help="which network it is, or your own: module:function", show_default=False),
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Evaluate a network in a file on a test set.

    The tensors say which of the known networks it is, where no --network is given.
    """
    from ectorch.experiments import data as data_sets
    from ectorch.experiments.build import check_network
    from ectorch.experiments.device import find_device
    from ectorch.experiments.evaluation import evaluate as run
    from ectorch.experiments.files import read_network
    from ectorch.experiments.split import moved

    chosen = find_device(device)
    if not as_json:
        say_device(device)
    name, model = read_network(source, network)
    known = data_sets.load(data)
    check_network(name, model, known, trains=False, device=chosen)
    with chosen.computing("--device cpu"):
        test = moved(data, known.test, chosen)
        evaluation = run(model.eval().to(chosen.place), test)
    record = {
        "file": str(source),
        "file_bytes": source.stat().st_size,
        "network": name,
        "data": data,
        "images": len(test),
        "device": chosen.words,
        "error_percent": evaluation.error_percent,
        "predictions_sha256": evaluation.predictions_sha256,
    }
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    else:
        say(
            f"{name} in {record['file_bytes']:,} bytes: {evaluation.error_percent:.2f} % error on "
            f"{len(test):,} {test.kind} of {data}" + (f", on {chosen.words}" if chosen.card else "")
        )
