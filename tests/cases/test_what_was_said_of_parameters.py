"""Frozen weights, padding rows: what a user said of a Parameter holds after `prepare`."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.workflow import freeze_symbols

FORWARDS = ["nearest", "sampled", "moments"]
RELAXATIONS = ["bracket", "categorical", "hard"]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def train(model, steps=20, alpha=1.0, inputs=None):
    groups = ec.param_groups(model, lr=1e-2)
    optimizer = torch.optim.Adam(groups)
    x = torch.randn(32, 8) if inputs is None else inputs
    y = torch.randint(0, 4, (len(x),))
    for _ in range(steps):
        loss = F.cross_entropy(model(x), y) + ec.penalty(model, alpha, examples=1000)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained_names(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("frozen", ["0.weight", "2.bias", "0."])
def test_what_was_frozen_before_stays(frozen, relaxation):
    model = net()
    for name, parameter in model.named_parameters():
        if name.startswith(frozen):
            parameter.requires_grad_(False)
    ec.prepare(model, ec.Config(relaxation=relaxation))
    assert not any(name.startswith(frozen) for name in trained_names(model))
    before = copy.deepcopy(model.state_dict())
    names = [n for n, p in model.named_parameters() if not p.requires_grad]
    train(model)
    assert names
    assert all(model.state_dict()[name].equal(before[name]) for name in names)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_convert_gives_back_what_asked_for_gradients(grad, freeze, relaxation):
    model = net().requires_grad_(grad)
    before = trained_names(model)
    ec.prepare(model, ec.Config(relaxation=relaxation))
    if freeze:
        freeze_symbols(model)
    ec.convert(model)
    assert trained_names(model) == before


@pytest.mark.parametrize("grad", [True, False])
def test_a_plain_checkpoint_turns_no_gradient_on(grad):
    plain, model = net(), net().requires_grad_(grad)
    ec.prepare(model)
    freeze_symbols(model)
    model.load_state_dict(plain.state_dict())
    assert {p.requires_grad for p in model.parameters()} == {grad}


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_what_was_frozen_by_itself_stays_through_frozen_symbols(relaxation):
    model = ec.prepare(net(), ec.Config(relaxation=relaxation))
    dict(model.named_parameters())["0.weight"].requires_grad_(False)
    before = trained_names(model)
    freeze_symbols(model)
    model.load_state_dict(net().state_dict())
    assert trained_names(model) == before
    freeze_symbols(model)
    assert trained_names(ec.convert(model)) == {"0.bias", "2.weight", "2.bias"}


def test_what_is_frozen_after_prepare_stays():
    model = ec.prepare(net())
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    train(model)
    assert model[0].weight.equal(before)
    assert not trained_names(ec.convert(model)[0])


@pytest.mark.parametrize(
    ("relaxation", "forward"),
    [("hard", "nearest"), *((r, f) for r in ("bracket", "categorical") for f in FORWARDS)],
)
@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_padding_row_is_no_losss_and_no_noises(kind, relaxation, forward):
    torch.manual_seed(0)
    embed = kind(20, 8, padding_idx=3)
    layers = [embed, nn.Linear(8, 4)]
    if kind is nn.Embedding:
        layers.insert(1, nn.Flatten())
        layers[2] = nn.Linear(40, 4)
    model = ec.prepare(nn.Sequential(*layers), ec.Config(relaxation=relaxation, forward=forward))
    tokens = torch.randint(0, 20, (32, 5))
    tokens[:, 0] = 3
    before = copy.deepcopy(dict(embed.named_parameters()))
    seen = []
    embed.register_forward_hook(lambda *_: seen.append(embed.weight[3].detach().clone()))
    train(model, inputs=tokens)
    assert len(seen) == 20
    assert not torch.stack(seen).any()  # torch starts that row from zeros
    name = "weight_logits" if relaxation == "categorical" else "weight"
    trained, start = (
        dict(p)[name].movedim(-2, 0) for p in (embed.named_parameters(), before.items())
    )
    assert trained[3].equal(start[3])
    assert not trained.equal(start)
    assert not ec.convert(model)[0].weight[3].any()


def test_a_padding_row_has_no_gradient():
    model = ec.prepare(nn.Sequential(nn.Embedding(20, 8, padding_idx=0)))
    ec.penalty(model, 1.0, examples=10).backward()
    gradient = model[0].weight.grad
    assert not gradient[0].any()
    assert gradient[1:].any(1).sum() > 10
