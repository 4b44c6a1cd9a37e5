"""A constrained module: same keys, same Parameter, other reads."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from ectorch.constrain.config import Config
from ectorch.constrain.modules import Constrained
from ectorch.constrain.relaxation import Bracket
from ectorch.workflow import convert, freeze_symbols, penalty, prepare

FORWARDS = ("nearest", "sampled", "moments")


class Guarded(nn.Linear):
    """Drops what cannot be pickled, as user modules do."""

    def __init__(self):
        super().__init__(6, 4)
        self.lock = threading.Lock()

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "lock"}

    def __setstate__(self, state):
        super().__setstate__(state)
        self.lock = threading.Lock()


class Slotted(nn.Linear):
    __slots__ = ("note",)

    def __init__(self):
        super().__init__(6, 4)
        self.note = None

    def __getstate__(self):
        return {**self.__dict__, "_note": self.note}

    def __setstate__(self, state):
        self.note = state.pop("_note")
        super().__setstate__(state)


class Doubled(nn.Linear):
    """A forward of its own."""

    def __init__(self):
        super().__init__(6, 4)

    def forward(self, input):
        return super().forward(input) * 2 + self.weight.sum()


MODULES = {
    "linear": (lambda: nn.Linear(6, 4), (5, 6)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1), (5, 2, 7)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, stride=2), (5, 2, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, bias=False), (5, 2, 3, 4, 3)),
    "guarded": (Guarded, (5, 6)),
    "slotted": (Slotted, (5, 6)),
    "doubled": (Doubled, (5, 6)),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=MODULES)
def case(request):
    make, shape = MODULES[request.param]
    return make(), torch.randn(shape)


def prepared(module, **settings):
    return prepare(module, Config(**{"levels": 5, "bias": "float32", **settings}))


def forward_and_gradients(module, x):
    module.zero_grad()
    torch.manual_seed(1)
    output = module(x)
    output.square().sum().backward()
    return output.detach(), [p.grad.clone() for p in module.parameters()]


def same(first, second):
    return torch.equal(first[0], second[0]) and all(map(torch.equal, first[1], second[1]))


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def test_keys_and_the_parameter_itself_stay(case):
    module, _ = case
    keys, weight, kind = list(module.state_dict()), module.weight, type(module)
    before = weight.detach().clone()
    prepared(module)
    assert set(module.state_dict()) == {
        *keys,
        "weight_log_gaps",
        "weight_lengths",
        "weight_bits",
    }
    assert module._parameters["weight"] is weight
    assert next(module.parameters()) is weight
    assert torch.equal(weight, before)
    assert isinstance(module, kind)
    assert module.weight is not weight
    assert module.weight.unique().numel() <= 5
    assert weight.dtype == module.weight.dtype
    assert module.weight.requires_grad


def test_a_read_is_what_the_module_multiplies_with(case):
    module, x = case
    plain = copy.deepcopy(module)
    prepared(module).eval()
    plain.weight.data = module.weight.detach()
    assert torch.equal(module(x), plain(x))


def test_constrained_classes_are_made_once():
    first, second = prepared(nn.Linear(2, 3)), prepared(nn.Linear(4, 5))
    assert type(first) is type(second)
    assert type(first).__name__ == "ConstrainedLinear"


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), saved_and_loaded],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_copies_are_equal_independent_and_trainable(case, duplicate):
    module, x = case
    prepared(module, forward="moments", bias="float16")
    other = duplicate(module)
    assert type(other) is type(module)
    assert vars(other).keys() == vars(module).keys()
    assert same(forward_and_gradients(module, x), forward_and_gradients(other, x))
    assert not {id(p) for p in module.parameters()} & {id(p) for p in other.parameters()}
    before = module.eval()(x)
    with torch.no_grad():
        other._parameters["weight"].add_(1.0)
    assert torch.equal(module(x), before)
    assert type(convert(other)) is type(module).__base__


@pytest.mark.parametrize("forward", FORWARDS)
def test_eval_is_the_hard_network(case, forward):
    module, x = case
    prepared(module, forward=forward)
    hard = module.eval()(x)
    assert torch.equal(module(x), hard)
    assert torch.equal(module.weight, Constrained(module, "weight").hard())
    module.train()
    assert torch.equal(module(x), hard) == (forward == "nearest")
    convert(module)
    assert torch.equal(module(x), hard)


@pytest.mark.parametrize("forward", FORWARDS)
def test_gradients_reach_everything(case, forward):
    module, x = case
    prepared(module, forward=forward, bias="grid")
    _, gradients = forward_and_gradients(module, x)
    assert len(gradients) == (2 if "bias" not in module.state_dict() else 4)
    assert all(g.isfinite().all() and g.any() for g in gradients)


def test_straight_through_the_weight_gets_the_plain_gradient(case):
    module, x = case
    prepared(module)
    plain = convert(copy.deepcopy(module))
    forward_and_gradients(module, x)
    forward_and_gradients(plain, x)
    torch.testing.assert_close(module._parameters["weight"].grad, plain.weight.grad)


@pytest.mark.parametrize("forward", FORWARDS)
def test_weights_on_levels_give_no_nan(case, forward):
    module, x = case
    prepared(module, forward=forward)
    with torch.no_grad():
        module._parameters["weight"].copy_(Constrained(module, "weight").hard())
    (module(x).sum() + penalty(module, 1.0, 1)).backward()
    assert all(p.grad.isfinite().all() for p in module.parameters())


LOCAL = {
    "linear": (lambda: nn.Linear(6, 3), (2, 6)),
    "conv1d": (lambda: nn.Conv1d(2, 2, 3, padding=2, padding_mode="replicate"), (2, 2, 5)),
    "conv2d-groups": (lambda: nn.Conv2d(4, 4, 2, groups=2, stride=2, bias=False), (2, 4, 4, 4)),
    "conv2d-circular": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"),
        (1, 2, 3, 3),
    ),
    "conv2d-dilated": (lambda: nn.Conv2d(2, 3, 2, padding="same", dilation=2), (1, 2, 3, 3)),
    "conv3d": (lambda: nn.Conv3d(1, 2, 2), (1, 1, 3, 2, 2)),
}


@pytest.mark.parametrize("name", LOCAL)
def test_moments_are_the_statistics_of_sampled_outputs(name):
    make, shape = LOCAL[name]
    module, x, draws = make(), torch.randn(shape), 3000
    by_weights, by_outputs = (prepared(copy.deepcopy(module), forward=f) for f in FORWARDS[1:])
    with torch.no_grad():
        sampled = torch.stack([by_weights(x) for _ in range(draws)]).double()
        noisy = torch.stack([by_outputs(x) for _ in range(draws)]).double()
    variance = sampled.var(0)
    error = (2 * variance / draws).sqrt()
    assert ((sampled.mean(0) - noisy.mean(0)).abs() <= 5 * error + 1e-3).all()
    torch.testing.assert_close(
        noisy.var(0), variance, rtol=0.25, atol=1e-3 * variance.mean().item()
    )
    assert variance.min() > 0


def test_noise_of_moments_is_independent_across_examples():
    module = prepared(nn.Linear(6, 3), forward="moments")
    one, two = module(torch.ones(2, 6))
    assert not torch.equal(one, two)


def test_frozen_layers_have_no_noise(case):
    module, x = case
    prepared(module, forward="moments")
    hard = module.eval()(x)
    freeze_symbols(module).train()
    assert torch.equal(module(x), hard)


def test_other_dtypes(case):
    module, x = case
    prepared(module).to(torch.float64)
    assert module.weight.dtype == module(x.double()).dtype == torch.float64
    single = copy.deepcopy(module).to(torch.float32)
    torch.testing.assert_close(module(x.double()).float(), single(x))
    (module(x.double()).sum() + penalty(module, 1.0, 1)).backward()
    assert module._parameters["weight"].grad.dtype == torch.float64


def test_autocast():
    module, x = prepared(nn.Linear(6, 4), forward="moments"), torch.randn(5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(x)
        loss = output.float().square().sum() + penalty(module, 1.0, 1)
    assert output.dtype == torch.bfloat16
    loss.backward()
    assert all(
        p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in module.parameters()
    )


@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
def test_compiled_as_one_graph(forward):
    torch.compiler.reset()
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))
    prepared(net, forward=forward, bias="grid", overrides={"3": {"codebook": "kmeans"}})
    x = torch.randn(5, 1, 3, 3)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert same(forward_and_gradients(net, x), forward_and_gradients(compiled, x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_code_follows_training_and_freezing():
    torch.compiler.reset()
    net = prepared(nn.Linear(6, 4))
    compiled, x = torch.compile(net, backend="eager"), torch.randn(5, 6)
    for step in range(4):
        if step == 2:
            freeze_symbols(net)
        assert torch.equal(compiled(x), net(x))
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter))


def test_gradients_accumulate():
    module, x = prepared(nn.Linear(6, 4)), torch.randn(8, 6)
    _, expected = forward_and_gradients(module, x)
    module.zero_grad()
    for half in x.chunk(2):
        module(half).square().sum().backward()
    torch.testing.assert_close([p.grad for p in module.parameters()], expected)


def test_functional_call_and_its_gradients():
    module, x = prepared(nn.Linear(6, 4), forward="sampled"), torch.randn(8, 6)
    replaced = {name: p.detach() * 0.7 for name, p in module.named_parameters()}
    other = copy.deepcopy(module)
    other.load_state_dict(replaced)
    expected = forward_and_gradients(other, x)

    def loss(parameters):
        torch.manual_seed(1)
        output = functional_call(module, parameters, (x,))
        return output.square().sum(), output

    gradients, output = torch.func.grad(loss, has_aux=True)(replaced)
    torch.testing.assert_close((output, [*gradients.values()]), expected)


def test_gradients_clip():
    module, x = prepared(nn.Linear(6, 4)), torch.randn(8, 6)
    forward_and_gradients(module, x)
    nn.utils.clip_grad_norm_(module.parameters(), 0.1)
    norms = torch.stack([p.grad.norm() for p in module.parameters()])
    assert norms.norm().item() == pytest.approx(0.1, rel=1e-4)


def test_a_new_parameter_is_constrained_by_a_codebook_that_starts_from_it():
    module = prepared(nn.Linear(6, 4))
    log_gaps = module.weight_log_gaps
    new = nn.Parameter(100 * torch.randn(3, 6))
    module.weight = new
    assert module._parameters["weight"] is new
    assert module.weight_log_gaps is log_gaps
    assert module.weight.shape == (3, 6)
    assert torch.isin(module.weight, Constrained(module, "weight").codebook().values).all()
    assert module.weight.abs().max() > 50


def test_an_attribute_error_of_a_relaxation_is_not_taken_for_a_missing_attribute():
    class Broken(Bracket):
        def nearest(self, variables, codebook):
            return variables.weight

    module = prepared(nn.Linear(6, 4), relaxation=Broken())
    with pytest.raises(RuntimeError, match=r"ConstrainedLinear\.weight: .*no attribute 'weight'"):
        _ = module.weight
    with pytest.raises(AttributeError, match="no attribute 'weight'"):
        module(torch.randn(2, 6))


def test_an_lstm_reads_constrained_weights_and_copies():
    module, x = nn.LSTM(4, 5, num_layers=2), torch.randn(6, 3, 4)
    prepared(module, include=("weight_*",))
    before = module.eval()(x)[0]
    module.train()(x)[0].sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    for other in (copy.deepcopy(module), saved_and_loaded(module), copy.deepcopy(module).double()):
        other.to(x.dtype).eval()
        assert torch.equal(other(x)[0], before)
        assert torch.equal(convert(other)(x)[0], before)
        assert type(other) is nn.LSTM
    assert torch.equal(module.eval()(x)[0], before)


def test_a_transformers_fast_path_reads_constrained_weights():
    module, x = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), torch.randn(2, 3, 8)
    prepared(module, include=("*weight",), exclude=("norm*",)).eval()
    with torch.no_grad():
        fast = module(x)
        plain = convert(copy.deepcopy(module))
        assert torch.equal(fast, plain(x))
    torch.testing.assert_close(module(x), fast)
    module.train()(x).sum().backward()
    assert module.self_attn._parameters["in_proj_weight"].grad.any()
    assert module.self_attn.out_proj._parameters["weight"].grad.any()


@pytest.mark.parametrize("codebook", ["grid", "kmeans"])
def test_channels_last_stays(codebook):
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    x = torch.randn(1, 3, 5, 5)
    prepared(net, codebook=codebook)
    (net(x).sum() + penalty(net, 1.0, 1)).backward()
    convert(net)
    assert net.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_bias_on_a_grid_leaves_zero():
    """Zero is where most networks start their biases."""
    module = nn.Linear(6, 4)
    nn.init.zeros_(module.bias)
    prepared(module, bias="grid")
    target = torch.tensor([0.5, -0.4, 0.9, 0.0])
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        F.mse_loss(module(torch.zeros(1, 6)), target[None]).backward()
        optimizer.step()
    torch.testing.assert_close(module.bias, target, atol=0.05, rtol=0)


def test_a_linear_layer_may_have_a_parameter_of_its_own_in_place_of_a_bias():
    class Gated(nn.Linear):
        def __init__(self):
            super().__init__(6, 4, bias=False)
            self.gate = nn.Parameter(torch.randn(4, 6))

    module, x = prepared(Gated(), include=("weight", "gate")), torch.randn(2, 6)
    torch.testing.assert_close(module(x), x @ module.weight.T)
    assert convert(module).gate.unique().numel() <= 33
