from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal

import ectorch as ec
from ectorch.constrain.codebook import initial_log_gaps
from ectorch.constrain.config import Config
from ectorch.constrain.counts import bit_size, entropy, hard_counts
from ectorch.constrain.lengths import free
from ectorch.constrain.modules import Constrained, constrained_in, constraints
from ectorch.constrain.relaxation import Bracket
from ectorch.errors import ConfigError, UnsupportedLayerError
from ectorch.storage.discrete import discrete_state_dict
from ectorch.storage.files import save
from ectorch.workflow import (
    convert,
    freeze_symbols,
    param_groups,
    penalty,
    prepare,
)

LEVELS = 9
CONFIG = Config(levels=LEVELS, bias="float32")


class Net(nn.Module):
    """All four kinds of layer, and one that is never constrained."""

    def __init__(self):
        super().__init__()
        self.fold3d = nn.Conv3d(1, 2, (1, 1, 1))
        self.fold2d = nn.Conv2d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.fold1d = nn.Conv1d(3, 4, 3)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.fold3d(x[:, None]).squeeze(2)
        x = self.norm(self.fold2d(x)).relu().mean(2)
        return self.head(self.fold1d(x).relu().mean(2))


CONSTRAINED = ("fold3d", "fold2d", "fold1d", "head")
X = torch.randn(16, 1, 5, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def net():
    return Net()


def tied():
    net = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    net[2].weight = net[0].weight
    return net


def trained(net, steps=5, alpha=1.0, lr=1e-2, x=X, y=Y):
    optimizer = torch.optim.Adam(param_groups(net, lr))
    for _ in range(steps):
        optimizer.zero_grad()
        (F.cross_entropy(net(x), y) + penalty(net, alpha, len(x))).backward()
        optimizer.step()
    return net


def symbols_of(net):
    found = [
        handle.codebook().quantize(handle.hard()).reshape(-1)
        for module in net.modules()
        for handle in constrained_in(module)
        if handle.relaxation is not None
    ]
    return torch.cat(found)


def snapshot(net):
    """Everything that a refusal has to leave alone."""
    kinds = {name: type(module) for name, module in net.named_modules()}
    state = {
        name: (id(value), str(value)) for name, value in net.state_dict(keep_vars=True).items()
    }
    attributes = {name: sorted(vars(module)) for name, module in net.named_modules()}
    return kinds, state, attributes


# --- prepare


def test_prepare_is_in_place_and_adds_codebooks_only(net):
    before = {name: (p, p.detach().clone()) for name, p in net.named_parameters()}
    assert prepare(net, CONFIG) is net
    after = dict(net.named_parameters())
    assert after.keys() == before.keys() | {f"{name}.weight_log_gaps" for name in CONSTRAINED}
    assert all(after[name] is p and torch.equal(p, old) for name, (p, old) in before.items())
    for name in CONSTRAINED:
        assert net.get_submodule(name).weight.unique().numel() <= LEVELS
    assert type(net.norm) is nn.BatchNorm2d


def test_codebooks_start_from_the_weights(net):
    weight = net.fold2d.weight.detach().clone()
    prepare(net, Config(levels=LEVELS, codebook="kmeans"))
    expected = initial_log_gaps("kmeans", weight, LEVELS)
    assert torch.equal(net.fold2d.weight_log_gaps, expected)


def test_prepare_in_two_goes(net):
    prepare(net, Config(levels=3, include=("head",)))
    prepare(net, Config(levels=5, include=("fold2d",)))
    assert net.head.weight.unique().numel() <= 3
    assert constraints(net.fold2d)["weight"].config.levels == 5


def lazy():
    return nn.LazyLinear(3)


def parametrized():
    return orthogonal(nn.Linear(3, 3))


def constrained():
    return prepare(nn.Linear(3, 3), CONFIG)


def whole_numbers():
    module = nn.Linear(3, 3)
    module.weight = nn.Parameter(torch.ones(3, 3, dtype=torch.int64), requires_grad=False)
    return module


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lazy, UnsupportedLayerError, r"last\.weight \(LazyLinear\) is lazy"),
        (
            parametrized,
            UnsupportedLayerError,
            r"\.original \(ParametrizationList\) is parametrized",
        ),
        (constrained, ConfigError, r"last\.weight \(ConstrainedLinear\) is constrained already"),
        (whole_numbers, UnsupportedLayerError, r"last\.weight \(Linear\) is torch.int64"),
    ],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_what_cannot_be_constrained_is_refused_by_name_and_nothing_changes(
    net, make, error, message
):
    net.last = make()
    before = snapshot(net)
    with pytest.raises(error, match=message):
        prepare(net, Config(bias="grid"))
    assert snapshot(net) == before
    prepare(net, Config(exclude=("last",)))


