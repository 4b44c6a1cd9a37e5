"""The JSON files that runs leave: what must be in them, checked where they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ectorch.errors import DataError

_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Bytes = Annotated[int, Field(gt=0, lt=1 << 63)]
_Positive = Annotated[float, Field(ge=0)]
_Percent = Annotated[float, Field(ge=0, le=100)]
_Drawn = Annotated[float, Field(ge=-1e300, le=1e300)]  # an axis must be able to hold it
_T = TypeVar("_T")


class Record(BaseModel):
    """What must be there; what is there besides is kept."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Constrain(Record):
    alpha: _Positive


class _Recipe(Record):
    constrain: _Constrain
    data: str = ""
    holdout: _Count = 0


class _Machine(Record):
    processor: str
    threads: _Count
    device: str = "cpu"
    card: str = ""


class Measured(Record):
    """A file of a run, as a report shows it."""

    seed: _Count
    evaluated_on: str
    file_bytes: _Bytes
    float_error_percent: _Percent
    decoded_error_percent: _Percent
    seconds: _Positive
    commit: str = ""


class Reported(Measured):
    """A ``result.json``, as far as a report reads it."""

    name: str
    network: str
    data: str
    float_bytes: _Bytes
    recipe: _Recipe
    versions: dict[str, str] = {}
    machine: _Machine | None = None
    devices: list[str] = []


class Finished(Reported):
    """A ``result.json`` that the same command shows again."""

    ratio: _Positive
    nonzeros: _Count
    parameters: _Bytes
    labels_bytes: _Positive
    mdl_bytes: _Positive
    warning: str | None = None


class _Point(Record):
    curve: str
    name: str
    network: str
    data: str
    float_bytes: _Bytes
    alpha: _Positive
    target_bytes: _Bytes | None = None
    runs: list[Measured]


class Table(Record):
    """A ``results.json``: points, each of several runs."""

    points: list[_Point]
    versions: dict[str, str] = {}
    machine: _Machine | None = None


class Epoch(Record):
    """A line of ``log.jsonl``; one without an epoch is of the evaluation at the end."""

    stage: str = ""
    epoch: _Count | None = None
    loss: _Drawn | None = None
    error_percent: _Drawn | None = None
    size_bytes: _Drawn | None = None
    alpha: _Drawn | None = None
    gap_percent: _Drawn | None = None


class Baseline(Record):
    """A row of ``baselines.json``."""

    name: str
    network: str
    data: str
    on: str
    file_bytes: _Bytes
    error_percent: _Percent
    commit: str = ""


def read_record(path: Path, kind: type[Record]) -> dict[str, Any]:
    """The object in a JSON file, as it was written.

    Raises:
        DataError: when it is none, by file and key.
        OSError: when the file cannot be read.
    """
    return _plain(_parse(path.read_bytes(), kind, str(path)))


def read_records(path: Path, kind: type[Record]) -> list[dict[str, Any]]:
    """The list of objects in a JSON file; raises as `read_record`."""
    return [_plain(record) for record in _parse(path.read_bytes(), list[kind], str(path))]  # type: ignore[valid-type]


def read_lines(path: Path, kind: type[Record]) -> list[dict[str, Any]]:
    """The objects in a file of a JSON object a line, with what is not given; as `read_record`."""
    return [
        _parse(line, kind, f"{path}: line {at}").model_dump()
        for at, line in enumerate(path.read_bytes().splitlines(), 1)
    ]


def inside(root: Path, path: Path) -> Path:
    """``path``, which must not lead out of ``root``, not by a link either: names are strangers'.

    Raises:
        DataError: when it does, or is no path.
    """
    try:
        if path.resolve().is_relative_to(root.resolve()):
            return path
    except (ValueError, RuntimeError) as error:  # a character, or a circle of links
        raise DataError(f"{path}: {error}") from error
    raise DataError(f"{path}: leads out of {root}, and a report reads nothing there")


def first_error(error: ValidationError) -> str:
    """Key and cause."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"]))
    return f"{key}: {first['msg']}" if key else first["msg"]


def _parse(data: bytes, kind: type[_T], what: str) -> _T:
    try:
        return TypeAdapter(kind).validate_json(data)
    except ValidationError as error:
        raise DataError(f"{what}: {first_error(error)}") from error


def _plain(record: Record) -> dict[str, Any]:
    return record.model_dump(exclude_unset=True)
