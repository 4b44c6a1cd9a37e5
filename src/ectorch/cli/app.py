"""The commands together, and how any of them fails: in one line, with exit code 2."""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

import ectorch
from ectorch.cli.compare import compare
from ectorch.cli.compress import compress
from ectorch.cli.decompress import decompress
from ectorch.cli.evaluate import evaluate
from ectorch.cli.inspect import inspect
from ectorch.cli.quantize import quantize
from ectorch.cli.recipes import recipes
from ectorch.cli.report import report
from ectorch.cli.sweep import sweep
from ectorch.cli.train import train
from ectorch.cli.verify import verify
from ectorch.errors import EctorchError
from ectorch.extras import missing
from ectorch.report.text import printable

_WrongUsage: Any = typer.BadParameter.__base__  # of every error in arguments; it has no public name

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train networks under an entropy constraint and store them as tiny .ect files.",
)


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"ectorch {ectorch.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="show it and exit"),
    ] = False,
) -> None:
    pass


def _add(name: str, command: Callable[..., None], extra: str) -> None:
    """A command that needs no more than ``extra`` brings, and says so where it lacks."""

    @wraps(command)
    def run(**given: Any) -> None:
        try:
            command(**given)
        except ModuleNotFoundError as error:
            raise missing(name, error, extra) from None

    app.command(name)(run)


_add("train", train, "experiments")
_add("recipes", recipes, "experiments")
_add("sweep", sweep, "experiments")
_add("report", report, "experiments")
_add("compress", compress, "torch")
_add("quantize", quantize, "experiments")
_add("decompress", decompress, "torch")
_add("inspect", inspect, "cli")
_add("compare", compare, "torch")
_add("verify", verify, "cli")
_add("eval", evaluate, "experiments")


def main() -> None:
    """Run the command line; every failure is one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # letters that a terminal lacks are escaped
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: _line(f"warning: {message}") + "\n"
    try:
        code = app(standalone_mode=False)
    except _WrongUsage as error:
        asked = error.ctx.command_path if error.ctx else "ectorch"
        _fail(f"{error.format_message() or 'Missing command.'} See {asked} --help")
    except (EctorchError, OSError, ImportError, MemoryError) as error:
        _fail(_words(error))
    raise SystemExit(code or 0)


def _fail(words: str) -> None:
    print(_line(words), file=sys.stderr)  # noqa: T201
    raise SystemExit(2) from None


def _line(words: str) -> str:
    return f"ectorch: {printable(' '.join(words.split()))}"


def _words(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or "not enough memory"