@pytest.mark.parametrize(
    "config",
    [
        Config(include=("hed",)),
        Config(exclude=("norm.*", "fold4d")),
        Config(overrides={"head": {}, "body.*": {"levels": 3}}),
        Config(include=(nn.Embedding,)),
        Config(keep_float=True),
    ],
)
def test_patterns_and_types_that_find_nothing_are_refused_and_nothing_changes(net, config):
    before = snapshot(net)
    with pytest.raises(ConfigError, match=r"'hed'|'fold4d'|'body\.\*'|Net has no parameter"):
        prepare(net, config)
    assert snapshot(net) == before


# --- checkpoints


def test_a_plain_checkpoint_loads_strictly_and_restarts_the_codebook(net):
    other = Net()
    state = copy.deepcopy(other.state_dict())
    trained(prepare(net, CONFIG))
    net.load_state_dict(state)
    prepare(other, CONFIG)
    assert all(map(torch.equal, net.state_dict().values(), other.state_dict().values()))
    freeze_symbols(net).load_state_dict(state)
    assert torch.equal(net.eval()(X), other.eval()(X))
    assert all(p.requires_grad for p in net.parameters())


def test_a_missing_weight_is_still_missed(net):
    state = net.state_dict()
    prepare(net, CONFIG)
    del state["head.weight"]
    with pytest.raises(RuntimeError, match=r'"head\.weight"'):
        net.load_state_dict(state)


@pytest.mark.parametrize("forward", ["nearest", "sampled", "moments"])
def test_a_prepared_checkpoint_resumes_exactly(net, forward):
    config = Config(levels=LEVELS, forward=forward, codebook="kmeans", bias="grid")
    optimizer = torch.optim.Adam(param_groups(prepare(net, config), 1e-2))

    def step(net, optimizer, seed):
        torch.manual_seed(seed)
        optimizer.zero_grad()
        (F.cross_entropy(net(X), Y) + penalty(net, 1.0, 16)).backward()
        optimizer.step()

    step(net, optimizer, 1)
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    other = prepare(Net(), config)
    other.load_state_dict(kept["net"])
    resumed = torch.optim.Adam(param_groups(other, 1e-2))
    resumed.load_state_dict(kept["optimizer"])
    for seed in (2, 3):
        step(net, optimizer, seed)
        step(other, resumed, seed)
    assert all(map(torch.equal, net.state_dict().values(), other.state_dict().values()))


def test_a_frozen_checkpoint_freezes_what_it_is_loaded_into(net):
    freeze_symbols(trained(prepare(net, CONFIG)))
    trained(net, steps=2)
    other = prepare(Net(), CONFIG)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(X), net.eval()(X))
    assert not other.head._parameters["weight"].requires_grad
    assert torch.equal(symbols_of(other), symbols_of(net))


def test_an_unfrozen_checkpoint_thaws_and_keeps_its_codebook(net):
    trained(prepare(net, CONFIG))
    state, output = copy.deepcopy(net.state_dict()), net.eval()(X)
    freeze_symbols(net)
    with torch.no_grad():
        net.head.weight_log_gaps.add_(0.5)
    net.load_state_dict(state)
    assert net.state_dict().keys() == state.keys()
    assert all(map(torch.equal, net.state_dict().values(), state.values()))
    assert torch.equal(net(X), output)
    assert all(p.requires_grad for p in net.parameters())


# --- penalty and parameter groups


