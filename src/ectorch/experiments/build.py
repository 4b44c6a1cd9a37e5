"""The network that a recipe names, ours or a user's own, and whether it can take the data."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from ectorch.arguments import shown
from ectorch.constrain.config import Config
from ectorch.errors import MismatchError, RecipeError, UnsupportedTensorError
from ectorch.experiments import own
from ectorch.experiments.device import CPU, Device
from ectorch.experiments.inputs import arranged, values
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.split import DataSet
from ectorch.storage.discrete import mean_state_dict
from ectorch.storage.tensors import raw_tensors
from ectorch.workflow import prepare

_MEASURED_AT_ONCE = 1000  # inputs that tell the statistics of batch norms
_TRIED = 4  # inputs: batch norms need two at least


def make_network(name: str, key: str = "network") -> nn.Module:
    """A new network of `NETWORKS`, or of a user's own function; initial values are torch's random.

    Args:
        name: of one, or ``package.module:function``, called without arguments.
        key: of the recipe, for errors.

    Raises:
        RecipeError: when there is none of that name, or the function gives none that can be stored.
    """
    own.check_known(key, name, NETWORKS)
    if name in NETWORKS:
        return NETWORKS[name]()
    model = own.call(key, name)
    if not isinstance(model, nn.Module):
        raise RecipeError(f"{key}: {name}: expected a torch.nn.Module, got {shown(model)}")
    with own.told(f"{key}: {name}: a copy of the network"):
        model = copy.deepcopy(model)  # the function may give the same one each time
    try:
        raw_tensors(model)
    except UnsupportedTensorError as error:
        raise RecipeError(f"{key}: {name}: {error}") from error
    if devices := {t.device.type for t in model.state_dict().values()} - {"cpu"}:
        raise RecipeError(f"{key}: {name}: on {', '.join(devices)}: expected on the CPU")
    return model


def check_network(
    name: str,
    model: nn.Module,
    data: DataSet,
    key: str = "network",
    trains: bool = True,
    device: Device = CPU,
) -> int:
    """Refuse a network that cannot take the data, by asking a copy of it.

    Args:
        trains: ask it in training mode, too.
        device: where it is asked, and will run.

    Returns:
        how many logits it gives.

    Raises:
        MismatchError: for images of another shape than a network of ours takes, naming both.
        RecipeError: when it fails, or gives no logits, or fewer than there are classes.
    """
    inputs = data.train.inputs[:_TRIED]
    shape = getattr(model, "image_shape", None)
    if shape is not None and tuple(inputs.shape[1:]) != shape:
        raise MismatchError(
            f"{name} takes images of {shape}, those of {data.name} are {tuple(inputs.shape[1:])}"
        )
    given = f"{tuple(inputs.shape)} {str(inputs.dtype).removeprefix('torch.')} of {data.name}"
    if device != CPU:
        given += f" on {device.kind}"
    modes = ("train", "eval") if trains else ("eval",)
    with torch.random.fork_rng(devices=device.generators), torch.no_grad():
        trial = copy.deepcopy(model).to(device.place)
        inputs = inputs.to(device.place)
        for mode in modes:
            trial.train(mode == "train")
            with own.told(f"{key}: {name} in {mode} mode, given inputs {given},"):
                logits = trial(arranged(trial, values(inputs)))
            if not isinstance(logits, Tensor) or not logits.is_floating_point():
                found = shown(logits)
            elif logits.ndim != 2 or len(logits) != len(inputs):
                found = f"shape {tuple(logits.shape)}"
            elif logits.shape[1] < data.classes:
                found = f"{logits.shape[1]} logits each"
            else:
                continue
            raise RecipeError(
                f"{key}: {name} in {mode} mode, given inputs {given}: expected logits "
                f"({len(inputs)}, classes) for {data.classes} classes at least, got {found}; the "
                f"highest label of {data.name} is {data.classes - 1}"
            )
    return int(logits.shape[1])


def check_prepares(model: nn.Module, config: Config) -> None:
    """Refuse settings that do not fit the network before it is trained for them, on a copy.

    Raises:
        ConfigError, UnsupportedLayerError: as `ectorch.prepare`.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they come where the network itself is prepared
        prepare(copy.deepcopy(model), replace(config, keep_grid=False))


def expected_network(plain: nn.Module, model: nn.Module, given: Tensor) -> nn.Module:
    """The network with the expected weights of the prepared ``model``, in eval mode.

    Args:
        plain: the same network, not prepared; it is copied.
        given: inputs (n, ...) of it, that tell the statistics of batch norms: those of ``model``
            belong to other weights.
    """
    network = copy.deepcopy(plain)
    network.load_state_dict(mean_state_dict(model))
    update_bn(torch.split(given, _MEASURED_AT_ONCE), network)
    return network.eval()
