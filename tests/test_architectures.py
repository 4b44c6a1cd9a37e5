"""Networks of every kind of layer go the whole way: prepare, train, copy, convert, save, load."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.constrain.modules import constraints


class Tied(nn.Module):
    """A language model whose output layer is its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.tanh(self.mix(self.embedding(tokens))))


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cells = kind(6, 7, batch_first=True, **options)

    def forward(self, sequence):
        return self.cells(sequence)[0]


class Attention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True, **options)

    def forward(self, sequence):
        return self.attention(sequence, sequence, sequence)[0]


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.bilinear = nn.Bilinear(6, 6, 4)

    def forward(self, x):
        return self.bilinear(x, x.flip(0))


class Own(nn.Module):
    """A module with a parameter of its own name."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(6, 5) / 3)

    def forward(self, x):
        return x @ self.table


def encoder():
    layer = nn.TransformerEncoderLayer(6, 2, 12, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def vector():
    return torch.randn(4, 6)


def sequence():
    return torch.randn(3, 5, 6)


ARCHITECTURES = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), vector),
    "conv1d": (lambda: nn.Conv1d(5, 4, 3, padding=1), sequence),
    "conv2d-grouped-norm": (
        lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8), nn.ReLU()),
        lambda: torch.randn(2, 4, 6, 6),
    ),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), lambda: torch.randn(1, 1, 3, 3, 3)),
    "transposed": (
        lambda: nn.Sequential(nn.ConvTranspose1d(5, 4, 2, stride=2), nn.Conv1d(4, 2, 3)),
        sequence,
    ),
    "transposed2d-grouped": (
        lambda: nn.ConvTranspose2d(4, 4, 3, groups=2),
        lambda: torch.randn(2, 4, 4, 4),
    ),
    "embedding-tied": (Tied, lambda: torch.randint(0, 11, (3, 4))),
    "embedding-bag": (lambda: nn.EmbeddingBag(11, 4), lambda: torch.randint(0, 11, (3, 4))),
    "attention": (Attention, sequence),
    "attention-other-sizes": (lambda: Attention(kdim=6, vdim=6, add_bias_kv=True), sequence),
    "transformer": (encoder, sequence),
    "rnn": (lambda: Recurrent(nn.RNN), sequence),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), sequence),
    "gru": (lambda: Recurrent(nn.GRU), sequence),
    "bilinear": (Pair, vector),
    "own-parameter": (Own, vector),
}
CONFIGS = {
    "nearest": ec.Config(levels=9, bias="grid"),
    "sampled": ec.Config(levels=9, forward="sampled", bias="float16"),
    "moments": ec.Config(levels=9, forward="moments"),
    "categorical": ec.Config(levels=5, relaxation="categorical", forward="moments", bias="grid"),
    "hard": ec.Config(levels=9, relaxation="hard", codebook="kmeans"),
}


def config_for(name, architecture):
    config = CONFIGS[name]
    if architecture == "own-parameter":
        return ec.Config(
            levels=config.levels,
            relaxation=config.relaxation,
            forward=config.forward,
            include=("table",),
        )
    return config


def train(model, inputs, steps=3):
    optimizer = torch.optim.Adam(ec.param_groups(model, lr=1e-2))
    model.train()
    for _ in range(steps):
        loss = model(inputs).square().mean() + ec.penalty(model, alpha=0.1, examples=1000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_whole_way(architecture, config, tmp_path):
    torch.manual_seed(0)
    build, make_inputs = ARCHITECTURES[architecture]
    model, inputs = build(), make_inputs()
    keys, kinds = set(model.state_dict()), [type(m) for m in model.modules()]
    ec.prepare(model, config_for(config, architecture))
    before = {name: p.clone() for name, p in model.named_parameters()}
    train(model, inputs)
    assert any(not torch.equal(before[name], p) for name, p in model.named_parameters())
    with torch.no_grad():
        expected = model(inputs)
        assert torch.equal(copy.deepcopy(model)(inputs), expected)
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        assert torch.equal(torch.load(buffer, weights_only=False)(inputs), expected)
        constrained = [m for m in model.modules() if constraints(m)]
        assert constrained
        ec.convert(model)
        assert set(model.state_dict()) == keys
        assert [type(m) for m in model.modules()] == kinds
        assert torch.equal(model(inputs), expected)
        ec.save_file(model, tmp_path / "model.ect")
        fresh = ec.load_model(build(), tmp_path / "model.ect").eval()
        assert torch.equal(fresh(inputs), expected)
        for name, value in model.state_dict().items():
            assert torch.equal(value, fresh.state_dict()[name]), name


def test_every_matrix_of_the_default_layers_is_discrete():
    torch.manual_seed(0)
    for name, (build, _) in ARCHITECTURES.items():
        if name == "own-parameter":
            continue
        model = ec.convert(ec.prepare(build(), ec.Config(levels=3)))
        matrices = [(n, p) for n, p in model.named_parameters() if p.ndim > 1]
        assert matrices
        for n, p in matrices:
            assert p.unique().numel() <= 3, (name, n)


def test_the_encoders_fast_path_multiplies_with_the_hard_weights():
    torch.manual_seed(0)
    model, inputs = encoder().eval(), sequence()
    ec.prepare(model, ec.Config(levels=3))
    with torch.no_grad():
        fast = model(inputs)  # taken where no gradient is needed
    slow = model(inputs)
    assert slow.requires_grad
    assert torch.allclose(fast, slow, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(ec.convert(model)(inputs), fast)


def test_an_lstm_multiplies_with_codebook_values():
    torch.manual_seed(0)
    model = ec.prepare(nn.LSTM(4, 5), ec.Config(levels=3))
    assert all(w.unique().numel() <= 3 for w in model._flat_weights if w.ndim > 1)
    model.to(torch.float64)
    assert model(torch.randn(2, 1, 4, dtype=torch.float64))[0].dtype == torch.float64


def test_norms_are_constrained_where_they_are_included():
    model = nn.Sequential(nn.Linear(4, 30), nn.LayerNorm(30))
    with torch.no_grad():
        model[1].weight.normal_()
    ec.prepare(model, ec.Config(bias="grid", bias_levels=5, include=(nn.Linear, nn.LayerNorm)))
    ec.convert(model)
    assert model[1].weight.unique().numel() <= 5


@pytest.mark.parametrize("read", [Tied.get_parameter, lambda model, _: model.embedding.weight])
def test_tying_after_prepare_shares_charges_and_stores_once(read, tmp_path):
    """Both ways are those of Transformers, in its versions 5 and 4."""
    torch.manual_seed(0)
    model = Tied()
    model.head.weight = nn.Parameter(torch.randn(11, 8))
    ec.prepare(model, ec.Config(levels=5))
    apart = ec.penalty(model, alpha=1.0, examples=1)
    model.head.weight = read(model, "embedding.weight")
    assert model.head._parameters["weight"] is model.embedding._parameters["weight"]
    assert ec.penalty(model, alpha=1.0, examples=1) < apart
    assert torch.equal(model.head.weight, model.embedding.weight)
    train(model, torch.randint(0, 11, (3, 4)))
    ec.convert(model)
    assert model.head.weight is model.embedding.weight
    ec.save_file(model, tmp_path / "model.ect")
    with ec.safe_open(tmp_path / "model.ect") as file:
        assert file.get_entry("head.weight").alias_of == "embedding.weight"


def test_cross_entropy_of_a_tied_model_falls():
    torch.manual_seed(0)
    model, tokens = ec.prepare(Tied(), ec.Config(levels=17)), torch.arange(11)
    optimizer = torch.optim.Adam(ec.param_groups(model, lr=2e-2))
    losses = []
    for _ in range(60):
        losses.append(F.cross_entropy(model(tokens), tokens.roll(1)))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