def test_the_penalty_is_alpha_ln2_bits_over_examples(net):
    prepare(net, CONFIG)
    bits = 0.0
    for name in CONSTRAINED:
        module = net.get_submodule(name)
        variables = {"weight": module._parameters["weight"]}
        book = Constrained(module, "weight").codebook()
        counts = Bracket().counts(variables, book)
        bits += (counts @ Bracket().lengths(counts, book.zero)).item()
    for alpha, examples in ((1.0, 1), (0.3, 60000), (0.0, 7)):
        value = penalty(net, alpha, examples)
        assert value.dtype == torch.float32
        assert value.shape == ()
        assert value.item() == pytest.approx(alpha * math.log(2) / examples * bits, rel=1e-6)


def test_alpha_scale_is_a_factor(net):
    scaled = copy.deepcopy(net)
    overrides = {"head": {"alpha_scale": 3.0}, "fold?d": {"alpha_scale": 0.0}}
    prepare(net, Config(include=("head.weight",)))
    prepare(scaled, Config(bias="float32", overrides=overrides))
    torch.testing.assert_close(penalty(scaled, 1.0, 1), 3 * penalty(net, 1.0, 1))


def test_on_levels_the_free_penalty_is_the_size_of_the_symbols(net):
    prepare(net, Config(levels=LEVELS, relaxation=Bracket(free), include=("head.weight",)))
    with torch.no_grad():
        net.head._parameters["weight"].copy_(Constrained(net.head, "weight").hard())
    bits = bit_size(hard_counts(symbols_of(net), LEVELS))
    assert penalty(net, 1.0, 1).item() == pytest.approx(math.log(2) * bits.item(), rel=1e-5)


def test_the_penalty_needs_a_prepared_model(net):
    with pytest.raises(ConfigError, match="Net is not prepared"):
        penalty(net, 1.0, 1)
    with pytest.raises(ConfigError, match="Net is not prepared"):
        penalty(convert(prepare(net, CONFIG)), 1.0, 1)


def test_rounded_and_frozen_parameters_cost_nothing(net):
    prepare(net, Config(bias="float16", include=("head.bias",)))
    assert penalty(net, 1.0, 1) == 0
    prepare(net, Config(include=("head.weight",)))
    assert penalty(net, 1.0, 1) > 0
    assert penalty(freeze_symbols(net), 1.0, 1) == 0


@pytest.mark.parametrize("make", [Net, tied])
def test_every_parameter_is_in_one_group(make):
    net = prepare(make(), Config(bias="grid"))
    groups = {group["name"]: group for group in param_groups(net, 0.1, weight_decay=0.01)}
    grouped = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())
    assert groups["constrained"]["weight_decay"] == groups["codebook"]["weight_decay"] == 0
    names = {id(p): name for name, p in net.named_parameters()}
    for group, ending in (("constrained", ("weight", "bias")), ("codebook", "_log_gaps")):
        assert all(names[id(p)].endswith(ending) for p in groups[group]["params"])
    plain = groups.get("float", {"params": [], "weight_decay": 0.01})
    assert plain["weight_decay"] == 0.01
    assert {names[id(p)] for p in plain["params"]} == {n for n in names.values() if "norm" in n}


def test_learning_rates_of_groups(net):
    prepare(net, CONFIG)
    rates = {group["name"]: group["lr"] for group in param_groups(net, 0.1)}
    assert rates == {"constrained": 0.1, "codebook": pytest.approx(0.01), "float": 0.1}
    assert param_groups(net, 0.1, codebook_lr=0.5)[1]["lr"] == 0.5
    assert [group["name"] for group in param_groups(Net(), 0.1)] == ["float"]


def test_a_rate_in_steps_moves_layers_of_any_scale_alike():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 5))
    with torch.no_grad():
        net[2].weight *= 100
    prepare(net, Config(bias="float16"))
    groups = param_groups(net, 0.1, step_lr=0.02)
    names = {id(p): name for name, p in net.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in groups for p in group["params"]}
    for layer in ("0", "2"):
        step = net.get_parameter(f"{layer}.weight_log_gaps").exp().item()
        assert rates.pop(f"{layer}.weight") == pytest.approx(0.02 * step)
        assert rates.pop(f"{layer}.weight_log_gaps") == pytest.approx(0.01)
    assert rates == {"0.bias": 0.1, "2.bias": 0.1}
    assert sorted(names) == sorted(id(p) for group in groups for p in group["params"])


