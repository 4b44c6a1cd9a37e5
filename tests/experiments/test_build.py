"""Networks by name, ours and a user's own, and whether they can take the data."""

import copy
import sys

import pytest
import torch

import ectorch as ec
from ectorch.errors import MismatchError, RecipeError
from ectorch.experiments.build import check_network, expected_network, make_network
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.split import DataSet, Split

OWN = """
import torch
from torch import nn

SHARED = nn.Linear(6, 3)

class Says(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.inner, self.what = nn.Linear(6, 3), what

    def forward(self, inputs):
        return self.what(self.inner(inputs))

class Extra(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

def make(): return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3))
def shared(): return SHARED
def lazy(): return nn.LazyLinear(3)
def extra(): return Extra(6, 3)
def text(): return "a network"
def fails(): raise ValueError("no\\nweights")
def exits(): raise SystemExit
def many(): return Says(lambda x: (x, x))
def maps(): return Says(lambda x: x[:, None])
def whole(): return Says(lambda x: x.argmax(1, keepdim=True))
def few(): return Says(lambda x: x[:, :2])
def wide(): return nn.Linear(7, 3)
def other(): return Says(lambda x: x if x.requires_grad else x.view(3, -1)[:, :0])
NUMBER = 3
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A module own_networks in the current folder."""
    (tmp_path / "own_networks.py").write_text(OWN)
    (tmp_path / "broken_network.py").write_text("import torch\nimport no_such_library\n")
    (tmp_path / "wrong_network.py").write_text("def make(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    for name in ("own_networks", "broken_network", "wrong_network"):
        sys.modules.pop(name, None)


def examples(shape=(6,), classes=3):
    split = Split(torch.randn(12, *shape), torch.arange(12) % classes)
    return DataSet("own_data:load", split, split, classes)


def test_a_network_of_a_users_own_is_made_and_can_take_its_data():
    torch.manual_seed(0)
    model = make_network("own_networks:make")
    data, before = examples(), copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    assert check_network("own_networks:make", model, data) == 3
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_function_may_give_the_same_network_each_time():
    first, second = make_network("own_networks:shared"), make_network("own_networks:shared")
    torch.nn.init.zeros_(first.weight)
    assert second.weight.all()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:make", "no module no_such_module, here or installed"),
        ("own_networks:mak", "own_networks has no mak; make?"),
        ("own_networks:zzz.y", "own_networks has no zzz.y"),
        ("own_networks:NUMBER", "expected a function, got 3 (int)"),
        ("own_networks:text", "expected a torch.nn.Module, got 'a network' (str)"),
        ("own_networks:fails", "raises ValueError: no weights (own_networks.py line 2"),
        ("own_networks:exits", "raises SystemExit (own_networks.py line"),
        ("own_networks:lazy", "lazy"),
        ("own_networks:extra", "_extra_state is a dict, no tensor"),
        ("broken_network:make", "importing it raises ModuleNotFoundError: No module named 'no_su"),
        ("broken_network:make", "(broken_network.py line 2)"),
        ("wrong_network:make", "importing it raises SyntaxError: invalid syntax (wrong_network.py"),
        ("lenet-300", "'lenet-300' is unknown; lenet-300-100?, known: lenet-300-100, lenet-5-"),
        ("a b:c", "'a b:c' is unknown"),
    ],
)
def test_what_is_no_network_is_told_in_a_line(name, said):
    with pytest.raises(RecipeError) as error:
        make_network(name)
    assert str(error.value).startswith("network: ")
    assert name in str(error.value)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wide", r"\(4, 6\) float32 of own_data:load, raises RuntimeError: .*shapes"),
        ("many", r"expected logits \(4, classes\) for 3 classes at least, got .*tuple"),
        ("maps", r"in train mode.*got shape \(4, 1, 3\)"),
        ("whole", "got a Tensor of shape"),
        ("few", "got 2 logits each"),
        ("other", r"in train mode, .* got shape \(3, 0\)"),
    ],
)
def test_a_network_that_cannot_take_the_data_is_told_so(name, said):
    model = make_network(f"own_networks:{name}")
    with pytest.raises(RecipeError, match=f"^network: own_networks:{name} .*{said}"):
        check_network(f"own_networks:{name}", model, examples())


def test_images_of_another_shape_are_refused():
    model = NETWORKS["lenet-5-caffe"]()
    assert check_network("lenet-5-caffe", model, examples((1, 28, 28))) == 10
    with pytest.raises(MismatchError, match=r"lenet-5-caffe takes .*load are \(3, 32, 32\)"):
        check_network("lenet-5-caffe", model, examples((3, 32, 32)))
    with pytest.raises(RecipeError, match="for 12 classes at least, got 10 logits each"):
        check_network("lenet-5-caffe", model, examples((1, 28, 28), classes=12))


def test_the_expected_network_has_statistics_of_its_own_weights():
    torch.manual_seed(0)
    plain = NETWORKS["resnet-20"]()
    model = ec.prepare(copy.deepcopy(plain), ec.Config(levels=9))
    images = torch.rand(100, 3, 32, 32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    network = expected_network(plain, model, images)
    with torch.no_grad():
        by_statistics, by_batch = network(images), network.train()(images)
    assert torch.allclose(by_statistics, by_batch, atol=0.02)
    assert by_batch.std() > 0.1
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
