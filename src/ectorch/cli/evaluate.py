"""``ectorch eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ectorch.cli.terminal import readable, say


def evaluate(
    source: Annotated[Path, typer.Argument(help=".ect or .safetensors file", callback=readable)],
    data: Annotated[
        str, typer.Option(help="data set whose test split is used, or your own: module:loader")
    ],
    network: Annotated[
        str,
        typer.Option(help="which network it is, or your own: module:function", show_default=False),
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Evaluate a network in a file on a test set.

    The tensors say which of the known networks it is, where no --network is given.
    """
    from ectorch.experiments import data as data_sets
    from ectorch.experiments.build import check_network
    from ectorch.experiments.evaluation import evaluate as run
    from ectorch.experiments.files import read_network

    name, model = read_network(source, network)
    known = data_sets.load(data)
    check_network(name, model, known, trains=False)
    test = known.test
    evaluation = run(model.eval(), test)
    record = {
        "file": str(source),
        "file_bytes": source.stat().st_size,
        "network": name,
        "data": data,
        "images": len(test),
        "error_percent": evaluation.error_percent,
        "predictions_sha256": evaluation.predictions_sha256,
    }
    if as_json:
        typer.echo(json.dumps(record, indent=2))
    else:
        say(
            f"{name} in {record['file_bytes']:,} bytes: {evaluation.error_percent:.2f} % error on "
            f"{len(test):,} {test.kind} of {data}"
        )
