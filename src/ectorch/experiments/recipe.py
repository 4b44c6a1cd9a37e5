"""Recipes: TOML files read into frozen dataclasses, every key checked."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BeforeValidator, ByteSize, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ectorch.constrain.config import Config
from ectorch.errors import ConfigError, RecipeError
from ectorch.experiments.augment import Augment
from ectorch.experiments.data import DATA_SETS
from ectorch.experiments.device import check_device
from ectorch.experiments.distill import Distill
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.own import check_known
from ectorch.experiments.record import first_error
from ectorch.experiments.shipped import find_recipe

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# as JSON: a table may be a dataclass
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
_Count = Annotated[int, Field(ge=0, lt=1 << 63)]
_Name = Annotated[str, Field(pattern=r"^[^\x00]*$")]  # of a file
_Positive = Annotated[float, Field(gt=0)]
_WHOLE = 1 + 1e-9  # that shares of it may add up to
_Share = Annotated[float, Field(ge=0, le=1)]
# what keys were called before
_RENAMED = {"target_size": "target_bytes", "ramp": "rise", "release": "fall"}
_parse_bytes = TypeAdapter(ByteSize).validate_python


def _whole_bytes(value: Any) -> int:
    try:
        if isinstance(value, int | str) and not isinstance(value, bool):
            return int(_parse_bytes(value))
    except ValidationError:
        pass
    given = json.dumps(value, default=str)
    raise PydanticCustomError("bytes", 'expected bytes, as 6000 or "6KB", not {it}', {"it": given})


_Bytes = Annotated[int, BeforeValidator(_whole_bytes), Field(gt=0)]


@dataclass(frozen=True)
class Stage:
    """What every stage of the training has; its learning rate ends in a cosine to zero.

    Attributes:
        epochs: 0 skips the stage.
        optimizer: "adam", or "sgd" with Nesterov's momentum of 0.9.
        lr: at the start, or after ``warmup`` (a share of the stage) of a linear rise.
    """

    __pydantic_config__ = _STRICT
    epochs: _Count
    optimizer: Literal["adam", "sgd"] = "adam"
    batch: Annotated[int, Field(ge=1)] = 256
    lr: _Positive = 1e-3
    warmup: _Share = 0.0
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: _Share = 0.0


@dataclass(frozen=True)
class ConstrainStage(Stage):
    """Training under the penalty.

    Attributes:
        alpha: of the penalty, no unit; 1 is the two-part MDL code. With a target it is where the
            search starts.
        rise: share of the stage over which alpha rises from 0, to ``peak`` times its value.
        fall: share of the stage over which it then comes down to its value.
        refresh: steps between counts of the levels, see `ectorch.penalty`.
        remove_dead: remove hidden units that died at the end of each epoch.
        codebook_lr: of the codebooks, in relative units.
        step_lr: of the constrained weights, in steps of their grids, see `ectorch.param_groups`.
        config: fields of `ectorch.Config`.
    """

    alpha: Annotated[float, Field(ge=0)] = 1.0
    rise: _Share = 0.5
    peak: Annotated[float, Field(ge=1)] = 2.5
    fall: _Share = 0.3
    refresh: Annotated[int, Field(ge=1)] = 4
    remove_dead: bool = True
    codebook_lr: _Positive = 2e-4
    step_lr: _Positive | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def rates(self) -> dict[str, float | None]:
        """Learning rates of what is constrained, for `ectorch.param_groups`."""
        return {"codebook_lr": self.codebook_lr, "step_lr": self.step_lr}

    def make_config(self) -> Config:
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in self.config.items()
        }
        return Config(**values)


@dataclass(frozen=True)
class Recipe:
    """One experiment, whole: on one device the same recipe and seed give the same file.

    Attributes:
        network: one of `NETWORKS`, or a user's own function that makes one, as
            ``package.module:function``, see `ectorch.experiments.build.make_network`.
        data: one of `DATA_SETS`, or a user's own loader, named so, see
            `ectorch.experiments.own_data.load_own`.
        start: file (.ect or .safetensors, from the folder where the command runs) of the network to
            start from; empty for random values.
        threads: of torch; part of the recipe, since results differ between thread counts.
        device: "cpu", "cuda", "cuda:1" and so on, or "auto" for CUDA where it is there, else the
            CPU. Results differ between devices, as between thread counts.
        holdout: training examples kept out of training and used for choosing; 0 trains on all.
        pretrain: float training.
        reduce: an earlier constrained training, for the two roads of the paper: with ``lengths``
            of "pruning" the next stage starts from a sparse network, with "cardinality" from one
            of few values.
        constrain: training under the penalty.
        finetune: of codebooks and float parameters with frozen symbols.
        augment: random maps of training images, in every stage.
        distill: a teacher beside the labels, in every stage.
        precision: "bfloat16" computes products in it while training (autocast), for what the
            progress shows and for the code length of the labels; weights, penalty and the
            evaluation of the file stay float32.
        target_bytes: bytes of the file, as 6000 or "6KB": it becomes no larger, and at most 1 %
            smaller; alpha is found while training.
        target_ratio: the same, as float bytes over bytes of the file.
        target_bits_per_weight: the same, as bits of the file over parameters.
        target_error: percent of the held-out examples: the smallest file whose error is no higher,
            found by `ectorch.experiments.search`; needs ``holdout``.
        norm_levels: of the grids of batch norms in the file, see
            `ectorch.rewrite.norms.discretize_norms`.
    """

    __pydantic_config__ = _STRICT
    name: _Name
    network: str
    data: str
    pretrain: Stage
    constrain: ConstrainStage
    reduce: ConstrainStage = field(default_factory=lambda: ConstrainStage(epochs=0))
    finetune: Stage = field(default_factory=lambda: Stage(epochs=0))
    augment: Augment = field(default_factory=Augment)
    distill: Distill = field(default_factory=Distill)
    seed: _Count = 0
    start: _Name = ""
    target_bytes: _Bytes | None = None
    target_ratio: _Positive | None = None
    target_bits_per_weight: _Positive | None = None
    target_error: _Positive | None = None
    norm_levels: Annotated[int, Field(ge=3, lt=1 << 16)] = 129
    threads: Annotated[int, Field(ge=1, le=1024)] = 2
    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] = "float32"
    holdout: _Count = 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def targets(self) -> list[str]:
        """The names of the targets that it has."""
        names = "target_bytes", "target_ratio", "target_bits_per_weight", "target_error"
        return [name for name in names if getattr(self, name) is not None]


def read_recipe(recipe: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe; ``changes`` (as ``{"seed": 1, "constrain.alpha": 2.0}``) replace values.

    Args:
        recipe: its file, or the name of one that ships, see `find_recipe`.

    Raises:
        RecipeError: naming the file and the key.
    """
    path = find_recipe(recipe)
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: {error}") from error
    try:
        for key, value in (changes or {}).items():
            *parents, last = key.split(".")
            inner = table
            for parent in parents:
                inner = inner.setdefault(parent, {})
                if not isinstance(inner, dict):
                    raise RecipeError(f"{parent}: expected a table")
            inner[last] = value
        return parse_recipe(table)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from error


