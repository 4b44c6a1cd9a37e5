"""What reads hidden units in ways that are easily overlooked: `finalize` must leave them."""

from __future__ import annotations

import copy
import warnings
from collections import deque
from functools import partial

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.errors import ConfigError, UnsupportedLayerError
from ectorch.rewrite.chains import find_chains
from ectorch.rewrite.norms import discretize_norms, restore_norms
from ectorch.rewrite.units import remove_dead_units
from ectorch.storage.files import save


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Tied(nn.Module):
    """The decoder is the encoder, transposed; ``read`` says how it is read."""

    def __init__(self, read):
        super().__init__()
        self.enc, self.mid, self.up = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(3, 8)
        self.read = read

    def forward(self, x):
        code = self.mid(F.relu(self.enc(x)))
        return F.linear(F.relu(self.up(code)), self.read(self.enc.weight))


class Between(nn.Module):
    """Two layers with ``middle`` between."""

    def __init__(self, middle, first=None, second=None):
        super().__init__()
        self.a, self.middle, self.b = first or nn.Linear(4, 8), middle, second or nn.Linear(8, 2)

    def forward(self, x):
        return self.b(F.relu(self.middle(self.a(x))))


class Called(nn.Module):
    """A function, as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Scaled(nn.Linear):
    """A layer of the user's own: torch's, but each unit has its own factor."""

    def forward(self, x):
        return super().forward(x) * torch.arange(1.0, 1 + self.out_features)


class Heads(nn.Module):
    """A trunk that a second head reads: in training, where it is asked for, or by a method."""

    def __init__(self, how):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.how, self.kept = how, None

    def forward(self, x, extra=None, both=False):
        h = F.relu(self.a(x))
        if self.how == "attribute":
            self.kept = h
        asked = {
            "training": self.training,
            "None": extra is None,
            "given": extra is not None,
            "flag": both,
        }
        return torch.cat([self.b(h), self.c(h)]) if asked.get(self.how, False) else self.b(h)


class ActorCritic(Heads):
    def value(self, x):
        return self.c(F.relu(self.a(x)))


class BufferOfUnits(nn.Module):
    """The running mean of hidden units is read beside the norm."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Conv1d(2, 5, 1), nn.BatchNorm1d(5), nn.Conv1d(5, 3, 1)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x):
        out = self.b(F.relu(self.norm(self.a(x))))
        return out + (self.norm.running_mean * torch.arange(5.0)).sum()


class Within(nn.Module):
    """A layer that a module of torch's holds, too, and calls itself."""

    def __init__(self, holder):
        super().__init__()
        self.a, self.b, self.holder = nn.Linear(4, 4), nn.Linear(4, 4), holder
        if isinstance(holder, nn.TransformerEncoderLayer):
            holder.linear1 = self.a
        elif isinstance(holder, nn.MultiheadAttention):
            holder.out_proj = self.a
        else:
            holder.module = self.a

    def forward(self, x):
        attends = isinstance(self.holder, nn.MultiheadAttention)
        x = self.holder(x, x, x)[0] if attends else self.holder(x)
        return self.b(F.gelu(self.a(x)))


class ByHand(nn.Module):
    """Weights that ``read`` finds, not by the name of a layer."""

    def __init__(self, read):
        super().__init__()
        self.a, self.b, self.read = nn.Linear(4, 8), nn.Linear(8, 8), read
        self.same = self.a.weight.data[:, :3]

    def forward(self, x):
        return self.b(F.relu(self.a(x))) * self.read(self)


class Asks(nn.Module):
    """Gives hidden units where ``asks`` says so."""

    def __init__(self, asks, first=None):
        super().__init__()
        self.a, self.b, self.asks = nn.Linear(4, 8), nn.Linear(8, 8), asks

    def forward(self, x, target, scale=2.0):
        h = F.relu(self.a(x))
        asked = {
            "target": target is None,
            "scale": scale is None,
            "gradients": torch.is_grad_enabled(),
            "no gradients": not torch.is_grad_enabled(),
        }
        return h if asked[self.asks] else self.b(h) - target


class AsksByName(Asks):
    def forward(self, x, **named):
        h = F.relu(self.a(x))
        return h if named.get("target") is None else self.b(h)


