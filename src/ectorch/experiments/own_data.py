"""A user's own data set: what a loader returned, checked and in the form of ours."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from ectorch.arguments import shown
from ectorch.errors import DataError
from ectorch.experiments import own
from ectorch.experiments.split import DataSet, Split

_SEED = 0  # of torch while a loader runs: a random split of it is the same in every command
_IMAGE_DIMENSIONS = 4
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
_RETURNS = "expected (train, test), each of them (inputs, labels) or a torch Dataset"


def load_own(name: str) -> DataSet:
    """Call a loader, ``package.module:function``, and check what it returns.

    It returns ``(train, test)``: each a pair of inputs and labels (tensors or arrays), a `Split`,
    or a map-style torch Dataset of such pairs. Inputs are uint8 images (n, channels, height,
    width), or float32 or int64 of any shape (n, ...); labels (n,) are integers from 0.

    Raises:
        RecipeError: when there is no such function, or it raises.
        DataError: when it returned anything else.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        given = own.call("data", name)
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise DataError(f"{name}: {_RETURNS}, got {shown(given)}")
        train, test = (
            _split(f"{name}: {what}", part)
            for what, part in zip(("train", "test"), given, strict=True)
        )
    if (train.inputs.dtype, train.inputs.shape[1:]) != (test.inputs.dtype, test.inputs.shape[1:]):
        raise DataError(f"{name}: train has {_form(train)}, test has {_form(test)}")
    classes = 1 + int(max(train.labels.max(), test.labels.max()))
    if classes == 1:
        raise DataError(f"{name}: every label is 0: expected two classes at least")
    return DataSet(name, train, test, classes, _sha256(train, test))


def _split(what: str, given: Any) -> Split:
    with own.told(what, DataError):
        if isinstance(given, Split):
            inputs, labels = given.inputs, given.labels
        elif isinstance(given, TensorDataset) and len(given.tensors) == 2:
            inputs, labels = given.tensors
        elif isinstance(given, tuple | list) and len(given) == 2:
            inputs, labels = given
        elif hasattr(given, "__getitem__") and hasattr(given, "__len__"):
            inputs, labels = _stacked(given)
        else:
            raise DataError(f"{what}: {_RETURNS}, got {shown(given)}")
        split = Split(_tensor(f"{what} inputs", inputs), _tensor(f"{what} labels", labels))
        _check_labels(what, split)
        _check_inputs(what, split.inputs)
        return Split(split.inputs, split.labels.long())


def _stacked(examples: Any) -> tuple[Tensor, Tensor]:
    """All inputs and all labels of a Dataset."""
    pairs = [examples[at] for at in range(len(examples))]
    inputs = torch.stack([torch.as_tensor(given) for given, _ in pairs])
    return inputs, torch.stack([torch.as_tensor(label) for _, label in pairs])


def _tensor(what: str, given: Any) -> Tensor:
    if isinstance(given, np.ndarray):
        given = torch.tensor(given)
    if not isinstance(given, Tensor):
        raise DataError(f"{what}: expected a tensor, got {shown(given)}")
    if given.layout != torch.strided or given.device.type != "cpu":
        raise DataError(f"{what}: {given.layout} on {given.device}: expected dense on the CPU")
    return given.detach().contiguous()


def _check_labels(what: str, split: Split) -> None:
    labels = split.labels
    if labels.dtype not in _INTEGERS or labels.ndim != 1:
        raise DataError(
            f"{what} labels: {_dtype(labels)} {tuple(labels.shape)}: expected integers (n,)"
        )
    if split.inputs.ndim < 2 or len(split.inputs) != len(labels):
        raise DataError(
            f"{what}: inputs {tuple(split.inputs.shape)} and labels {tuple(labels.shape)}: "
            "expected inputs (n, ...) and labels (n,)"
        )
    if not len(labels):
        raise DataError(f"{what}: no examples")
    if (least := int(labels.min())) < 0:
        raise DataError(f"{what} labels: {least} is below 0: expected 0 to classes - 1")


def _check_inputs(what: str, inputs: Tensor) -> None:
    if inputs.dtype == torch.uint8 and inputs.ndim != _IMAGE_DIMENSIONS:
        raise DataError(
            f"{what} inputs: uint8 {tuple(inputs.shape)}: uint8 are images, expected (n, channels, "
            "height, width); or float32 of any shape"
        )
    if inputs.dtype not in (torch.uint8, torch.float32, torch.int64):
        raise DataError(
            f"{what} inputs: {_dtype(inputs)}: expected uint8 images, or float32 (inputs.float()) "
            "or int64 of any shape"
        )
    if inputs.dtype == torch.float32:
        bad = ~inputs.flatten(1).isfinite().all(1)
        if count := int(bad.sum()):
            first = int(bad.nonzero()[0])
            raise DataError(
                f"{what} inputs: {count:,} of {len(inputs):,} hold NaN or infinity, first "
                f"inputs[{first}]"
            )


def _form(split: Split) -> str:
    return f"{_dtype(split.inputs)} inputs (n, {', '.join(map(str, split.inputs.shape[1:]))})"


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _sha256(*splits: Split) -> str:
    digest = hashlib.sha256()
    for split in splits:
        for tensor in (split.inputs, split.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()
