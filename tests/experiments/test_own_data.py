"""What a user's own loader may return, and what is said of anything else."""

import sys

import pytest
import torch

from ectorch.errors import DataError, RecipeError
from ectorch.experiments import data
from ectorch.experiments.split import Split

OWN = """
import numpy as np
import torch
from torch.utils.data import Dataset, TensorDataset, random_split

from ectorch.experiments.split import Split

X, Y = torch.arange(24.0).reshape(8, 3), torch.arange(8) % 4
PAIR = (X[:6], Y[:6]), (X[6:], Y[6:])

class Listed(Dataset):
    def __len__(self): return 5
    def __getitem__(self, at):
        return np.full((2, 2), at, np.float32), at % 2

class Failing(Listed):
    def __getitem__(self, at): return {}[at]

def pair(): return PAIR
def splits(): return [Split(*part) for part in PAIR]
def arrays(): return tuple((x.numpy(), y.numpy()) for x, y in PAIR)
def datasets(): return TensorDataset(*PAIR[0]), TensorDataset(*PAIR[1])
def listed(): return Listed(), Listed()
def short_labels(): return tuple((x, y.to(torch.uint8)) for x, y in PAIR)
def images(): return [(torch.zeros(4, 3, 9, 7, dtype=torch.uint8), torch.arange(4))] * 2
def tokens(): return [(torch.zeros(4, 5, dtype=torch.int64), torch.arange(4))] * 2
def random(): return random_split(TensorDataset(X, Y), [6, 2])
def numpy_random(): return [(torch.tensor(np.random.rand(4, 2)).float(), torch.arange(4))] * 2

def none(): return None
def one(): return PAIR[:1]
def letters(): return [(X, "letters")] * 2
def failing(): return Failing(), Listed()
def double(): return [(X.double(), Y)] * 2
def bytes_of_rows(): return [(X.to(torch.uint8), Y)] * 2
def float_labels(): return [(X, Y.float())] * 2
def two_labels(): return [(X, Y[:, None])] * 2
def shorter(): return [(X, Y[:-1])] * 2
def scalars(): return [(X[:, 0], Y)] * 2
def below(): return [(X, Y - 1)] * 2
def not_numbers(): return PAIR[0], (torch.where(X == 7, torch.nan, X), Y)
def empty(): return PAIR[0], (X[:0], Y[:0])
def single(): return [(X, Y * 0)] * 2
def apart(): return PAIR[0], (X[:, :2], Y)
def sparse(): return [(X.to_sparse(), Y)] * 2
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    (tmp_path / "own_loaders.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    sys.modules.pop("own_loaders", None)


@pytest.mark.parametrize("name", ["pair", "splits", "arrays", "datasets", "short_labels"])
def test_a_loader_may_return_its_tensors_in_many_forms(name):
    loaded = data.load(f"own_loaders:{name}")
    assert isinstance(loaded.train, Split)
    assert torch.equal(loaded.train.inputs, torch.arange(18.0).reshape(6, 3))
    assert loaded.test.labels.tolist() == [2, 3]
    assert loaded.test.labels.dtype == torch.int64
    assert (loaded.name, loaded.classes) == (f"own_loaders:{name}", 4)
    assert loaded.sha256 == data.load("own_loaders:pair").sha256


def test_examples_of_a_dataset_are_stacked():
    loaded = data.load("own_loaders:listed")
    assert loaded.train.inputs.shape == (5, 2, 2)
    assert loaded.train.inputs[3].eq(3).all()
    assert loaded.train.labels.tolist() == [0, 1, 0, 1, 0]


def test_images_of_any_size_and_numbers_of_any_shape_are_inputs():
    assert data.load("own_loaders:images").train.kind == "images"
    assert data.load("own_loaders:tokens").train.kind == "examples"


def test_a_random_split_of_torch_is_the_same_each_time():
    state = torch.get_rng_state()
    first, second = data.load("own_loaders:random"), data.load("own_loaders:random")
    assert torch.equal(first.train.inputs, second.train.inputs)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_tensors_have_another_sum():
    first, second = (data.load("own_loaders:numpy_random").sha256 for _ in range(2))
    assert first != second


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", r"expected \(train, test\), .*got None"),
        ("one", r"expected \(train, test\), "),
        ("letters", "train labels: expected a tensor, got 'letters'"),
        ("failing", r"train raises KeyError: 0 \(own_loaders.py line \d+\)"),
        ("double", r"train inputs: float64: expected .*\(inputs.float\(\)\)"),
        ("bytes_of_rows", r"train inputs: uint8 \(8, 3\): uint8 are images, expected \(n, channel"),
        ("float_labels", r"train labels: float32 \(8,\): expected integers \(n,\)"),
        ("two_labels", r"train labels: int64 \(8, 1\)"),
        ("shorter", r"train: inputs \(8, 3\) and labels \(7,\): expected"),
        ("scalars", r"train: inputs \(8,\) and labels \(8,\): expected"),
        ("below", "train labels: -1 is below 0"),
        ("not_numbers", r"test inputs: 1 of 8 hold NaN or infinity, first inputs\[2\]"),
        ("empty", "test: no examples"),
        ("single", "every label is 0: expected two classes"),
        ("apart", r"train has float32 inputs \(n, 3\), test has float32 inputs \(n, 2\)"),
        ("sparse", "train inputs: torch.sparse_coo on cpu: expected dense"),
    ],
)
def test_what_is_no_data_set_is_told_in_a_line(name, said):
    with pytest.raises(DataError, match=f"^own_loaders:{name}: {said}") as error:
        data.load(f"own_loaders:{name}")
    assert "\n" not in str(error.value)


def test_a_loader_that_is_not_there_is_named():
    with pytest.raises(
        RecipeError, match=r"^data: own_loaders:pairs: own_loaders has no pairs; pai"
    ):
        data.load("own_loaders:pairs")