class CallsMore(nn.Sequential):
    """What a call gives is not what ``forward`` gives."""

    def __call__(self, x):
        return torch.cat([super().__call__(x), self[1](self[0](x))], 1)


def _with_a_forward_of_its_own():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    plain = net.forward
    net.forward = lambda x: torch.cat([plain(x), net[1](net[0](x))], 1)
    return net


def _with_a_part_of_its_own():
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Identity())
    net[3].forward = lambda x: x + net[1](net[0](torch.ones(6)))
    return net


def _with_a_call_of_its_own():
    return CallsMore(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def _with_an_activation_of_its_own():
    net = Within(nn.TransformerEncoderLayer(4, 2, 4, 0.0, batch_first=True)).eval()
    net.holder.linear1, layer = nn.Linear(4, 4), net.a
    net.holder.activation = lambda x: layer(x)
    return net


def _conv_pair(*middle, units=6, outputs=2, last=None):
    return nn.Sequential(nn.Conv2d(1, units, 3), *middle, last or nn.Conv2d(units, outputs, 1))


@torch.enable_grad()
def _with_gradients(net, x):
    return net(x, 0)


IMAGES = torch.randn(5, 1, 6, 6)
CASES = {
    "tied by t()": (Tied(torch.t), torch.randn(5, 6), None),
    "tied by .T": (Tied(lambda w: w.T), torch.randn(5, 6), None),
    "tied by data": (Tied(lambda w: w.data.t()), torch.randn(5, 6), None),
    "time before a flatten": (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)),
        torch.randn(5, 3, 4),
        None,
    ),
    "norm over as many times": (Between(nn.BatchNorm1d(8)), torch.randn(5, 8, 4), None),
    "norm over times": (Between(nn.BatchNorm1d(3)), torch.randn(5, 3, 4), None),
    "pool over units": (Between(nn.MaxPool1d(3, 1, 1)), torch.randn(5, 3, 4), None),
    "pool over units, averaged": (
        Between(nn.AvgPool1d(2, 2), second=nn.Linear(4, 2)),
        torch.randn(5, 3, 4),
        None,
    ),
    "an image without a batch": (
        nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)),
        torch.randn(1, 4, 4),
        None,
    ),
    "a signal without a batch": (
        nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.Conv1d(6, 2, 1)),
        torch.randn(3, 6),
        None,
    ),
    "a linear layer over space": (_conv_pair(last=nn.Linear(4, 4)), IMAGES, None),
    "a norm of what was flattened": (
        _conv_pair(nn.Flatten(), nn.BatchNorm1d(96), last=nn.Linear(96, 2)),
        IMAGES,
        None,
    ),
    "a flatten of space alone": (_conv_pair(nn.Flatten(2), last=nn.Linear(16, 2)), IMAGES, None),
    "a layer of one's own": (Between(nn.Identity(), first=Scaled(4, 8)), torch.randn(5, 4), None),
    "a head in training": (Heads("training"), torch.randn(5, 6), lambda net, x: net.train()(x)),
    "a head without an argument": (Heads("None"), torch.randn(5, 6), None),
    "a head by an argument": (
        Heads("given"),
        torch.randn(5, 6),
        lambda net, x: net(x, torch.zeros(1)),
    ),
    "a head by a flag": (Heads("flag"), torch.randn(5, 6), lambda net, x: net(x, both=True)),
    "units kept for later": (
        Heads("attribute"),
        torch.randn(5, 6),
        lambda net, x: (net(x), net.kept)[1],
    ),
    "another method": (ActorCritic(""), torch.randn(5, 6), lambda net, x: net.value(x)),
    "a part that is called": (
        nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 3)),
        torch.randn(5, 6),
        lambda net, x: net[0](x),
    ),
    "a buffer that is read": (BufferOfUnits(), torch.randn(5, 2, 4), None),
    "a layer of an encoder": (
        Within(nn.TransformerEncoderLayer(4, 2, 4, 0.0, batch_first=True)),
        torch.randn(2, 5, 4),
        None,
    ),
    "a layer of an attention": (
        Within(nn.MultiheadAttention(4, 2, batch_first=True)),
        torch.randn(2, 5, 4),
        None,
    ),
    "a layer of replicas": (
        Within(nn.DataParallel(nn.Identity())),
        torch.randn(2, 5, 4),
        None,
    ),
    "tied by parameters": (
        ByHand(lambda net: next(net.a.parameters()).t().sum(0)),
        torch.randn(5, 4),
        None,
    ),
    "tied by the state": (
        ByHand(lambda net: net.state_dict()["a.weight"].abs().mean(1)),
        torch.randn(5, 4),
        None,
    ),
    "tied by numbers": (
        ByHand(lambda net: next(net.a.parameters()).tolist()[0][0]),
        torch.randn(5, 4),
        None,
    ),
    "tied by an array": (
        ByHand(lambda net: float(next(net.a.parameters()).detach().numpy()[0, 0])),
        torch.randn(5, 4),
        None,
    ),
    "no target": (Asks("target"), torch.randn(5, 4), lambda net, x: net(x, None)),
    "no scale": (Asks("scale"), torch.randn(5, 4), lambda net, x: net(x, 0, None)),
    "gradients": (Asks("gradients"), torch.randn(5, 4), _with_gradients),
    "no gradients": (Asks("no gradients"), torch.randn(5, 4), lambda net, x: net(x, 0)),
    "not named": (AsksByName(""), torch.randn(5, 4), None),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("prepared", [False, True])