def test_logits_have_no_steps_to_go():
    net = prepare(Net(), Config(relaxation="categorical", levels=5))
    groups = param_groups(net, 0.1, step_lr=0.02)
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    logits = [p for name, p in net.named_parameters() if name.endswith("logits")]
    assert {rates[id(p)] for p in logits} == {0.1}
    assert logits


# --- convert


@pytest.mark.parametrize("codebook", ["grid", "kmeans", "quantile"])
@pytest.mark.parametrize("forward", ["nearest", "sampled", "moments"])
@pytest.mark.parametrize("bias", ["float32", "float16", "grid"])
def test_convert_leaves_plain_modules_with_codebook_values(net, codebook, forward, bias):
    kinds = [type(module) for module in net.modules()]
    parameters, keys = dict(net.named_parameters()), list(net.state_dict())
    config = Config(levels=LEVELS, codebook=codebook, forward=forward, bias=bias)
    trained(prepare(net, config), alpha=5.0)
    values = {
        name: Constrained(net.get_submodule(name), "weight").codebook().values
        for name in CONSTRAINED
    }
    discrete = discrete_state_dict(net)
    output = net.eval()(X)
    assert convert(net) is net
    assert [type(module) for module in net.modules()] == kinds
    assert list(net.state_dict()) == keys
    assert all(p is parameters[name] and p.requires_grad for name, p in net.named_parameters())
    assert not any("_ectorch" in name for module in net.modules() for name in vars(module))
    assert torch.equal(net(X), output)
    for name in CONSTRAINED:
        weight = net.get_submodule(name).weight
        assert torch.isin(weight, values[name]).all()
        assert not weight[weight == 0].signbit().any()
    assert discrete.keys() == net.state_dict().keys()
    assert all(torch.equal(discrete[name], value) for name, value in net.state_dict().items())


def test_convert_writes_positive_zeros():
    net = prepare(nn.Linear(8, 8), Config(levels=3, bias="float16"))
    with torch.no_grad():
        net._parameters["weight"].copy_(torch.full((8, 8), -1e-9))
        net._parameters["weight"][0] = -0.0
        net._parameters["bias"].copy_(torch.full((8,), -1e-9))
    assert not any(v.signbit().any() for v in discrete_state_dict(net).values())
    convert(net)
    assert not net.weight.any()
    assert not net.weight.signbit().any()
    assert not net.bias.signbit().any()


def test_biases(net):
    original = net.head.bias.detach().clone()
    half = convert(prepare(copy.deepcopy(net), Config(bias="float16"))).head.bias
    assert torch.equal(half, original.half().float())
    plain = convert(prepare(copy.deepcopy(net), Config(bias="float32"))).head.bias
    assert torch.equal(plain, original)
    prepare(net, Config(bias="grid", bias_levels=5, codebook="kmeans", forward="sampled"))
    book = Constrained(net.head, "bias").codebook()
    assert book.step is not None
    assert book.levels == 5
    output = net.head.bias
    assert torch.isin(output, book.values).all()
    assert torch.equal(output, net.head.bias), "nearest: nothing is random"
    torch.testing.assert_close(output, original, atol=book.step.item() / 2 + 1e-3, rtol=0)


def test_convert_does_not_unfreeze_the_users_own_parameters(net):
    net.head.weight.requires_grad_(False)
    convert(prepare(net, CONFIG))
    assert not net.head.weight.requires_grad


def test_convert_then_prepare_again(net):
    trained(prepare(net, CONFIG), alpha=5.0)
    output = convert(net).eval()(X)
    prepare(net, Config(levels=2 * LEVELS + 1, codebook="kmeans", bias="float32"))
    torch.testing.assert_close(convert(net)(X), output, atol=1e-3, rtol=0)


def test_discrete_state_dict_leaves_the_model_alone(net):
    prepare(net, Config(forward="sampled"))
    before = snapshot(net)
    discrete_state_dict(net)
    assert snapshot(net) == before


# --- freezing


