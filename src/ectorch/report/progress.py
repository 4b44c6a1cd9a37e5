"""What a training shows while it runs: a bar a stage, or plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from ectorch.experiments.progress import Progress


@contextmanager
def progress_bar(console: Console) -> Iterator[Shower]:
    """Loss, error, estimated bytes and soft-to-hard gap, a bar a stage; plain lines in a log."""
    columns = (
        TextColumn("{task.description:10}"),
        BarColumn(bar_width=20),
        TextColumn("epoch {task.fields[epoch]}"),
        TextColumn("{task.fields[measured]}"),
        TimeRemainingColumn(),
    )
    with Bar(
        *columns, console=console, refresh_per_second=4, disable=not console.is_terminal
    ) as bar:
        yield Shower(bar)


class Shower:
    """Turns `Progress` into bars, or into a line an epoch where there is no terminal."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}
        self._warned = set[str]()

    def __call__(self, progress: Progress, point: str = "") -> None:
        """Show it; ``point``: of which of several trainings."""
        what = f"{point} {progress.stage}".strip()
        epoch = f"{progress.epoch}/{progress.epochs}"
        if progress.warning and what not in self._warned:
            self._warned.add(what)
            self._bar.console.print(
                f"warning {what}: {progress.warning}", markup=False, emoji=False
            )
        if self._bar.disable:
            if progress.ends_epoch:
                typer.echo(f"{what} epoch {epoch} {_measured(progress)}")
            return
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(
                what, total=progress.steps, epoch=epoch, measured=""
            )
        self._bar.update(
            self._tasks[what],
            completed=progress.step,
            epoch=epoch,
            measured=_measured(progress),
        )


def _measured(progress: Progress) -> str:
    parts = [f"loss {progress.loss:.4f}"]
    if progress.error_percent is not None:
        images = "held-out" if progress.held_out else "training"
        parts.append(f"{images} error {progress.error_percent:.2f} %")
    if progress.size_bytes is not None:
        parts.append(f"{progress.size_bytes:,.0f} bytes")
    if progress.alpha is not None:
        parts.append(f"alpha {progress.alpha:.3g}")
    if progress.gap_percent is not None:
        parts.append(f"gap {progress.gap_percent:+.2f}")
    return ", ".join(parts)
