"""A teacher takes part in the loss: the equation, its gradient, and whole trainings."""

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from ectorch.errors import RecipeError
from ectorch.experiments import data as data_sets
from ectorch.experiments.data import DataSet, Split
from ectorch.experiments.distill import Distill, Teacher
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.training import Interrupted, train

IMAGES = torch.rand(6, 1, 28, 28)
DATA = DataSet("mnist", *[Split(IMAGES, torch.arange(6))] * 2)
pytestmark = pytest.mark.usefixtures("small")
TABLE = {
    "name": "taught",
    "network": "small",
    "data": "digits",
    "threads": 1,
    "pretrain": {"epochs": 6, "batch": 50, "lr": 4e-3},
    "constrain": {"epochs": 0},
}


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "teacher.safetensors"
    safetensors.torch.save_file(NETWORKS["lenet-5-caffe"]().state_dict(), path)
    return path


def says(path):
    """The teacher's logits."""
    model = NETWORKS["lenet-5-caffe"]()
    model.load_state_dict(safetensors.torch.load_file(path))
    return model.eval()(IMAGES).detach()


def test_the_loss_is_the_labels_and_the_divergence_from_the_teacher(path):
    how = Distill(str(path), share=0.6, temperature=3.0)
    taught = says(path)
    logits = torch.randn(6, 10, requires_grad=True)
    label_loss = F.cross_entropy(logits, torch.arange(6))
    p, q = (torch.softmax(values / 3.0, 1) for values in (taught, logits))
    expected = 0.4 * label_loss + 0.6 * 9 * (p * (p / q).log()).sum(1).mean()
    mixed = Teacher(how, "float32", DATA).mix(label_loss, logits, IMAGES)
    torch.testing.assert_close(mixed, expected)


def test_nothing_pulls_at_a_network_that_says_what_the_teacher_says(path):
    teacher = Teacher(Distill(str(path), share=1.0), "float32", DATA)
    logits = says(path).requires_grad_()
    teacher.mix(torch.tensor(5.0), logits, IMAGES).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(6, 10), rtol=0, atol=1e-6)


@pytest.mark.slow  # a teacher, its pupil, and the pupil again in parts
def test_a_taught_run_learns_without_labels_and_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    teacher = train(parse_recipe(TABLE), tmp_path / "teacher")
    distill = {"teacher": str(tmp_path / "teacher/float.safetensors"), "share": 1.0}
    constrain = {"epochs": 2, "batch": 100, "alpha": 0.01}
    recipe = parse_recipe(TABLE | {"distill": distill, "constrain": constrain})
    load = data_sets.load
    monkeypatch.setattr(data_sets, "load", lambda name: _without_labels(load(name)))
    result = train(recipe, tmp_path / "whole")
    assert result["float_error_percent"] < teacher["float_error_percent"] + 5 < 25
    steps = 0

    def count(progress):
        nonlocal steps
        steps += 1

    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "parts", count, lambda: steps == 200)
    train(recipe, tmp_path / "parts")
    whole, parts = (tmp_path / name / "model.ect" for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


def _without_labels(data):
    train_split = Split(data.train.inputs, torch.zeros_like(data.train.labels))
    return DataSet(data.name, train_split, data.test)


@pytest.mark.parametrize(
    ("name", "network", "said"),
    [
        ("missing.ect", None, "No such file"),
        ("cifar.safetensors", "resnet-20", r"resnet-20 takes images of \(3, 32, 32\)"),
    ],
)
def test_a_teacher_that_cannot_be_had_is_named(tmp_path, name, network, said):
    if network:
        safetensors.torch.save_file(NETWORKS[network]().state_dict(), tmp_path / name)
    table = TABLE | {"distill": {"teacher": str(tmp_path / name)}}
    with pytest.raises(RecipeError, match=f"distill.teacher: .*{name}: .*{said}"):
        train(parse_recipe(table), tmp_path / "out")
