import copy

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.errors import ConfigError
from ectorch.posttrain.quantize import quantize
from ectorch.posttrain.tune import tune
from ectorch.storage.files import save


@pytest.fixture(scope="module")
def taught():
    """A network for digits, its inputs and their labels."""
    digits = load_digits()
    images, labels = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        for _ in range(12):
            for batch in torch.randperm(len(images)).split(64):
                loss = F.cross_entropy(model(images[batch]), labels[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval(), images, labels


def error(model, images, labels):
    with torch.no_grad():
        return 100 * float((model(images).argmax(1) != labels).float().mean())


def test_it_mends_what_rounding_did_at_the_same_size(taught):
    teacher, images, labels = taught
    model, before = copy.deepcopy(teacher), copy.deepcopy(teacher.state_dict())
    report = quantize(model, images[:512], target_bytes=900, divergence="kl")
    rounded = error(model, images, labels)
    size = tune(model, teacher, [*images.split(64)], report, steps=200)
    assert size == len(save(model)) <= report.size_bytes
    assert error(model, images, labels) < rounded - 1
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_it_goes_on_to_a_smaller_size(taught):
    teacher, images, _ = taught
    model = copy.deepcopy(teacher)
    report = quantize(model, images[:512], target_bytes=1500, divergence="kl")
    assert tune(model, teacher, images.split(64), report, target_bytes=900, steps=60) <= 900
    assert len(save(model)) <= 900


def test_what_it_is_given_is_checked(taught):
    teacher, images, _ = taught
    model = copy.deepcopy(teacher)
    report = quantize(model, images[:512], target_bytes=1500)
    for batches in ([], lambda net: net(images)):
        with pytest.raises(ConfigError, match="one mini-batch at least"):
            tune(model, teacher, batches, report)
    with pytest.raises(ConfigError, match=r"expected what ectorch\.quantize returned"):
        tune(model, teacher, images, 1500)
    with pytest.raises(ConfigError, match="does not run on them"):
        tune(model, teacher, images[:, :3], report)
    assert not hasattr(ec, "tune")
