"""What of a network is constrained, and what its file comes to, before anything is trained."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.size.measure import rate_bits
from ectorch.storage.files import save


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(300, 16)
        self.positions = nn.Parameter(torch.randn(1, 20, 16))
        self.head = nn.Linear(16, 300, bias=False)
        self.head.weight = self.embedding.weight
        self.scale = nn.Parameter(torch.randn(16))


def mlp():
    return nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def cnn():
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.GroupNorm(4, 32),
    )
    for norm in (net[1], net[4]):
        nn.init.normal_(norm.weight)
    net[1].running_mean.normal_()
    return net


NETWORKS = [mlp, cnn, Tied]


def zeroed(model, found):
    """The file of a finalized ``model`` whose constrained tensors are zero."""
    state = ec.convert(model).state_dict()
    for row in found.rows:
        if row.constrained:
            state[row.name].zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of statistics that are not those of a hard network
        return len(save(ec.finalize(model)))


@pytest.mark.parametrize("make", NETWORKS)
def test_totals_add_up_and_the_least_is_that_of_the_zeroed_network(make):
    torch.manual_seed(0)
    net = ec.prepare(make())
    found = ec.coverage(net)
    assert found.float_bytes == sum(row.float_bytes for row in found.rows)
    for total, parts in (
        (found.file_bytes, [row.file_bytes for row in found.rows]),
        (found.least_bytes, [row.least_bytes for row in found.rows]),
    ):
        assert 0 < total - sum(parts) < 40 * (len(parts) + 1)  # names, index, checksums
    assert found.file_bytes == pytest.approx(rate_bits(net) / 8, abs=1)
    least = zeroed(net, found)
    assert found.least_bytes == pytest.approx(least, rel=0.02, abs=200)


@pytest.mark.parametrize("make", NETWORKS)
def test_a_plain_a_prepared_and_a_converted_network_have_the_same_rows(make):
    torch.manual_seed(0)
    net = make()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    plain = ec.coverage(net)
    assert plain.constrained_share == 0
    assert {row.why for row in plain.rows} <= {"not prepared", "norm", "buffer"}
    assert all(torch.equal(net.state_dict()[name], tensor) for name, tensor in before.items())
    prepared, converted = ec.coverage(ec.prepare(net)), ec.coverage(ec.convert(net))
    assert [(row.name, row.shape, row.float_bytes) for row in plain.rows] == [
        (row.name, row.shape, row.float_bytes) for row in prepared.rows
    ]
    large = {row.name for row in prepared.rows if row.constrained and len(row.shape) > 1}
    assert large == {r.name for r in converted.rows if r.constrained and len(r.shape) > 1}
    assert prepared.file_bytes == converted.file_bytes


def test_every_float_says_why():
    net = nn.ModuleDict({"tied": Tied(), "norm": nn.BatchNorm1d(4), "left": nn.Linear(4, 4)})
    ec.prepare(net, ec.Config(exclude=("left",), overrides={"tied.scale": {"bias": "float16"}}))
    why = {row.name: row.why for row in ec.coverage(net).rows}
    assert why["tied.embedding.weight"] == why["tied.positions"] == ""
    assert why["tied.scale"] == "float16"
    assert why["norm.weight"] == "norm"
    assert why["norm.running_var"] == "buffer"
    assert why["left.weight"] == "not included"
    assert why["left.bias"] == "one dimension"


def test_a_tied_tensor_counts_once():
    net = ec.prepare(Tied())
    found = ec.coverage(net)
    assert [row.name for row in found.rows].count("embedding.weight") == 1
    assert "head.weight" not in {row.name for row in found.rows}
    assert found.float_bytes == sum(p.nbytes for p in Tied().parameters())
    assert found.constrained_share == 1


def test_names_are_those_of_the_file_behind_a_wrapper():
    found = ec.coverage(nn.DataParallel(ec.prepare(mlp())))
    assert [row.name for row in found.rows] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_zeros_that_were_never_prepared_are_not_taken_for_constrained():
    net = mlp()
    nn.init.zeros_(net[0].weight)
    assert {row.why for row in ec.coverage(net).rows} == {"not prepared"}


def test_the_table_has_the_largest_first_and_sums_the_rest():
    net = nn.Sequential(*(nn.Linear(8, size) for size in range(1, 41)))
    found = ec.coverage(ec.prepare(net))
    head, first, *_, rest, total = str(found).splitlines()
    assert head.split()[:3] == ["name", "shape", "dtype"]
    assert first.split()[:4] == ["39.weight", "40x8", "float32", "constrained"]
    assert rest.startswith("50 more")
    assert "100.0 % constrained" in total
    assert f"{found.file_bytes:,}" in total


def test_the_table_is_printable_whatever_the_names_are():
    net = nn.Module()
    net.register_parameter("a\x1b[31m\nb", nn.Parameter(torch.randn(4, 4)))
    table = str(ec.coverage(net))
    assert r"a\x1b[31m\nb" in table
    assert all(line.isprintable() for line in table.splitlines())
