import gc
import subprocess
import sys
import weakref
from collections.abc import Mapping

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.bitstream.file import writer
from ectorch.errors import ConfigError, FormatError, MismatchError, UnsupportedTensorError
from ectorch.storage.files import save


def tensors():
    draw = torch.Generator().manual_seed(0)
    found = {
        f"layer.{at}.weight": torch.randint(-2, 3, (40, 30), generator=draw) * 0.5
        for at in range(12)
    }
    found |= {f"layer.{at}.bias": torch.randn(40, generator=draw) for at in range(12)}
    return found | {"tied": found["layer.3.weight"].clone(), "empty": torch.zeros(0, 3)}


class Lazy(Mapping):
    """Reads a tensor when it is asked for one; counts, and how many are alive at once."""

    def __init__(self, source):
        self.source, self.reads, self.alive, self.most = source, [], weakref.WeakSet(), 0

    def __getitem__(self, name):
        self.reads.append(name)
        tensor = self.source[name].clone()
        gc.collect()
        self.alive.add(tensor)
        self.most = max(self.most, sum(each.nbytes for each in self.alive))
        return tensor

    def __iter__(self):
        return iter(self.source)

    def __len__(self):
        return len(self.source)


@pytest.mark.parametrize("preset", ["small", "balanced", "fast"])
@pytest.mark.parametrize("lot", [1, 6000, 1 << 28])
def test_the_bytes_are_those_of_a_dict(tmp_path, monkeypatch, preset, lot):
    monkeypatch.setattr(writer, "_SPOOLED_BYTES", lot)
    expected = save(tensors(), {"who": "me"}, preset)
    monkeypatch.setattr(writer, "_LOT_BYTES", lot)
    assert save(tensors(), {"who": "me"}, preset) == expected
    path = tmp_path / "model.ect"
    for given in (
        Lazy(tensors()),
        sorted(tensors().items()),
        (p for p in sorted(tensors().items())),
    ):
        assert ec.save_file(given, path, {"who": "me"}, preset) == len(expected)
        assert path.read_bytes() == expected
    assert [each.name for each in tmp_path.iterdir()] == ["model.ect"]


def test_each_tensor_is_read_once_and_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "_LOT_BYTES", 10_000)
    lazy = Lazy({f"t{at:03}": torch.randn(1000) for at in range(50)})
    ec.save_file(lazy, tmp_path / "model.ect", preset="fast")
    assert lazy.reads == sorted(lazy.source)
    assert lazy.most <= 30_000


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("b", torch.ones(3)), ("a", torch.ones(3))], "'a' comes after 'b'"),
        ([("a", torch.ones(3)), ("a", torch.ones(3))], "'a' comes twice"),
    ],
)
def test_pairs_have_to_be_sorted(tmp_path, pairs, words):
    with pytest.raises(ConfigError, match=words):
        ec.save_file(iter(pairs), tmp_path / "model.ect")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("given", [[1, 2], ["ab"], [("a",)], "text", 7, torch.ones(2)])
def test_what_are_no_pairs_are_refused(tmp_path, given):
    with pytest.raises(UnsupportedTensorError):
        ec.save_file(given, tmp_path / "model.ect")
    assert not [*tmp_path.iterdir()]


def test_a_tensor_that_cannot_be_read_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.ect"
    ec.save_file(tensors(), path)
    before = path.read_bytes()

    def pairs():
        yield "a", torch.ones(3)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        ec.save_file(pairs(), path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["model.ect"]


@pytest.mark.parametrize("spooled", [1, 1 << 26])
def test_a_pipe_gets_the_file_too(tmp_path, spooled):
    script = (
        "import torch, ectorch as ec; from ectorch.bitstream.file import writer;"
        f"writer._SPOOLED_BYTES = {spooled};"
        "ec.save_file(iter([('a', torch.arange(500.0))]), '/dev/stdout')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout == save({"a": torch.arange(500.0)})


def network():
    return nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2).double())


def test_a_file_goes_into_a_network_where_it_is(tmp_path):
    model, other = network(), network()
    ec.save_model(model, tmp_path / "model.ect")
    places = {name: tensor.data_ptr() for name, tensor in other.state_dict().items()}
    assert ec.load_file(tmp_path / "model.ect", into=other) == {}
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert tensor.data_ptr() == places[name]
    state = network().state_dict()
    ec.load_file(tmp_path / "model.ect", into=state)
    assert torch.equal(state["0.weight"], model[0].weight)


def test_ties_are_filled_once_and_conflicts_refused(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(3, 3), nn.Linear(3, 3)
            self.other.weight = self.one.weight

    model = Tied()
    ec.save_model(model, tmp_path / "model.ect")
    other = Tied()
    ec.load_file(tmp_path / "model.ect", into=other)
    assert torch.equal(other.other.weight, model.one.weight)
    state = {name: torch.randn_like(value) for name, value in model.state_dict().items()}
    ec.save_file(state, tmp_path / "apart.ect")
    with pytest.raises(MismatchError, match="share memory, and the file has two values"):
        ec.load_file(tmp_path / "apart.ect", into=other)


def misfits():
    first, norm, last = network()
    return {
        "missing": (nn.Sequential(first, norm, last, nn.Linear(2, 1)), "3.bias is missing"),
        "more": (nn.Sequential(first), "1.bias has no tensor to go into"),
        "shape": (nn.Sequential(nn.Linear(9, 4), norm, last), r"0.weight is float32 \(4, 8\)"),
        "dtype": (network().half(), "there is room for float16"),
        "meta": (network().to("meta"), "no plain tensor with values"),
    }


@pytest.mark.parametrize("case", [*misfits()])
def test_what_does_not_fit_is_left_as_it_was(tmp_path, case):
    ec.save_model(network(), tmp_path / "model.ect")
    into, words = misfits()[case]
    before = {name: value.clone() for name, value in into.state_dict().items()}
    with pytest.raises(MismatchError, match=words):
        ec.load_file(tmp_path / "model.ect", into=into)
    if case != "meta":
        assert all(torch.equal(value, before[name]) for name, value in into.state_dict().items())


def test_prepared_networks_other_things_and_damage(tmp_path):
    path = tmp_path / "model.ect"
    ec.save_model(network(), path)
    with pytest.raises(ConfigError, match=r"use ectorch\.load_model"):
        ec.load_file(path, into=ec.prepare(network()))
    with pytest.raises(ConfigError, match="into = 7"):
        ec.load_file(path, into=7)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(FormatError):
        ec.load_file(path, into=network())
