"""The device that a run computes on: its name in a recipe, and what is particular to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from ectorch.errors import RecipeError, TrainingError

AUTO = "auto"
_NAME = re.compile(rf"{AUTO}|cpu|cuda(:\d{{1,3}})?")
_EXPECTED = 'expected "auto", "cpu", "cuda" or "cuda:N"'
_WITHOUT_DOUBLES = "mps"  # code lengths are summed in float64


@dataclass(frozen=True)
class Device:
    """Where tensors lie, and what the loop has to know of it.

    Attributes:
        place: of every tensor of the run.
        card: what its maker calls it; empty for a processor.
        runs_ahead: it computes on its own, behind the program: to read a number waits for it.
    """

    place: torch.device
    card: str = ""
    runs_ahead: bool = False

    @property
    def kind(self) -> str:
        """Of devices: "cpu" or "cuda"."""
        return self.place.type

    @property
    def words(self) -> str:
        """As ``cuda (NVIDIA H100 PCIe)``."""
        return f"{self.kind} ({self.card})" if self.card else self.kind

    @property
    def generators(self) -> list[int]:
        """Random generators it has beside the processor's, for `torch.random.fork_rng`."""
        return [self.place.index] if self.kind == "cuda" else []

    def random_state(self) -> Tensor:
        """State of its own generator, on the CPU; empty where that is the processor's."""
        return torch.cuda.get_rng_state(self.place) if self.generators else torch.empty(0)

    def set_random_state(self, state: Tensor) -> None:
        """Give its own generator a state that `random_state` gave on a device of this kind."""
        if self.generators and len(state):
            torch.cuda.set_rng_state(state, self.place)

    @contextmanager
    def computing(self, remedy: str) -> Iterator[None]:
        """Compute there: float32 in all its bits, and the same sums each time, as far as cuDNN can.

        Args:
            remedy: what to do where its memory is too small.

        Raises:
            TrainingError: when it is.
        """
        exact: AbstractContextManager[None] = nullcontext()
        if self.kind == "cuda":
            exact = torch.backends.cudnn.flags(
                enabled=torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False
            )
        try:
            with exact:
                yield
        except torch.OutOfMemoryError as error:
            raise TrainingError(f"{self.words} has too little memory for it: {remedy}") from error


CPU = Device(torch.device("cpu"))


def check_device(name: str) -> None:
    """Refuse what names no device that a recipe can run on; whether it is there is not asked.

    Raises:
        RecipeError: what was expected.
    """
    if _NAME.fullmatch(name):
        return
    why = ""
    if name.partition(":")[0] == _WITHOUT_DOUBLES:
        why = "it has no float64, in which code lengths are computed: "
    raise RecipeError(f"device: {name!r}: {why}{_EXPECTED}")


def find_device(name: str) -> Device:
    """The device of a recipe's ``device``; "auto" is CUDA where it is there, else the CPU.

    Raises:
        RecipeError: when there is none of that name, or it does not compute: why, and what to do.
    """
    check_device(name)
    if name == CPU.kind:
        return CPU
    if not torch.cuda.is_available():
        if name == AUTO:
            return CPU
        why = (
            "torch finds no card or no driver for it"
            if torch.version.cuda or torch.version.hip
            else f"torch {torch.__version__} is built without CUDA"
        )
        raise RecipeError(
            f"device: {name!r}: there is none, {why}: choose --device cpu, or --device auto, which "
            "takes CUDA where it is there"
        )
    count = torch.cuda.device_count()
    _, _, number = name.partition(":")
    index = int(number) if number else torch.cuda.current_device()
    if index >= count:
        raise RecipeError(f"device: {name!r}: expected cuda:0 to cuda:{count - 1}")
    place = torch.device("cuda", index)
    try:
        torch.zeros(1, device=place).add_(1).cpu()
    except RuntimeError as error:  # of a card that is full, or too old for this torch
        said = str(error).splitlines()[0]
        raise RecipeError(f"device: {name!r}: does not compute: {said}: --device cpu") from error
    return Device(place, torch.cuda.get_device_name(place), runs_ahead=True)


def check_precision(precision: str, device: Device) -> None:
    """Refuse a ``precision`` that the device has not.

    Raises:
        RecipeError: naming the card.
    """
    if precision == "bfloat16" and device.kind == "cuda" and not torch.cuda.is_bf16_supported():
        raise RecipeError(f'precision: {device.words} has no bfloat16: expected "float32"')
