"""``ectorch eval``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ectorch.cli.terminal import readable, say


def evaluate(
    source: Annotated[Path, typer.Argument(help=".ect or .safetensors file", callback=readable)],
    data: Annotated[str, typer.Option(help="data set whose test split is used")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Evaluate a network in a file on a test set; its tensors say which network it is."""
    from ectorch.experiments import data as data_sets
    from ectorch.experiments.evaluation import evaluate as run
    from ectorch.experiments.files import read_network
    from ectorch.experiments.networks import check_images

    name, model = read_network(source)
    test = data_sets.load(data).test
    check_images(name, data, test.images)
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
            f"{len(test):,} images of {data}"
        )