def test_nothing_changes(name, prepared):
    net, inputs, call = copy.deepcopy(CASES[name])
    call = call or (lambda model, x: model(x))
    if prepared:
        ec.prepare(net)
    plain = ec.convert(copy.deepcopy(net)).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "finalize.model. keeps the statistics")
        final = ec.finalize(net)
    with torch.no_grad():
        torch.testing.assert_close(call(final, inputs), call(plain, inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (_with_a_forward_of_its_own, (5, 6)),
        (_with_a_part_of_its_own, (5, 6)),
        (_with_a_call_of_its_own, (5, 6)),
        (_with_an_activation_of_its_own, (2, 5, 4)),
    ],
)
def test_code_of_its_own_reads_what_it_read(make, shape):
    net, x = make(), torch.randn(shape)
    first = net[0] if isinstance(net, nn.Sequential) else net.a
    first.weight.data[: len(first.weight) // 2] = 0
    before = net(x)
    ec.finalize(net, forward_only=True)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("names", ["memory of another", "memory of a buffer", "an attribute"])
def test_memory_that_others_read_stays_theirs(names):
    net = ByHand(lambda net: net.same.sum(1))
    if names != "an attribute":
        net.read, part = (lambda net: 1), net.a.weight.data[:, ::2]
        net.other = nn.Linear(2, 8)
        net.other.weight = nn.Parameter(part)
    if names == "memory of a buffer":
        net.other.weight = nn.Parameter(part.clone())
        net.register_buffer("part", net.a.weight.data.t())
    assert find_chains(net, forward_only=True) == []


class Keeps(nn.Module):
    """Keeps hidden units beside its attributes."""

    LOG, OF_ALL = [], {}

    def __init__(self, where):
        super().__init__()
        self.a, self.b, self.where = nn.Linear(4, 8), nn.Linear(8, 2), where
        self.of_one, self.plain, self.deep = {}, type("Plain", (), {})(), [({"seen": deque()},)]

    def forward(self, x):
        h = F.relu(self.a(x))
        if self.where == "dict":
            self.of_one["h"] = h
        elif self.where == "object":
            self.plain.h = h
        elif self.where == "deep":
            self.deep[0][0]["seen"].append(h)
        elif self.where == "class":
            self.OF_ALL["h"] = h
        elif self.where == "global":
            KEPT.append(h)
        elif self.where == "module":
            self.b.bias.h = self.b.h = h
        elif self.where == "closure":
            self.of_one["h"] = lambda: h
        return self.b(h)


KEPT = []


@pytest.mark.parametrize(
    "where", ["dict", "object", "deep", "class", "global", "module", "closure"]
)
def test_what_is_kept_beside_attributes_is_found_and_put_back(where):
    net = Keeps(where)
    with pytest.raises(UnsupportedLayerError, match=r"writes|keeps"):
        find_chains(net, forward_only=True)
    assert net.of_one == net.OF_ALL == vars(net.plain) == {}
    assert net.deep == [({"seen": deque()},)]
    KEPT.clear()
    assert find_chains(Keeps(""))


def test_a_path_on_which_a_missing_argument_fails_is_none():
    class Demands(Asks):
        def forward(self, x, target, weight, scale=1.0):
            if weight is None:
                raise ValueError("no weight")
            assert scale is not None
            return self.b(F.relu(self.a(x))) - target.view(-1) * weight

    class Fails(Asks):
        def forward(self, x, target):
            return self.b(F.relu(self.a(x))) if target is None else len(x)

    assert len(find_chains(Demands(""))) == 1
    with pytest.raises(UnsupportedLayerError, match="cannot trace"):
        find_chains(Fails(""))


@pytest.mark.parametrize(
    "where", [{8: None}, {8}, frozenset({8})], ids=lambda where: type(where).__name__
)
@pytest.mark.parametrize("ask", [lambda h: h.shape[1], lambda h: h.size(1)], ids=["part", "value"])
def test_a_network_that_looks_up_what_the_trace_does_not_know_is_not_traced(ask, where):
    class LooksUp(Asks):
        def forward(self, x):
            h = F.relu(self.a(x))
            return h if ask(h) in where else self.b(h)

    with pytest.raises(UnsupportedLayerError, match="looked up"):
        find_chains(LooksUp(""))


@pytest.mark.parametrize("whole", [False, True])
def test_graph_modules_are_traced(whole):
    graph = fx.symbolic_trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
    net = graph if whole else nn.Sequential(graph)
    assert len(find_chains(net, forward_only=True)) == 1


@pytest.mark.parametrize(
    "ask", [lambda h: bool(h.sum() > 0), lambda h: [*h]], ids=["a truth", "rows"]
)
def test_a_network_that_catches_what_the_trace_raises_is_not_traced(ask):
    class Catches(Asks):
        def forward(self, x):
            h = F.relu(self.a(x))
            try:
                ask(h)
            except Exception:
                return self.b(h)
            return h

    with pytest.raises(UnsupportedLayerError, match="cannot trace"):
        find_chains(Catches(""))


def test_parts_in_eval_mode_are_traced_as_they_are():
    class Mixed(Asks):
        def forward(self, x):
            h = F.relu(self.a(x))
            return h if self.training and not self.a.training else self.b(h)

    net = Mixed("").train()
    assert len(find_chains(net)) == 1
    net.a.eval()
    assert find_chains(net) == []
    assert (net.training, net.a.training, net.b.training) == (True, False, True)


def test_what_asks_the_form_of_weights_alone_does_not_read_them():
    def read(net):
        first = next(net.parameters())
        return torch.ones(first.shape[0], dtype=first.dtype, device=first.device)

    assert len(find_chains(ByHand(read), forward_only=True)) == 1


@pytest.mark.parametrize(
    "activation",
    [nn.ReLU(inplace=True), nn.ELU(inplace=True), torch.relu_, partial(F.relu, inplace=True)],
    ids=["ReLU", "ELU", "relu_", "relu"],
)
@pytest.mark.parametrize("rewrite", [ec.finalize, remove_dead_units])
def test_activations_in_place_leave_biases(rewrite, activation):
    net, x = Between(Called(activation)), torch.randn(5, 4)
    before = net(x)
    rewrite(net)
    torch.testing.assert_close(net(x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["another method", "a part that is called"])
def test_who_says_that_only_forward_is_used_gets_smaller_files(name):
    net, inputs, _ = copy.deepcopy(CASES[name])
    next(net.parameters()).data[::2, 1:] = 0  # units are not alike
    before, plain = copy.deepcopy(net).eval(), copy.deepcopy(net.state_dict())
    final = ec.finalize(net, forward_only=True)
    assert any(not torch.equal(final.state_dict()[key], plain[key]) for key in plain)
    torch.testing.assert_close(final(inputs), before(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("watch", ["layer", "activation", "holder", "parameter", "accumulated"])
def test_hooks_see_what_they_saw(watch):
    net, seen = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))), []
    note = lambda *given: seen.append(1)  # noqa: E731
    if watch == "parameter":
        net[0][0].weight.register_hook(note)
    elif watch == "accumulated":
        net[0][0].weight.register_post_accumulate_grad_hook(note)
    else:
        module = {"layer": net[0][0], "activation": net[0][1], "holder": net[0]}[watch]
        module.register_forward_hook(lambda module, given, output: note())
    net[0][0].weight.data[3:] = 0
    net[0][0].bias.data[3:] = 0
    assert find_chains(net) == []
    assert remove_dead_units(net) == 0
    net(torch.randn(3, 4)).sum().backward()
    assert seen


@pytest.mark.parametrize(
    "register",
    ["module_forward_hook", "module_forward_pre_hook", "module_full_backward_hook"],
)
def test_hooks_of_all_modules_see_what_they_saw(register):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    handle = getattr(nn.modules.module, f"register_{register}")(lambda *given: None)
    try:
        assert find_chains(net) == []
    finally:
        handle.remove()
    assert len(find_chains(net)) == 1


@pytest.mark.parametrize("where", [0, 1, 2])
def test_layers_with_tensors_of_the_users_own_stay(where):
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).eval()
    net = nn.Sequential(nn.Flatten(), *net)
    assert len(find_chains(net)) == 1
    net[1 + where].register_buffer("note", torch.zeros(3))
    assert find_chains(net) == []


