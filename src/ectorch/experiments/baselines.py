"""Other ways to store a float network: real bytes, and the error of what they hold."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import zstandard
from safetensors import SafetensorError
from torch import Tensor

from ectorch.bitstream import write_atomic
from ectorch.errors import DataError, RecipeError
from ectorch.experiments import data as data_sets
from ectorch.experiments.build import make_network
from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.record import Baseline, inside, read_records
from ectorch.experiments.split import Split, hold_out

BASELINES_FILE = "baselines.json"
Task = tuple[str, str, str]  # network, data, and what examples an error is of
_ZSTD_LEVEL = 19
_Tensors = Mapping[str, Tensor]


def read_baselines(folder: Path, task: Task) -> list[dict[str, Any]]:
    """The baselines of one task that lie in ``folder``, largest first; maybe none."""
    rows = [row for row in _all(folder) if (row["network"], row["data"], row["on"]) == task]
    return sorted(rows, key=lambda row: -row["file_bytes"])


def add_baselines(folder: Path, task: Task, recipe: Mapping[str, Any], path: Path) -> None:
    """Measure the float network in ``path`` on what runs of ``recipe`` are evaluated on; keep it.

    It runs a user's own network and loader where ``task`` names them.

    Raises:
        DataError: when the images cannot be had, or the file does not hold that network.
    """
    network, data, on = task
    try:
        make_network(network)
    except RecipeError as error:
        raise DataError(f"{path}: {error}") from error
    shared = {"network": network, "data": data, "on": on}
    unseen = unseen_examples(data, recipe.get("holdout", 0))
    try:
        rows = [shared | row for row in measure(network, path, unseen)]
    except (RuntimeError, SafetensorError) as error:
        raise DataError(f"{path}: {error}") from error
    text = json.dumps(_all(folder) + rows, indent=2) + "\n"
    write_atomic(folder / BASELINES_FILE, text.encode())


def measure(network: str, path: Path, unseen: Split) -> list[dict[str, Any]]:
    """Bytes and error of the float network in ``path`` (safetensors), stored in each way.

    32- and 16-bit floats are safetensors files. int8 and int4 round matrices with one symmetric
    scale a row (float16), other tensors to 16 bits, and pass the file through zstd; NNCodec codes
    the same integers where it is installed.

    Args:
        unseen: examples that tell the error.
    """
    floats = safetensors.torch.load_file(path)
    rows = []
    for name, file_bytes, tensors in _stored(floats):
        model = make_network(network)
        model.load_state_dict(tensors)
        error = evaluate(model.eval(), unseen).error_percent
        rows.append({"name": name, "file_bytes": file_bytes, "error_percent": error})
    return rows


def unseen_examples(name: str, holdout: int) -> Split:
    """What a run on that data set, with so many examples held out, was evaluated on."""
    data = data_sets.load(name)
    return hold_out(data.train, holdout)[1] if holdout else data.test


def _all(folder: Path) -> list[dict[str, Any]]:
    path = inside(folder, folder / BASELINES_FILE)
    return read_records(path, Baseline) if path.exists() else []


def _stored(floats: _Tensors) -> Iterator[tuple[str, int, dict[str, Tensor]]]:
    """Each way's name, bytes, and the tensors that it gives back."""
    yield "float32", len(safetensors.torch.save(dict(floats))), dict(floats)
    halves = {name: tensor.half() for name, tensor in floats.items()}
    whole = {name: tensor.float() for name, tensor in halves.items()}
    yield "float16", len(safetensors.torch.save(halves)), whole
    coders: dict[str, Callable[[_Tensors, int], int]] = {"zstd": _zstd_bytes}
    if importlib.util.find_spec("nncodec"):
        coders["NNCodec"] = _nncodec_bytes
    for bits in (8, 4):
        integers, scales, given = _rounded(floats, bits)
        rest = len(safetensors.torch.save(scales))
        for coder, bytes_of in coders.items():
            yield f"int{bits} + {coder}", bytes_of(integers, bits) + rest, given


def _rounded(floats: _Tensors, bits: int) -> tuple[_Tensors, dict[str, Tensor], dict[str, Tensor]]:
    """Matrices as integers of so many bits; scales and the rest in float16; what all stands for."""
    integers, kept, given = {}, {}, {}
    for name, tensor in floats.items():
        if tensor.ndim < 2:
            kept[name] = tensor.half()
            given[name] = kept[name].to(tensor.dtype)
            continue
        top = 2 ** (bits - 1) - 1
        rows = tensor.flatten(1)
        scale = (rows.abs().amax(1, keepdim=True) / top).clamp(min=2**-24).half()
        integers[name] = (rows / scale.float()).round().clamp(-top, top).to(torch.int8)
        kept[f"{name}.scale"] = scale
        given[name] = (integers[name] * scale.float()).reshape(tensor.shape)
    return integers, kept, given


def _zstd_bytes(integers: _Tensors, bits: int) -> int:
    packed = dict(integers)
    if bits == 4:  # two in a byte
        for name, rows in integers.items():
            flat = torch.cat([rows.flatten(), rows.new_zeros(rows.numel() % 2)]) & 15
            packed[name] = (flat[::2] << 4) | flat[1::2]
    return len(zstandard.compress(safetensors.torch.save(packed), _ZSTD_LEVEL))


def _nncodec_bytes(integers: _Tensors, bits: int) -> int:
    from nncodec import nnc

    symbols = {name: rows.numpy().astype(np.int32) for name, rows in integers.items()}
    return len(nnc.compress(symbols, bitstream_path=None, return_bitstream=True))