def parse_recipe(table: Mapping[str, Any]) -> Recipe:
    """Check a recipe's keys, types and names; nothing of a user's own is imported.

    Raises:
        RecipeError: naming the key.
    """
    try:
        recipe = TypeAdapter(Recipe).validate_json(json.dumps(table, default=str))
    except ValidationError as error:
        raise RecipeError(_unknown_keys(error) or first_error(error)) from error
    check_known("network", recipe.network, NETWORKS)
    check_known("data", recipe.data, DATA_SETS)
    check_device(recipe.device)
    if recipe.distill.network:
        check_known("distill.network", recipe.distill.network, NETWORKS)
    if len(given := recipe.targets()) > 1:
        raise RecipeError(f"{' and '.join(given)}: give one of them")
    if recipe.target_error and not recipe.holdout:
        raise RecipeError("target_error: needs holdout, the examples that tell the error")
    stages = recipe.pretrain, recipe.reduce, recipe.constrain, recipe.finetune
    if not recipe.start and not any(stage.epochs for stage in stages):
        raise RecipeError("epochs: 0 in every stage, nothing trains: give some, or a start")
    known_fields = {f.name for f in fields(Config)}
    for name, stage in (("reduce", recipe.reduce), ("constrain", recipe.constrain)):
        if (share := stage.rise + stage.fall) > _WHOLE:
            raise RecipeError(
                f"{name}.rise + {name}.fall = {share:.4g}: expected 1 at most, the whole stage, "
                "at the end of which alpha has its value"
            )
        if strange := sorted(set(stage.config) - known_fields):
            raise RecipeError(f"{name}.config.{_unknown_key(strange[0], known_fields)}")
        try:
            stage.make_config()
        except (ConfigError, TypeError) as error:
            raise RecipeError(f"{name}.config: {error}") from error
    return recipe


def under_present_keys(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe that an earlier version stored, with the keys of this one."""
    return {
        _RENAMED.get(key, key): under_present_keys(value)
        if isinstance(value, dict) and key != "config"
        else value
        for key, value in stored.items()
    }


def _unknown_keys(error: ValidationError) -> str:
    """The keys that no table has, each with the nearest that it has, and what is missing besides.

    Empty where every key is known.
    """
    errors = error.errors()
    unknown = [e["loc"] for e in errors if e["type"] == "unexpected_keyword_argument"]
    if not unknown:
        return ""
    said = [".".join([*map(str, at[:-1]), _unknown_key(str(at[-1]), _keys(at))]) for at in unknown]
    for at in (e["loc"] for e in errors if e["type"] == "missing"):
        if not any(words.endswith(f"; {at[-1]}?") for words in said):
            said.append(f"{'.'.join(map(str, at))}: missing")
    return ", ".join(said)


def _unknown_key(key: str, known: Iterable[str]) -> str:
    near = [new for new in known if new == _RENAMED.get(key)] or difflib.get_close_matches(
        key, known, n=1
    )
    return f"{key}: unknown key" + "".join(f"; {name}?" for name in near)


def _keys(at: tuple[int | str, ...]) -> list[str]:
    """Those of the table that holds the one at a place in a recipe."""
    table: Any = Recipe
    for key in at[:-1]:
        table = get_type_hints(table)[str(key)]
    return [f.name for f in fields(table)]
