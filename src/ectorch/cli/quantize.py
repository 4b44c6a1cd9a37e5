"""``ectorch quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ectorch.cli.terminal import check_ending, parse_size, readable, say
from ectorch.errors import ConfigError

_HELD_OUT = 5000


def quantize(
    source: Annotated[Path, typer.Argument(help=".ect or .safetensors file", callback=readable)],
    target: Annotated[Path, typer.Argument(help="the .ect file to write")],
    data: Annotated[
        str,
        typer.Option(help="whose training inputs are used, or your own: module:loader"),
    ],
    network: Annotated[
        str,
        typer.Option(help="which network it is, or your own: module:function", show_default=False),
    ] = "",
    target_size: Annotated[str | None, typer.Option(help="of the file, as 40kB")] = None,
    bits: Annotated[
        float | None, typer.Option(min=0.01, help="of the file for each number")
    ] = None,
    quality: Annotated[
        str | None,
        typer.Option(
            help="error (percent), perplexity, kl (nats), cosine, or your own: module:function"
        ),
    ] = None,
    limit: Annotated[
        float | None,
        typer.Option(help="of that quality: the most of the first three, the least of the others"),
    ] = None,
    examples: Annotated[int, typer.Option(min=0, help="training inputs; 0 uses none")] = 512,
    divergence: Annotated[str, typer.Option(help="of outputs: kl, mse or cosine")] = "kl",
    seed: Annotated[int, typer.Option(help="that draws the inputs")] = 0,
) -> None:
    """Round a network of a known class, without training, to a size or a quality.

    Training inputs tell how much each layer may be hurt. A quality is measured on 5,000 other
    training examples (a sixth of all where that is less), never on the test set.
    """
    import torch

    import ectorch
    from ectorch.experiments import data as data_sets
    from ectorch.experiments.build import check_network
    from ectorch.experiments.files import read_network
    from ectorch.experiments.inputs import arranged, values
    from ectorch.experiments.qualities import find_quality, is_least
    from ectorch.experiments.split import hold_out

    check_ending(target, ".ect")
    if sum(each is not None for each in (target_size, bits, quality)) != 1:
        raise ConfigError("give one of --target-size, --bits and --quality")
    if (quality is None) != (limit is None):
        raise ConfigError("--quality and --limit go together")
    name, model = read_network(source, network)
    known = data_sets.load(data)
    check_network(name, model, known, trains=False)
    model.eval()
    rest, held_out = hold_out(known.train, _HELD_OUT)
    drawn = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed))[:examples]
    batches = [arranged(model, values(rest.inputs[some])) for some in torch.split(drawn, 64)]
    asked = {}
    if target_size is not None:
        asked["target_bytes"] = float(parse_size("--target-size", target_size))
    elif bits is not None:
        asked["target_bits_per_weight"] = bits
    measured, floor = None, None
    if quality is not None and limit is not None:
        measured = find_quality(quality, model, held_out)
        floor = limit if is_least(quality) else -limit
    report = ectorch.quantize(
        model,
        batches if examples else None,
        **asked,  # type: ignore[arg-type]
        quality=measured,
        floor=floor,
        divergence=divergence,
        forward_only=True,
        on_progress=lambda words: say(f"  {words}"),
    )
    size = ectorch.save_model(model, target)
    say(str(report))
    if report.quality is not None and quality is not None:
        told = report.quality if is_least(quality) else -report.quality
        say(f"{quality} {told:.4g} on {len(held_out):,} held-out {held_out.kind} of {data}")
    say(f"{name} -> {target} {size:,} bytes")
