"""A run that starts from the file of an earlier one."""

import json

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.errors import RecipeError
from ectorch.experiments.data import DataSet, Split
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.training import train


def test_a_run_starts_from_a_file_and_keeps_its_grid(finished, tmp_path, table):
    start = finished[0] / "model.ect"
    constrain = table["constrain"] | {"alpha": 0.0, "lr": 1e-9, "codebook_lr": 1e-9}
    constrain["config"] = {**constrain["config"], "keep_grid": True}
    changed = table | {
        "start": str(start),
        "pretrain": {"epochs": 0},
        "constrain": constrain | {"epochs": 1, "remove_dead": False},
        "finetune": {"epochs": 0},
    }
    result = train(parse_recipe(changed), tmp_path / "out")
    assert result["predictions_sha256"] == finished[1]["predictions_sha256"]
    assert result["float_error_percent"] == finished[1]["decoded_error_percent"]
    stored, written = ec.load_file(start), ec.load_file(tmp_path / "out/model.ect")
    assert all(torch.equal(stored[name], written[name]) for name in stored)


def test_a_start_of_no_epochs_is_put_on_grids_as_it_is(finished, tmp_path, table):
    none = {"epochs": 0}
    config = {"levels": 1023, "reach": 511.0}
    changed = table | {"pretrain": none, "constrain": none | {"config": config}, "finetune": none}
    start = finished[0] / "model.ect"
    result = train(parse_recipe(changed | {"start": str(start)}), tmp_path)
    kept, given = ec.load_file(tmp_path / "model.ect"), ec.load_file(start)
    assert all(torch.allclose(kept[name], given[name], atol=0.01) for name in given)
    assert result["decoded_error_percent"] == pytest.approx(
        finished[1]["decoded_error_percent"], abs=1
    )


class Residual(nn.Module):
    """Batch norms behind a convolution and at the end of a branch, as residual networks have."""

    image_shape = (3, 32, 32)

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16)
        self.second, self.end = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 10)

    def forward(self, images):
        maps = F.relu(self.norm(self.first(images)))
        return self.head(F.relu(maps + self.end(self.second(maps))).mean((2, 3)))


def test_a_run_that_starts_from_a_file_goes_on_with_its_batch_norms(tmp_path, monkeypatch, table):
    monkeypatch.setitem(NETWORKS, "residual", Residual)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, images[:, 0].float().mean((1, 2)).argsort().argsort() // 13)
    monkeypatch.setattr(
        "ectorch.experiments.data.load", lambda name: DataSet("cifar-10", split, split)
    )
    changed = table | {"network": "residual", "data": "cifar-10", "finetune": {"epochs": 0}}
    still = {"epochs": 1, "batch": 128, "alpha": 0.0, "lr": 1e-9, "codebook_lr": 1e-9}
    config = {"levels": 127, "reach": 63.0, "keep_grid": True}
    still |= {"config": config, "remove_dead": False}
    pretrain = {"epochs": 12, "batch": 32}
    train(parse_recipe(changed | {"pretrain": pretrain, "constrain": still}), tmp_path / "first")
    start = tmp_path / "first/model.ect"
    with torch.no_grad():
        logits = ec.load_model(Residual(), start).eval()(images.float() / 255)
    changed |= {"start": str(start), "pretrain": {"epochs": 0}, "constrain": still}
    train(parse_recipe(changed), tmp_path / "second")
    epoch = json.loads((tmp_path / "second/log.jsonl").read_text().splitlines()[0])
    expected = F.cross_entropy(logits, split.labels).item()
    assert epoch["loss"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.ect", None, "No such file"),
        ("missing.safetensors", None, "No such file"),
        ("damaged.ect", b"ECT", "header: 1 bytes expected"),
        ("other.safetensors", safetensors.torch.save({"x": torch.zeros(1)}), "fc1.weight"),
    ],
)
def test_a_start_that_cannot_be_had_is_named(tmp_path, name, content, said, table):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=f"start: .*{name}.*({said})"):
        train(parse_recipe(table | {"start": str(tmp_path / name)}), tmp_path / "out")
