"""What a training keeps on disk while it runs, to go on as if it had never stopped."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ectorch.bitstream import write_atomic
from ectorch.errors import FormatError, TrainingError
from ectorch.experiments.device import CPU, Device
from ectorch.experiments.files import load_checkpoint
from ectorch.experiments.progress import State
from ectorch.experiments.recipe import Recipe
from ectorch.experiments.result import check_same_recipe

CHECKPOINT_FILE = "checkpoint.pt"


@dataclass
class Checkpoint:
    """All that the steps to come depend on, after one step.

    Attributes:
        recipe: as a table.
        threads: of torch.
        data_sha256: as in `DataSet`.
        shapes: of the network's tensors, by name, before anything was done to it.
        state: of the run, see `State`.
        model, optimizer, schedule, meter, control: state dicts; ``control`` is empty without a
            target.
        random: state of torch's generator.
        places: where the run trained so far, one after the other, see `place_of`.
        device_random: see `Device.random_state`.
    """

    recipe: dict[str, Any]
    threads: int
    data_sha256: str
    shapes: dict[str, list[int]]
    state: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]
    meter: Mapping[str, Any]
    control: dict[str, float]
    random: Tensor
    places: list[str] = field(default_factory=list)
    device_random: Tensor = field(default_factory=lambda: torch.empty(0))

    def write(self, path: Path) -> None:
        """The file appears whole or not at all.

        Raises:
            OSError: when it cannot be written.
        """
        buffer = io.BytesIO()
        torch.save({f.name: getattr(self, f.name) for f in fields(self)}, buffer)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def read(
        cls, path: Path, recipe: Recipe, data_sha256: str, shapes: Mapping[str, list[int]]
    ) -> Checkpoint:
        """The one in a file, of the very run that is to go on.

        Raises:
            TrainingError: when it is damaged, or of another recipe, network or data.
            OSError: when it cannot be read.
        """
        try:
            stored = load_checkpoint(path)
        except FormatError as error:
            raise TrainingError(f"{error}: delete it to begin anew") from error
        known = {f.name for f in fields(cls)}
        needed = {f.name for f in fields(cls) if f.default_factory is MISSING}
        if not isinstance(stored, dict) or not needed <= stored.keys() <= known:
            raise TrainingError(f"{path}: another version's checkpoint: delete it to begin anew")
        saved = cls(**stored)
        saved.places = saved.places or [place_of(CPU, saved.threads)]  # of before there were others
        check_same_recipe(saved.recipe, recipe, path.parent)
        if saved.shapes != shapes:
            raise TrainingError(
                f"{path} is of another network: {recipe.network} has tensors of other names or "
                "shapes now: choose another --out, or delete it"
            )
        if saved.data_sha256 != data_sha256:
            raise TrainingError(
                f"{path} was made with other tensors than {recipe.data} gives now: a loader gives "
                "the same each time; delete the checkpoint to begin anew"
            )
        return saved

    def run_state(self) -> State:
        return State(**self.state)


def table_of(state: State, seconds: float) -> dict[str, Any]:
    """``state`` for a checkpoint, after so many seconds in all."""
    return asdict(state) | {"seconds": seconds}


def place_of(device: Device, threads: int) -> str:
    """What decides how sums round: as ``cpu, 2 threads``."""
    return f"{device.words}, {threads} threads"


def moved_on(places: list[str], here: str, path: Path) -> list[str]:
    """``places`` and ``here``, with a warning where a run goes on elsewhere than it stopped.

    Args:
        path: of the checkpoint.
    """
    if places[-1] == here:
        return places
    warnings.warn(
        f"{path}: trained on {places[-1]} up to here, and goes on on {here}: sums round otherwise "
        "there, and the file may differ from that of an uninterrupted run",
        stacklevel=5,
    )
    return [*places, here]
