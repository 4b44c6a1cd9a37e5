"""The two image classifiers: a CNN for MNIST of ccexam, one for CIFAR-10 of cifar-10-model.

Neither says which training images it was not fitted to, if any: the last 5,000 are kept from the
calibration, and `Trained.selection` is the error on these, which may flatter a network.

The second needs h5py, which nothing else here does: ``pip install h5py``.
"""

from __future__ import annotations

import io
import itertools
from collections import OrderedDict
from functools import partial

import torch
from torch import Tensor, nn

from ectorch.errors import DataError
from ectorch.experiments import data
from ectorch.experiments.split import Split
from posttrain import packages
from posttrain.trained import BATCH, CALIBRATION, ERROR, Quality, Trained

_SELECTION = 5000
_TEST_BATCH = 64  # on one thread two to four times as fast as 1,000
_MEAN, _STD = 0.1307, 0.3081  # of MNIST's pixels over 255
_EPSILON = 1e-3  # Keras' default; torch's is 1e-5
_WEIGHTS = "ccexam/weights/mnist.pth"
_H5 = "cifar_10_model/trained_models/cnn_model.h5"


def mnist_cnn(seed: int) -> Trained:
    """421,642 parameters, 0.95 % of the test images wrong."""
    raw = packages.read(packages.CCEXAM, [_WEIGHTS])[_WEIGHTS]
    model = _MnistCnn()
    model.load_state_dict(torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True))
    return _trained("mnist-cnn", model, "mnist", lambda x: (x / 255 - _MEAN) / _STD, seed)


def cifar10_cnn(seed: int) -> Trained:
    """969,418 parameters with the running statistics, 19.86 % of the test images wrong.

    Inputs are pixels from 0 to 255.

    Raises:
        DataError: where h5py is not installed.
    """
    model = _CifarCnn()
    model.load_state_dict(_from_keras(packages.read(packages.CIFAR_10_MODEL, [_H5])[_H5]))
    return _trained("cifar10-cnn", model, "cifar-10", lambda x: x, seed)


class _MnistCnn(nn.Module):
    """Names as in ccexam's file."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear(3136, 128), nn.ReLU(), nn.Linear(128, 10))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class _CifarCnn(nn.Sequential):
    """Convolutions without padding, each followed by ReLU and then batch normalisation."""

    def __init__(self) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = (3, 64, 64, 128, 128, 64, 64)
        for index, (before, after) in enumerate(itertools.pairwise(channels)):
            layers[f"conv{index}"] = nn.Conv2d(before, after, 3)
            layers[f"relu{index}"] = nn.ReLU()
            layers[f"norm{index}"] = nn.BatchNorm2d(after, eps=_EPSILON)
            if index in (1, 3):
                layers[f"pool{index}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()  # one pixel is left
        features = (64, 1024, 512, 10)
        for index, (before, after) in enumerate(itertools.pairwise(features)):
            layers[f"dense{index}"] = nn.Linear(before, after)
            layers[f"dense_relu{index}"] = nn.ReLU()
        super().__init__(layers)


def _from_keras(raw: bytes) -> dict[str, Tensor]:
    try:
        import h5py
    except ImportError as error:
        raise DataError("cifar10-cnn is read with h5py: pip install h5py") from error
    state = {}
    with h5py.File(io.BytesIO(raw)) as file:
        weights = file["model_weights"]

        def read(kind: str, index: int, name: str) -> Tensor:
            layer = f"{kind}_{index}" if index else kind
            return torch.from_numpy(weights[layer][layer][f"{name}:0"][()])

        for index in range(6):
            kernel = read("conv2d", index, "kernel")  # height, width, in, out
            state[f"conv{index}.weight"] = kernel.permute(3, 2, 0, 1).contiguous()
            state[f"conv{index}.bias"] = read("conv2d", index, "bias")
            norm = partial(read, "batch_normalization", index)
            state[f"norm{index}.weight"] = norm("gamma")
            state[f"norm{index}.bias"] = norm("beta")
            state[f"norm{index}.running_mean"] = norm("moving_mean")
            state[f"norm{index}.running_var"] = norm("moving_variance")
            state[f"norm{index}.num_batches_tracked"] = torch.tensor(0)
        for index in range(3):
            state[f"dense{index}.weight"] = read("dense", index, "kernel").T.contiguous()
            state[f"dense{index}.bias"] = read("dense", index, "bias")
    return state


def _trained(name, model, data_set, scale, seed):
    loaded = data.load(data_set)
    pool = len(loaded.train) - _SELECTION
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(pool, generator=generator)[:CALIBRATION]
    calibration = scale(loaded.train.inputs[drawn].float()).split(BATCH)
    return Trained(
        name,
        model.eval(),
        calibration,
        _error(loaded.test, scale),
        _error(loaded.train[slice(pool, None)], scale),
        ERROR,
        "kl",
    )


def _error(split: Split, scale) -> Quality:
    @torch.inference_mode()
    def error(model: nn.Module) -> float:
        wrong = 0
        for start in range(0, len(split), _TEST_BATCH):
            part = split[slice(start, start + _TEST_BATCH)]
            scaled = scale(part.inputs.float()).contiguous(memory_format=torch.channels_last)
            wrong += int((model(scaled).argmax(1) != part.labels).sum())
        return 100 * wrong / len(split)

    return error
