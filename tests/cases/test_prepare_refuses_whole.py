"""What cannot train is refused by name, all at once, and nothing is changed then."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import ectorch as ec
from ectorch.errors import EctorchError, UnsupportedLayerError


def spoiled(value):
    layer = nn.Linear(4, 4)
    layer.weight.data[0, 0] = value
    return layer


def of_dtype(dtype):
    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(layer.weight.data.to(dtype), requires_grad=False)
    return layer


def pruned():
    return prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)


def viewed():
    layer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    layer[1].weight = nn.Parameter(layer[0].weight.data.view(4, 4))
    return layer


def transposed():
    layer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    layer[1].weight = nn.Parameter(layer[0].weight.data.t())
    return layer


def strided():
    memory = torch.randn(4, 8)
    layer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for inner, columns in zip(layer, (slice(0, 7, 2), slice(2, 6)), strict=True):
        inner.weight = nn.Parameter(memory[:, columns])
    return layer


def subclassed():
    class Packed(torch.Tensor):
        pass

    layer = nn.Linear(4, 4)
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Packed))
    return layer


REFUSED = {
    "weight norm of old": (
        lambda: nn.utils.weight_norm(nn.Linear(4, 4)),
        "weight_v.*remove_weight_norm",
    ),
    "spectral norm of old": (
        lambda: nn.utils.spectral_norm(nn.Linear(4, 4)),
        "remove_spectral_norm",
    ),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), "parametrized"),
    "pruning": (pruned, r"weight_orig.*prune\.remove"),
    "sparse gradients": (lambda: nn.Embedding(4, 4, sparse=True), "sparse=False"),
    "sparse bags": (lambda: nn.EmbeddingBag(4, 4, sparse=True), "sparse=False"),
    "renormed rows": (lambda: nn.Embedding(4, 4, max_norm=1.0), "max_norm"),
    "NaN": (lambda: spoiled(math.nan), "NaN or infinity .1 of 16"),
    "infinity": (lambda: spoiled(-math.inf), "NaN or infinity"),
    "float8": (lambda: of_dtype(torch.float8_e4m3fn), "float8_e4m3fn"),
    "complex": (lambda: of_dtype(torch.complex64), "complex64"),
    "integers": (lambda: of_dtype(torch.int8), "int8"),
    "meta": (lambda: nn.Linear(4, 4, device="meta"), "on meta"),
    "views of one memory": (viewed, "lie in the same memory"),
    "one memory, transposed": (transposed, "lie in the same memory"),
    "one memory, in steps": (strided, "lie in the same memory"),
    "a tensor of one's own class": (subclassed, "Packed"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.*weight_norm", "ignore:Casting complex")
def test_a_late_layer_is_refused_by_name(name):
    make, message = REFUSED[name]
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), make())
    first, before = net[0].weight, net[0].weight.detach().clone()
    with pytest.raises(UnsupportedLayerError, match=rf"2\..*{message}"):
        ec.prepare(net)
    assert type(net[0]) is nn.Linear
    assert net[0].weight is first
    assert torch.equal(first, before)
    assert [name for name, _ in net[0].named_parameters()] == ["weight", "bias"]
    ec.prepare(net, ec.Config(exclude=("2*",)))  # as the message says
    assert type(net[0]) is not nn.Linear


def test_columns_side_by_side_are_no_common_memory():
    memory = torch.randn(4, 8)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for layer, columns in zip(net, memory.split(4, 1), strict=True):
        layer.weight = nn.Parameter(columns)
    ec.prepare(net)


def test_all_that_is_refused_is_named_at_once():
    net = nn.Sequential(spoiled(math.nan), nn.Linear(4, 4), nn.Embedding(4, 4, max_norm=1.0))
    with pytest.raises(UnsupportedLayerError, match=r"0\.weight.*2\.weight"):
        ec.prepare(net)


def test_a_relaxation_that_fails_half_way_leaves_nothing_behind():
    from ectorch.constrain.relaxation import Bracket

    class Fails(Bracket):
        def extra_variables(self, weight, codebook):
            if weight.shape == (3, 4):
                raise ValueError("no")
            return super().extra_variables(weight, codebook)

    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3))
    net[1].weight = net[0].weight
    names = [name for name, _ in net.named_parameters()]
    with pytest.raises(ValueError, match="no"):
        ec.prepare(net, ec.Config(relaxation=Fails()))
    assert [type(module) for module in net] == [nn.Linear] * 3
    assert [name for name, _ in net.named_parameters()] == names
    assert (
        net.state_dict().keys()
        == nn.Sequential(*map(nn.Linear, [4] * 3, [4, 4, 3])).state_dict().keys()
    )


@pytest.mark.parametrize(
    ("alpha", "examples"),
    [
        (-1, 10),
        (math.nan, 10),
        (math.inf, 10),
        ("0.1", 10),
        (True, 10),
        (None, 10),
        (torch.tensor(0.1), 10),
        (0.1, 0),
        (0.1, -5),
        (0.1, math.nan),
        (0.1, math.inf),
        (0.1, "60000"),
        (0.1, True),
    ],
)
def test_a_penalty_of_numbers_that_are_none_is_refused(alpha, examples):
    net = ec.prepare(nn.Linear(4, 4))
    with pytest.raises(EctorchError, match=r"(alpha|examples) = "):
        ec.penalty(net, alpha, examples)


class Table(nn.Module):
    """Parameters of a user's own modules."""

    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 8) / 3)
        self.rows = nn.ParameterList([nn.Parameter(torch.randn(3, 8)) for _ in range(2)])
        self.named = nn.ParameterDict({"a": nn.Parameter(torch.randn(3, 8))})
        self.scale = nn.Parameter(torch.ones(8))
        self.norm = nn.LayerNorm([5, 8])
        self.conv1d = nn.Parameter(torch.randn(8, 4))  # (in, out), as GPT-2 has them

    def forward(self, x):
        x = self.norm(x + self.pos_embed) * self.scale
        x = x + self.rows[0].sum(0) + self.rows[1].sum(0) + self.named["a"].sum(0)
        return x @ self.conv1d


def test_parameters_of_ones_own_modules_are_constrained_norms_are_not():
    net = ec.prepare(Table())
    constrained = {name for name, _ in net.named_parameters() if name.endswith("_log_gaps")}
    assert constrained == {
        f"{name}_log_gaps"
        for name in ("pos_embed", "rows.0", "rows.1", "named.a", "conv1d", "scale")
    }
    net(torch.randn(2, 5, 8)).sum().backward()
    x = torch.randn(2, 5, 8)
    expected = net.eval()(x)
    torch.testing.assert_close(ec.convert(net)(x), expected)


def test_a_word_where_much_stays_float():
    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.factors = nn.Parameter(torch.ones(64))

        def forward(self, x):
            return x * self.factors

    net = nn.Sequential(nn.Linear(8, 8), Gate())
    with pytest.warns(UserWarning, match=r"46 % .* 1\.factors"):
        ec.prepare(net)
