"""A file goes into a network whole, or the network stays as it was."""

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.errors import MismatchError
from ectorch.storage.files import save


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.out = nn.Linear(16, 20, bias=False)
        self.out.weight = self.embed.weight


def test_tied_tensors_are_stored_once_and_loaded_into_a_model_that_ties_them(tmp_path):
    path = tmp_path / "m.ect"
    model = Tied()
    size = ec.save_file(model, path)
    assert size <= len(save({"embed.weight": model.embed.weight})) + 20
    fresh = ec.load_model(Tied(), path)
    assert fresh.out.weight is fresh.embed.weight
    assert torch.equal(fresh.out.weight, model.out.weight)
    with ec.safe_open(path) as file:
        assert file.get_entry("out.weight").alias_of == "embed.weight"


def test_load_model_restores_a_network_whole(tmp_path, small_network, all_same):
    model, fresh, path = small_network(), small_network(), tmp_path / "m.ect"
    model(torch.randn(8, 1, 8, 8))
    ec.save_file(model, path)
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    assert ec.load_model(fresh, path) is fresh
    assert all_same(fresh.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("4.bias"), r"4\.bias is missing"),
        (lambda s: s.update(extra=torch.ones(1)), "extra is not in the model"),
        (
            lambda s: s.update({"4.weight": torch.ones(10, 215)}),
            r"4\.weight is float32 \(10, 215\), the model has float32 \(10, 216\)",
        ),
        (
            lambda s: s.update({"4.weight": s["4.weight"].half()}),
            r"4\.weight is float16 \(10, 216\), the model has float32 \(10, 216\)",
        ),
    ],
    ids=["missing", "unexpected", "shape", "dtype"],
)
def test_mismatches_name_the_tensor_and_leave_the_model_as_it_was(
    change, message, tmp_path, small_network, all_same
):
    model, path = small_network(), tmp_path / "m.ect"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stored = {name: tensor + 1 for name, tensor in before.items()}
    change(stored)
    ec.save_file(stored, path)
    with pytest.raises(MismatchError, match=rf"m\.ect: .*{message}"):
        ec.load_model(model, path)
    assert all_same(model.state_dict(), before)


def test_what_both_sides_have_is_loaded_when_not_strict(tmp_path, small_network):
    model, path = small_network(), tmp_path / "m.ect"
    ec.save_file({"4.bias": torch.full((10,), 7.0), "extra": torch.ones(1)}, path)
    kept = model[4].weight.clone()
    ec.load_model(model, path, strict=False)
    assert (model[4].bias == 7).all()
    assert torch.equal(model[4].weight, kept)
    ec.save_file({"4.bias": torch.ones(9)}, path)
    with pytest.raises(MismatchError, match=r"4\.bias"):
        ec.load_model(model, path, strict=False)