def test_norms_of_signals_are_passed_where_no_signal_comes_alone():
    net = CASES["a signal without a batch"][0]
    assert find_chains(net) == []
    assert len(find_chains(net, forward_only=True)) == 1
    assert len(find_chains(net, ranks={net[0]: 3})) == 1
    assert find_chains(net, ranks={net[0]: 2}) == []


@pytest.mark.parametrize(
    "form", ["tensors", "tuples", "dicts", "a function", "a tensor", "a dict", "a loader"]
)
def test_inputs_tell_which_axis_units_are(form):
    inputs = [torch.randn(7, 4), torch.randn(5, 4)]
    batches = {
        "tensors": inputs,
        "tuples": [(x,) for x in inputs],
        "dicts": [{"x": x} for x in inputs],
        "a function": lambda model: model(torch.cat(inputs)),
        "a tensor": torch.cat(inputs),
        "a dict": {"x": torch.cat(inputs)},
        "a loader": torch.utils.data.DataLoader(torch.cat(inputs), batch_size=5),
    }[form]
    net = Between(nn.BatchNorm1d(8)).eval()
    net.a.weight.data[torch.randperm(8)[:5]] *= torch.rand(5, 4) < 0.4  # so that order matters
    plain = copy.deepcopy(net)
    discretize_norms(plain, batches)
    final = ec.finalize(net, batches)
    assert not torch.equal(final.a.weight, plain.a.weight)
    x = torch.cat(inputs)
    torch.testing.assert_close(final(x), plain(x), rtol=1e-4, atol=1e-5)


