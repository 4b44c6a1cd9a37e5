"""The end of a run: the file, what it is worth, and the record of both."""

from __future__ import annotations

import json
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

import ectorch
from ectorch.bitstream import write_atomic
from ectorch.errors import MismatchError, RecipeError, TrainingError
from ectorch.experiments.build import make_network
from ectorch.experiments.collapse import collapse
from ectorch.experiments.device import CPU, Device
from ectorch.experiments.evaluation import autocast, evaluate
from ectorch.experiments.recipe import Recipe, parse_recipe, under_present_keys
from ectorch.experiments.record import Finished, read_record
from ectorch.experiments.split import Split
from ectorch.storage.files import load_model, save_file

MODEL_FILE = "model.ect"
RESULT_FILE = "result.json"
LOG_FILE = "log.jsonl"
FLOAT_FILE = "float.safetensors"
SWEEP_FILE = "sweep.json"
_SKIPPED_WITHOUT_EPOCHS = ("pretrain", "reduce", "finetune")
_WHERE = ("device", "threads")
_COMPARED_AHEAD = 1000  # examples on the CPU, where equal networks predict the same
_LOGGED = ("evaluated_on", "file_bytes", "decoded_error_percent", "seed")


def check_same_recipe(stored: dict[str, Any], recipe: Recipe, out: Path) -> None:
    """Refuse a run of another recipe; where it trains, and on how many threads, may differ."""
    mine = json.loads(json.dumps(recipe.as_dict()))
    try:  # a recipe of before a key existed has its default
        stored = json.loads(json.dumps(parse_recipe(under_present_keys(stored)).as_dict()))
    except RecipeError as error:
        raise TrainingError(f"{out} holds a run of a recipe that is none now: {error}") from error
    different = [
        key
        for key in mine
        if key not in _WHERE
        and stored.get(key) != mine[key]
        and not _is_skipped(key, stored.get(key), mine[key])
    ]
    if different:
        raise TrainingError(
            f"{out} holds a run of another recipe ({', '.join(different)} differ): "
            "choose another --out, or delete it"
        )


def _is_skipped(key: str, *values: Any) -> bool:
    """Whether the key is a stage that neither recipe runs."""
    return key in _SKIPPED_WITHOUT_EPOCHS and all(
        isinstance(value, dict) and value.get("epochs") == 0 for value in values
    )


def finished(recipe: Recipe, out: Path) -> dict[str, Any] | None:
    """What the run in ``out`` came to, if it has ended.

    Raises:
        TrainingError: when it is of another recipe, or a sweep lies there.
        DataError: when the file is no result.
    """
    if (out / SWEEP_FILE).exists():
        raise TrainingError(f"{out} holds a sweep, and no training: choose another --out")
    path = out / RESULT_FILE
    if not path.exists():
        return None
    result = read_record(path, Finished)
    check_same_recipe(result["recipe"], recipe, out)
    _tell_where(result, recipe, out)
    return result


def _tell_where(result: dict[str, Any], recipe: Recipe, out: Path) -> None:
    """Warn of a run that has ended elsewhere than is asked for now."""
    machine = result.get("machine")
    if not machine:
        return
    kind, threads = machine.get("device", CPU.kind), machine["threads"]
    asked = recipe.device.partition(":")[0]
    if asked in ("auto", kind) and threads == recipe.threads:
        return
    warnings.warn(
        f"{out}: this run ended on {kind}, {threads} threads, and is not trained again on "
        f"{recipe.device}, {recipe.threads} threads, whose file may differ: for that choose "
        "another --out",
        stacklevel=4,
    )


def finish(
    recipe: Recipe,
    model: nn.Module,
    unseen: Split,
    trained: Split,
    out: Path,
    epochs: list[dict[str, Any]],
    estimate_bytes: float,
    seconds: float,
    device: Device = CPU,
    places: Sequence[str] = (),
) -> dict[str, Any]:
    """Write ``model``, read it back, compare bits, evaluate the decoded one.

    Args:
        model: finalized; ends on the CPU.
        unseen: the test set; or what the recipe holds out to choose with,
            so that choosing never sees the test set.
        estimate_bytes: live size of the network before it was finalized.
        device: where ``unseen`` and ``trained`` are, and networks are evaluated.
        places: where the run trained, one after the other.

    Returns:
        the result, which is on disk with the log of ``epochs`` and of this one evaluation.
    """
    path = out / MODEL_FILE
    save_file(model, path)
    decoded = load_model(make_network(recipe.network), path).eval()
    model = model.cpu()
    _check_equal_bits(model.state_dict(), decoded.state_dict(), path)
    compared = unseen[:_COMPARED_AHEAD].to(CPU.place) if device.runs_ahead else unseen
    there = evaluate(decoded, compared)
    if not torch.equal(evaluate(model, compared).predictions, there.predictions):
        raise MismatchError(f"{path}: the decoded network predicts something else")
    decoded = decoded.to(device.place)
    test = evaluate(decoded, unseen) if device.runs_ahead else there
    before = make_network(recipe.network).eval()
    before.load_state_dict(safetensors.torch.load_file(out / FLOAT_FILE))
    before = before.to(device.place)
    # of many examples, and no decision hangs on a last bit
    with autocast(recipe.precision, device.kind):
        labels_bits = evaluate(decoded, trained).label_bits
    tensors = model.state_dict().values()
    classes = len(set(unseen.labels.tolist()))
    parameters = sum(t.numel() for t in tensors)
    file_bytes = path.stat().st_size
    result = {
        "name": recipe.name,
        "network": recipe.network,
        "data": recipe.data,
        "seed": recipe.seed,
        "evaluated_on": "held-out" if recipe.holdout else "test",
        "float_bytes": 4 * parameters,
        "file_bytes": file_bytes,
        "ratio": 4 * parameters / file_bytes,
        "float_error_percent": evaluate(before, unseen).error_percent,
        "decoded_error_percent": test.error_percent,
        "warning": collapse(model.state_dict(), test.error_percent, classes),
        "nonzeros": sum(int(t.count_nonzero()) for t in tensors),
        "parameters": parameters,
        "estimate_bytes": estimate_bytes,
        "labels_bytes": labels_bits / 8,
        "mdl_bytes": labels_bits / 8 + file_bytes,
        "predictions_sha256": test.predictions_sha256,
        "seconds": seconds,
        "versions": {
            "ectorch": ectorch.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "device": device.kind,
            **({"card": device.card} if device.card else {}),
        },
        "devices": [*places],
        "recipe": recipe.as_dict(),
    }
    evaluation = {key: result[key] for key in _LOGGED}
    records = [*epochs, {"evaluation_of": path.name} | evaluation]
    write_atomic(out / LOG_FILE, "".join(json.dumps(r) + "\n" for r in records).encode())
    write_atomic(out / RESULT_FILE, (json.dumps(result, indent=2) + "\n").encode())
    return result


def _check_equal_bits(written: dict[str, Tensor], read: dict[str, Tensor], path: Path) -> None:
    for name, tensor in written.items():
        bits = (t.reshape(-1).view(torch.uint8) for t in (tensor, read[name]))
        if not torch.equal(*bits):
            raise MismatchError(f"{path}: {name} was read back with other bits")
