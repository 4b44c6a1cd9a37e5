"""What commands share: arguments, and how they speak."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from ectorch.errors import ConfigError
from ectorch.report.text import printable

_UNITS = {"": 1, "b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_PIPE_COLUMNS = 10_000  # a line a row
tables = Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS)


def say(text: str) -> None:
    """One line; ``text`` may hold words of a user or of a file."""
    tables.print(Text(printable(text)), soft_wrap=True)


def say_device(name: str) -> None:
    """Which device a recipe's "auto" is here; nothing where the recipe says it."""
    from ectorch.experiments.device import AUTO, find_device

    if name == AUTO:
        say(f"device  {find_device(name).words}")


def readable(path: Path) -> Path:
    """``path``, which is a file that can be read: a FIFO would be waited for.

    Raises:
        ConfigError: when it is a FIFO, a device or a socket.
        OSError: when it is missing, a folder, or not allowed.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ConfigError(f"{path}: no regular file")
    with open(path, "rb"):
        return path


def check_ending(path: Path, *endings: str) -> None:
    """A name says what a file holds.

    Raises:
        ConfigError: when it has another ending.
    """
    if path.suffix not in endings:
        raise ConfigError(f"{path}: expected a name that ends in {' or '.join(endings)}")


def parse_size(option: str, text: str) -> int:
    """Bytes that a size means, as 8MB or 512KiB.

    Raises:
        ConfigError: when it is none, naming the option.
    """
    matched = re.fullmatch(r"([0-9.]+) ?([a-z]*)", text.strip().lower())
    try:
        size = int(float(matched[1]) * _UNITS[matched[2]]) if matched else 0
    except (KeyError, ValueError):
        size = 0
    if size < 1:
        raise ConfigError(f"{option} {text}: expected bytes, or a number and a unit, as 8MB")
    return size


EctFile = Annotated[
    Path, typer.Argument(help="an .ect file", show_default=False, callback=readable)
]
DeviceName = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N; the recipe's if absent")
]
MaxDecoded = Annotated[int, typer.Option(help="refuse files that decode to more bytes than this")]