X = torch.randn(6, 4)


@pytest.mark.parametrize(
    ("batches", "said"),
    [
        (None, "batches = None: expected inputs"),
        (5, "batches = 5: expected inputs"),
        ([[X, X]], r"batches\[0\] is a list of 2: .* inputs alone"),
        ([X, "x"], r"batches\[1\] is of type str"),
        ([X, (X,)], "of one form"),
        ([X[:0]], r"batches\[0\] holds no examples"),
        ([X, X * torch.nan], r"batches\[1\] holds NaN"),
        ({"x": X * torch.inf}, "batches holds NaN or infinity"),
        ([X.double()], "does not run on them: RuntimeError"),
        ([X[0]], "does not run on them"),
        ([X.T], "does not run on them: RuntimeError: .*shapes"),
        ([(X, X)], "does not run on them: TypeError"),
        ({"y": X}, "does not run on them: TypeError"),
        (lambda net: None, "called the network 0 times: expected once"),
        (lambda net: [net(x[None]) for x in X], "called the network 6 times: expected once"),
        (lambda net: net(X * torch.nan), "gives NaN"),
        (lambda net: 1 / 0, "does not run on them: ZeroDivisionError"),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_what_is_no_input_is_refused_before_anything_changes(training, batches, said):
    net = ec.prepare(Between(nn.BatchNorm1d(8))).train(training)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ConfigError, match=said):
        ec.finalize(net, batches)
    assert type(net.a) is not nn.Linear
    assert all(module.training is training for module in net.modules())
    assert all(before[name].equal(value) for name, value in net.state_dict().items())
    assert not net._forward_pre_hooks
    if not callable(batches):
        with pytest.raises(ConfigError, match=said):
            restore_norms(net, batches)


def test_statistics_are_restored_from_inputs_alone():
    with pytest.raises(ConfigError, match="one batch at least"):
        restore_norms(Between(nn.BatchNorm1d(8)), [])


def test_a_change_that_outputs_show_is_undone_with_a_warning():
    class Sly(nn.Module):
        """What the trace shows as a relu is none: a number that no trace can follow."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(2, 2)

        def forward(self, x):
            first = self.__dict__["_modules"]["a"]
            bias = float(first._parameters["bias"].detach()[0]) if not _is_tracing(x) else 0.0
            return self.c(F.relu(self.b(F.relu(self.a(x)))) + bias)

    def _is_tracing(x):
        return isinstance(x, torch.fx.Proxy)

    net, x = Sly().eval(), torch.randn(6, 4)
    net.a.weight.data[:4, :2] = 0
    expected = net(x)
    with pytest.warns(UserWarning, match="units of a -> b stay"):
        ec.finalize(net, [x])
    torch.testing.assert_close(net(x), expected)


def test_networks_that_cannot_be_traced_train_on():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else -self.a(x)

    net = ec.prepare(Branches())
    with pytest.warns(UserWarning, match="Branches"):
        assert remove_dead_units(net) == 0
    ec.finalize(net)


def test_a_trace_leaves_the_network_as_it_is():
    net = Heads("attribute")
    net.b.eval()
    kept = net.kept = torch.ones(3)
    ec.finalize(copy.deepcopy(net))
    with pytest.warns(UserWarning, match="writes to its attributes"):
        remove_dead_units(net)
    assert net.kept is kept
    assert (net.training, net.a.training, net.b.training) == (True, True, False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_and_layers_without_bias(dtype):
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(6, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 4, bias=False),
        nn.ReLU(),
        nn.Linear(4, 2),
    ).to(dtype)
    net[1].weight.data[2:5] = 0
    x = torch.randn(9, 6).to(dtype)
    ec.prepare(net)
    remove_dead_units(net)
    expected = ec.convert(copy.deepcopy(net)).eval()(x)
    final = ec.finalize(net, [x], norm_levels=1 << 16)
    assert final(x).dtype == dtype
    assert final(x).shape == expected.shape
    assert final(x).isfinite().all()


def test_the_meter_measures_what_the_same_call_leaves():
    net = ec.prepare(
        nn.Sequential(
            nn.Sequential(nn.Flatten(), nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU()),
            nn.Linear(32, 4),
        )
    )
    x = torch.randn(64, 6)
    sizes = []
    for settings in ({"batches": [x]}, {"batches": [x], "forward_only": True}):
        call = partial(ec.finalize, **settings)
        sizes.append(len(save(call(copy.deepcopy(net)))))
        assert ec.SizeMeter(call)(net).total == sizes[-1]


def test_without_inputs_batch_norms_are_warned_of():
    net = ec.prepare(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)))
    with pytest.warns(UserWarning, match="batches="):
        ec.finalize(copy.deepcopy(net))
    ec.finalize(net, [torch.randn(4, 1, 3, 3)])
    ec.finalize(net)  # is plain by now


def test_a_snapshot_leaves_the_network_in_training():
    net = ec.prepare(nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))).train()
    state = copy.deepcopy(net.state_dict())
    x = torch.randn(16, 1, 3, 3)
    seen = ec.snapshot(net, [x])
    assert net.training
    assert all(torch.equal(net.state_dict()[key], state[key]) for key in state)
    torch.testing.assert_close(seen(x), ec.finalize(net, [x])(x))
