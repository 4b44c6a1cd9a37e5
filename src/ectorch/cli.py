"""The command line: ``ectorch train | sweep | report | compress | inspect | ...``."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from ectorch.bitstream.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.errors import ConfigError, EctorchError, FormatError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train networks under an entropy constraint and store them as tiny .ect files.",
)
_tables = Console(width=None if sys.stdout.isatty() else 120)

EctFile = Annotated[Path, typer.Argument(help="an .ect file", show_default=False)]
MaxDecoded = Annotated[int, typer.Option(help="refuse files that decode to more bytes than this")]


def main() -> None:
    """Run the command line; every expected failure is one line on stderr and exit code 2."""
    try:
        app()
    except (EctorchError, OSError, ImportError) as error:
        message = " ".join(str(error).split())
        if isinstance(error, OSError) and error.filename:
            message = f"{error.filename}: {error.strerror}"
        if isinstance(error, ImportError):
            message += ": pip install 'ectorch[experiments]'"
        print(f"ectorch: {message}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None


@app.command()
def train(
    recipe: Annotated[Path, typer.Argument(help="a recipe (TOML)", show_default=False)],
    data: Annotated[str | None, typer.Option(help="another data set than the recipe's")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; runs/NAME if absent")] = None,
    seed: Annotated[int | None, typer.Option(help="another seed than the recipe's")] = None,
    alpha: Annotated[float | None, typer.Option(help="another alpha than the recipe's")] = None,
    holdout: Annotated[int | None, typer.Option(help="training images to choose with")] = None,
    start: Annotated[Path | None, typer.Option(help="file of the network to start from")] = None,
    target_size: Annotated[
        str | None, typer.Option(help="bytes that the file may take, as 6000 or 6KB")
    ] = None,
    target_ratio: Annotated[float | None, typer.Option(help="float bytes over file bytes")] = None,
    target_bits_per_weight: Annotated[
        float | None, typer.Option(help="bits of the file over parameters")
    ] = None,
    tensorboard: Annotated[Path | None, typer.Option(help="folder of TensorBoard's events")] = None,
    target_error: Annotated[
        float | None, typer.Option(help="percent of the held-out images: the smallest such file")
    ] = None,
) -> None:
    """Train a recipe, write OUT/model.ect, evaluate the decoded network, draw OUT/report.png.

    With a target size alpha is found while training, and the file is at most 1 % smaller. With a
    target error several trainings, each from the last, look for the smallest file.

    Interrupt with Ctrl-C; the same command goes on where it stopped.
    """
    from ectorch.experiments.recipe import read_recipe
    from ectorch.experiments.result import FLOAT_FILE, MODEL_FILE
    from ectorch.experiments.search import smallest
    from ectorch.experiments.tensorboard import TensorBoard
    from ectorch.experiments.training import Interrupted, Progress
    from ectorch.experiments.training import train as run
    from ectorch.report.plots import plot_run
    from ectorch.report.progress import progress_bar
    from ectorch.report.tables import result_table

    given = {
        "data": data,
        "seed": seed,
        "holdout": holdout,
        "constrain.alpha": alpha,
        "start": None if start is None else str(start),
        "target_size": target_size,
        "target_ratio": target_ratio,
        "target_bits_per_weight": target_bits_per_weight,
        "target_error": target_error,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    chosen = read_recipe(recipe, changes)
    folder = out or Path("runs") / chosen.name
    board: AbstractContextManager[TensorBoard | None]
    board = TensorBoard(tensorboard) if tensorboard else nullcontext()
    try:
        with _stop_on_signal() as should_stop, progress_bar(_tables) as bars, board as events:

            def show(progress: Progress, point: str = "") -> None:
                bars(progress, point)
                if events:
                    events(progress, point)

            if chosen.target_error:
                result = smallest(chosen, folder, lambda at, p: show(p, at), should_stop)
            else:
                result = run(chosen, folder, show, should_stop)
    except Interrupted:
        typer.echo(f"stopped; the same command goes on from the checkpoint in {folder}")
        raise typer.Exit(130) from None
    picture = folder / "report.png"
    plot_run(folder / MODEL_FILE, _numpy_tensors(folder / FLOAT_FILE), result, picture)
    _tables.print(result_table(result))
    typer.echo(f"file    {folder / MODEL_FILE}\npicture {picture}")


@app.command("sweep")
def sweep_recipe(
    recipe: Annotated[Path, typer.Argument(help="a recipe (TOML)", show_default=False)],
    points: Annotated[int, typer.Option(help="of the curve")] = 8,
    span: Annotated[float, typer.Option(help="highest alpha over lowest")] = 16.0,
    data: Annotated[str | None, typer.Option(help="another data set than the recipe's")] = None,
    out: Annotated[Path | None, typer.Option(help="folder; runs/NAME-sweep if absent")] = None,
    holdout: Annotated[int, typer.Option(help="training images that tell the errors")] = 5000,
) -> None:
    """Trace bytes against error: each point goes on from the one before; draw OUT/curve.png.

    Interrupt with Ctrl-C; the same command goes on where it stopped.
    """
    from ectorch.experiments.recipe import read_recipe
    from ectorch.experiments.sweep import sweep
    from ectorch.experiments.training import Interrupted
    from ectorch.report.gather import gather
    from ectorch.report.page import WRITERS
    from ectorch.report.progress import progress_bar
    from ectorch.report.tables import curve_table

    changes = {"holdout": holdout} | ({} if data is None else {"data": data})
    chosen = read_recipe(recipe, changes)
    folder = out or Path("runs") / f"{chosen.name}-sweep"
    try:
        with _stop_on_signal() as should_stop, progress_bar(_tables) as show:
            results = sweep(chosen, folder, points, span, lambda at, p: show(p, at), should_stop)
    except Interrupted:
        typer.echo(f"stopped; the same command goes on in {folder}")
        raise typer.Exit(130) from None
    WRITERS["png"](folder, gather(folder), folder / "curve.png")
    _tables.print(curve_table(results))
    typer.echo(f"files   {folder}\npicture {folder / 'curve.png'}")


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="folder of a run, of runs, or of results.json")],
    out: Annotated[Path, typer.Option(help="what to write")] = Path("report.html"),
    kind: Annotated[
        str | None, typer.Option("--format", help="html, md, png or svg; as --out ends if absent")
    ] = None,
) -> None:
    """Show results on one page: curve, baselines, bytes, codebooks, sparsity, training.

    Where a float network is kept, other ways to store it are measured once, as baselines.json.
    """
    from ectorch.report.gather import gather
    from ectorch.report.page import WRITERS, measure_baselines

    form = kind or out.suffix.removeprefix(".")
    if form not in WRITERS:
        raise ConfigError(f"--format {form}: expected one of {', '.join(WRITERS)}")
    points = gather(results)
    measure_baselines(results, points, typer.echo)
    typer.echo(f"report  {WRITERS[form](results, points, out)}")


@app.command()
def compress(
    source: Annotated[Path, typer.Argument(help=".safetensors, or .pt with tensors only")],
    target: Annotated[Path, typer.Argument(help="the .ect file to write")],
    preset: Annotated[str, typer.Option(help="small, balanced or fast")] = "small",
    threads: Annotated[int | None, typer.Option(min=1, help="all cores if absent")] = None,
) -> None:
    """Store tensors losslessly: few values as a codebook and symbols, others as exact floats."""
    from ectorch.storage import save_file

    tensors, metadata = _read_tensors(source)
    size = save_file(tensors, target, metadata, preset, threads)
    before = source.stat().st_size
    typer.echo(f"{source} {before:,} bytes -> {target} {size:,} bytes (x{before / size:.1f})")


@app.command()
def decompress(
    source: EctFile,
    target: Annotated[Path, typer.Argument(help="the .safetensors file to write")],
    max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES,
) -> None:
    """Write the tensors of an .ect file as .safetensors, bit for bit."""
    from ectorch.bitstream import write_atomic
    from ectorch.storage import load_file, safe_open, to_safetensors

    tensors = load_file(source, max_decoded_bytes=max_decoded_bytes)
    with safe_open(source, max_decoded_bytes=max_decoded_bytes) as file:
        data = to_safetensors(tensors, file.metadata())
    write_atomic(target, data)
    typer.echo(f"{source} {source.stat().st_size:,} bytes -> {target} {len(data):,} bytes")


@app.command()
def inspect(source: EctFile, max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES) -> None:
    """Show every tensor: shape, levels used, zeros, bits a weight, bytes; totals and overhead."""
    from ectorch.report.tables import inspect_table

    with Reader(source, max_decoded_bytes) as reader:
        _tables.print(inspect_table(reader))
        for key, value in reader.metadata.items():
            typer.echo(f"{key} = {value}")


@app.command()
def compare(
    sources: Annotated[list[Path], typer.Argument(help=".ect, .safetensors or .pt files")],
    max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES,
) -> None:
    """Show networks side by side: bytes, levels and nonzeros of every tensor, and the totals."""
    from ectorch.report.tables import Stored, compare_table
    from ectorch.storage import load_file

    files = []
    for source in sources:
        if source.suffix == ".ect":
            with Reader(source, max_decoded_bytes) as reader:
                sizes = {entry.name: entry.size_bytes for entry in reader}
            tensors = load_file(source, max_decoded_bytes=max_decoded_bytes)
        else:
            tensors = _read_tensors(source)[0]
            sizes = {name: tensor.nbytes for name, tensor in tensors.items()}
        arrays = {name: tensor.float().numpy() for name, tensor in tensors.items()}
        files.append(Stored(str(source), source.stat().st_size, sizes, arrays))
    _tables.print(compare_table(files))


@app.command("eval")
def evaluate(
    source: Annotated[Path, typer.Argument(help=".ect or .safetensors file")],
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
        typer.echo(
            f"{name} in {record['file_bytes']:,} bytes: {evaluation.error_percent:.2f} % error on "
            f"{len(test):,} images of {data}"
        )


@app.command()
def verify(source: EctFile, max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES) -> None:
    """Check header, checksums and that every tensor decodes."""
    with Reader(source, max_decoded_bytes) as reader:
        reader.verify()
        for entry in reader:
            reader.read(entry.name)
        count = len(reader.entries)
    typer.echo(f"{source}: {count} tensors, {source.stat().st_size:,} bytes, intact")


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks for a stop at the next step; a second one ends the process."""
    asked = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _numpy_tensors(path: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    tensors: dict[str, Any] = load_file(path)
    return tensors


def _read_tensors(source: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Tensors by name, and the metadata, of a .safetensors or .pt file."""
    import pickle

    import safetensors
    import torch

    if source.suffix == ".safetensors":
        try:
            with safetensors.safe_open(source, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except safetensors.SafetensorError as error:
            raise FormatError(f"{source}: {error}") from error
    try:
        loaded = torch.load(source, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise FormatError(f"{source}: neither .safetensors nor a .pt of tensors only") from error
    if not isinstance(loaded, dict) or not all(map(torch.is_tensor, loaded.values())):
        raise FormatError(f"{source}: expected tensors by name, save model.state_dict()")
    return loaded, {}