@pytest.mark.parametrize("codebook", ["grid", "quantile"])
@pytest.mark.parametrize("forward", ["nearest", "sampled", "moments"])
def test_frozen_symbols_stay_while_codebooks_train(net, forward, codebook):
    config = Config(levels=LEVELS, forward=forward, codebook=codebook, bias="grid")
    trained(prepare(net, config))
    symbols = symbols_of(net)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    hard = net.eval()(X)
    freeze_symbols(freeze_symbols(net))
    assert torch.equal(net(X), hard)
    trained(net.train(), steps=20)
    assert torch.equal(symbols_of(net), symbols)
    for name, p in net.named_parameters():
        fixed = name.endswith(("weight", "bias")) and not name.startswith("norm")
        assert torch.equal(p, before[name]) == fixed, name
    values = Constrained(net.head, "weight").codebook().values
    output = net.eval()(X)
    convert(net)
    assert torch.equal(net(X), output)
    assert torch.isin(net.head.weight, values).all()
    assert all(p.requires_grad for p in net.parameters())


# --- tied weights


def test_tied_weights_are_charged_and_stored_once_and_stay_tied():
    net, single = tied(), nn.Sequential(nn.Linear(5, 5))
    single.load_state_dict({"0.weight": net[0].weight, "0.bias": net[0].bias})
    config = Config(levels=LEVELS, bias="grid", include=("*.weight",))
    prepare(net, config)
    prepare(single, config)
    assert net[0].weight_log_gaps is net[2].weight_log_gaps
    assert torch.equal(penalty(net, 1.0, 1), penalty(single, 1.0, 1))
    x, y = torch.randn(20, 5), torch.arange(20) % 5
    trained(net, x=x, y=y)
    output = net.eval()(x)
    untied = {name: value.clone() for name, value in discrete_state_dict(net).items()}
    untied["2.weight"] = untied["2.weight"].flip(0)
    assert len(save(net)) < len(save(untied))
    convert(net)
    assert net[0].weight is net[2].weight
    assert torch.equal(net(x), output)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: net])
def test_tied_weights_freeze_together(duplicate):
    net = duplicate(freeze_symbols(prepare(tied(), CONFIG)))
    x, y = torch.randn(20, 5), torch.arange(20) % 5
    trained(net, steps=20, lr=0.1, x=x, y=y)
    assert torch.equal(net[0].weight, net[2].weight)
    assert net[0]._parameters["weight"] is net[2]._parameters["weight"]
    output = net.eval()(x)
    assert torch.equal(convert(net)(x), output)
    assert net[0].weight is net[2].weight


def test_tied_weights_take_the_settings_of_their_first_name():
    net = prepare(tied(), Config(overrides={"0": {"levels": 3}, "2": {"levels": 17}}))
    assert constraints(net[0]) == constraints(net[2])
    assert constraints(net[2])["weight"].config.levels == 3


def test_tied_weights_load_a_plain_checkpoint():
    net = prepare(tied(), CONFIG)
    plain = tied()
    net.load_state_dict(plain.state_dict())
    prepare(plain, CONFIG)
    assert all(map(torch.equal, net.state_dict().values(), plain.state_dict().values()))


def test_a_weight_shared_with_another_kind_of_module_is_constrained_there_too():
    net = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    net[0].weight = net[1].weight
    prepare(net, Config(levels=3, forward="moments", include=(nn.Linear,)))
    assert penalty(net, 1.0, 1) > 0
    tokens = torch.arange(7)
    net(tokens).sum().backward()
    output = net.eval()(tokens)
    assert net[0].weight.unique().numel() <= 3
    assert torch.equal(convert(net)(tokens), output)
    assert type(net[0]) is nn.Embedding


def test_a_shared_weight_that_cannot_be_constrained_elsewhere_is_refused():
    net = tied()
    nn.utils.parametrize.register_parametrization(net[2], "bias", nn.Identity())
    before = snapshot(net)
    with pytest.raises(UnsupportedLayerError, match=r"2\.weight .* is parametrized"):
        prepare(net, Config(include=("0",)))
    assert snapshot(net) == before


