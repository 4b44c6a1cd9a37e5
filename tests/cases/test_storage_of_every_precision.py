"""Every call of storage on parameters of four precisions, plain and prepared."""

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.errors import MismatchError
from ectorch.size.measure import rate_bits
from ectorch.storage.files import save

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
EVERY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def network(dtype):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)
    ).to(dtype)


@EVERY_DTYPE
@pytest.mark.parametrize("prepared", [False, True])
def test_a_network_of_any_precision_is_saved_measured_and_loaded(dtype, prepared, tmp_path):
    net = network(dtype)
    if prepared:
        ec.prepare(net)
    path = tmp_path / "m.ect"
    size = ec.save_file(net, path, {"dtype": str(dtype)})
    assert save(net, {"dtype": str(dtype)}) == path.read_bytes()
    assert size / 4 < rate_bits(net) / 8 < size * 4
    assert 0 < ec.SizeMeter(ec.convert)(net).total <= size
    fresh = ec.load_model(network(dtype), path)
    state = fresh.state_dict()
    assert save(fresh, {"dtype": str(dtype)}) == path.read_bytes()
    loaded = ec.load_file(path)
    with ec.safe_open(path) as file:
        for name, tensor in state.items():
            assert tensor.dtype == loaded[name].dtype == file.get_tensor(name).dtype
            assert tensor.equal(loaded[name])
            assert tensor.ndim == 0 or file.get_slice(name)[1:].equal(tensor[1:])


@EVERY_DTYPE
def test_a_prepared_network_of_any_precision_starts_from_a_file(dtype, tmp_path):
    ec.save_file(network(dtype), tmp_path / "m.ect")
    net = ec.load_model(ec.prepare(network(dtype)), tmp_path / "m.ect")
    assert net[4]._parameters["weight"].equal(network(dtype)[4].weight)


@EVERY_DTYPE
def test_another_precision_is_refused_by_name(dtype, tmp_path):
    other = DTYPES[DTYPES.index(dtype) - 1]
    ec.save_file(network(other), tmp_path / "m.ect")
    with pytest.raises(MismatchError, match=r"0\.weight is .*, the model has"):
        ec.load_model(network(dtype), tmp_path / "m.ect")
