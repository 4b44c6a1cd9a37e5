"""From which grid a training toward a size starts."""

import copy

import pytest
import torch

import ectorch as ec
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.target import SizeTarget
from ectorch.workflow import convert

TABLE = {
    "name": "sized",
    "network": "lenet-300-100",
    "data": "digits",
    "pretrain": {"epochs": 1},
    "constrain": {"epochs": 1},
}


@pytest.fixture(scope="module")
def start():
    """A plain network, the settings of its recipe, and the size from which it would start."""
    torch.manual_seed(0)
    model = NETWORKS["lenet-300-100"]()
    with torch.no_grad():  # few large weights, as trained networks have
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) ** 3)
    config = parse_recipe(TABLE).constrain.make_config()
    return model, config, size_of(model, config)


def size_of(model, config):
    return ec.SizeMeter()(ec.prepare(copy.deepcopy(model), config)).total


@pytest.mark.parametrize("times", [0.5, 2.0])
def test_a_grid_from_which_files_grow_to_the_size_is_kept(start, times):
    model, config, size = start
    recipe = parse_recipe(TABLE | {"target_bytes": int(times * size)})
    target = SizeTarget(recipe, model, ec.SizeMeter(), steps=100)
    assert target.with_room(convert(copy.deepcopy(model)), config) == config


def test_a_large_file_starts_on_a_finer_grid_above_its_size(start):
    model, config, size = start
    recipe = parse_recipe(TABLE | {"target_bytes": 6_000})
    assert size < 6_000 / 4
    target = SizeTarget(recipe, model, ec.SizeMeter(), steps=100)
    finer = target.with_room(model, config)
    assert finer.reach > config.reach
    assert 6_000 <= size_of(model, finer) < 4 * 6_000