def test_a_module_used_twice_is_prepared_once():
    layer = nn.Linear(5, 5)
    net = prepare(nn.Sequential(layer, nn.ReLU(), layer), CONFIG)
    assert len(param_groups(net, 0.1)[0]["params"]) == 1
    assert discrete_state_dict(net).keys() == convert(net).state_dict().keys()


# --- a relaxation of the user's own


class Softmax:
    """Logits for every level beside the weight; knows nothing of the rest of the house."""

    trains_weight = False

    lengths = staticmethod(free)
    trains_weight = False

    def extra_variables(self, weight, codebook):
        distance = (weight.unsqueeze(-1) - codebook.values).square()
        return {"logits": -distance / distance.mean()}

    def nearest(self, variables, codebook):
        mean = self.moments(variables, codebook)[0]
        return codebook.values[self.symbols(variables, codebook)].detach() + mean - mean.detach()

    def sampled(self, variables, codebook, generator=None):
        logits = variables["logits"]
        symbols = logits.softmax(-1).flatten(0, -2).multinomial(1, generator=generator)
        mean = self.moments(variables, codebook)[0]
        return codebook.values[symbols.reshape(mean.shape)].detach() + mean - mean.detach()

    def moments(self, variables, codebook):
        probabilities = variables["logits"].softmax(-1)
        mean = probabilities @ codebook.values
        centred = codebook.values - mean.unsqueeze(-1)
        return mean, (probabilities * centred.square()).sum(-1)

    def symbols(self, variables, codebook):
        return variables["logits"].argmax(-1)

    def counts(self, variables, codebook):
        return variables["logits"].double().softmax(-1).flatten(0, -2).sum(0)

    def charge(self, variables, codebook, lengths):
        return self.counts(variables, codebook) @ lengths.double()


@pytest.mark.parametrize("forward", ["nearest", "sampled", "moments"])
def test_a_relaxation_of_the_users_own(net, forward):
    plain = copy.deepcopy(net)
    keys = list(net.state_dict())
    config = Config(levels=5, relaxation=Softmax(), forward=forward)
    trained(prepare(net, config))
    assert net.head.weight_logits.shape == (*net.head.weight.shape, 5)
    assert net.head.weight_logits.grad.any()
    assert any(net.head.weight_logits is p for p in param_groups(net, 0.1)[0]["params"])
    other = prepare(Net(), config)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(X), net.eval()(X))
    other.load_state_dict(plain.state_dict())
    prepare(plain, config)
    assert torch.equal(other(X), plain.eval()(X))
    trained(freeze_symbols(net).train())
    output = copy.deepcopy(net.eval())(X)
    assert list(convert(net).state_dict()) == keys
    assert torch.equal(net(X), output)
    assert net.head.weight.unique().numel() <= 5


# --- training


def fitted(net, x, y, alpha, steps=150):
    """Its loss, bits a weight and nonzero weights after training on."""
    trained(net, steps, alpha, x=x, y=y)
    bits = entropy(hard_counts(symbols_of(net), Config().levels))
    return F.cross_entropy(net(x), y).item(), bits.item(), int(net.weight.count_nonzero())


def test_the_penalty_lowers_the_entropy_and_zeros_come_back():
    x = torch.randn(300, 64)
    y = (x @ torch.randn(64, 16)).argmax(1)
    start = prepare(nn.Linear(64, 16), Config(bias="float32", reach=3.0))
    _, free_bits, _ = fitted(copy.deepcopy(start), x, y, alpha=0.0)
    loss, bits, _ = fitted(copy.deepcopy(start), x, y, alpha=0.1)
    assert bits < free_bits - 0.5
    assert loss < 1
    with pytest.warns(UserWarning, match="weight has no nonzero left"):
        loss, bits, nonzero = fitted(start, x, y, alpha=1.0)
    assert (bits, nonzero) == (0.0, 0)
    assert loss > 2
    loss, _, nonzero = fitted(start, x, y, alpha=0.0)
    assert nonzero > 500
    assert loss < 1


def test_a_snapshot_warns_where_it_is_asked_for():
    net = prepare(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    with pytest.warns(UserWarning, match="give training inputs") as said:
        ec.snapshot(net)
    assert [warning.filename for warning in said] == [__file__]
