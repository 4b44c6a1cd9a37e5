"""vmap, grad, jvp and their compositions give what loops and autograd give."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    hessian,
    jacrev,
    jvp,
    stack_module_state,
    vmap,
)
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import ectorch as ec
from ectorch.constrain.modules import Constrained, constrained_parameters, constraints
from ectorch.errors import ConfigError

# torch's own, when forward mode loads its decompositions
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")

RELAXATIONS = ["bracket", "categorical", "hard"]
CODEBOOKS = ["grid", "kmeans"]  # "quantile" differs from "kmeans" in where it starts
X = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 0, 1, 2])


def network(seed=0, **settings):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    return ec.prepare(net, ec.Config(**{"levels": 5, "reach": 2, **settings}))


def state(net):
    """Parameters and buffers of one network, without gradients."""
    parameters = {name: p.detach() for name, p in net.named_parameters()}
    return parameters, dict(net.named_buffers())


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-7)


@pytest.fixture(params=RELAXATIONS)
def relaxation(request):
    return request.param


@pytest.fixture(params=CODEBOOKS)
def codebook(request):
    return request.param


@pytest.fixture(params=["nearest", "sampled", "moments"])
def settings(request, relaxation, codebook):
    return {"relaxation": relaxation, "codebook": codebook, "forward": request.param}


def seeded(function):
    """``function`` with the same random numbers in every call."""

    def call(*args):
        torch.manual_seed(1)
        return function(*args)

    return call


def test_an_ensemble_is_its_networks(settings):
    nets = [network(seed, **settings) for seed in range(3)]
    base = copy.deepcopy(nets[0])
    ensemble = vmap(lambda *one: functional_call(base, one, (X,)), randomness="same")
    ours = seeded(ensemble)(*stack_module_state(nets))
    close(ours, torch.stack([seeded(net)(X) for net in nets]))


def test_networks_of_an_ensemble_draw_their_own_numbers():
    nets = [network(0, forward="sampled") for _ in range(2)]
    base = copy.deepcopy(nets[0])
    ensemble = vmap(lambda *one: functional_call(base, one, (X,)), randomness="different")
    first, second = ensemble(*stack_module_state(nets))
    assert not torch.equal(first, second)


def test_gradients_of_an_ensemble_are_those_of_its_networks(settings):
    nets = [network(seed, **settings) for seed in range(2)]
    base = copy.deepcopy(nets[0])

    def loss(parameters, buffers):
        return F.cross_entropy(functional_call(base, (parameters, buffers), (X,)), Y)

    parameters, buffers = stack_module_state(nets)
    ours = seeded(vmap(grad(loss), randomness="same"))(parameters, buffers)
    for index, net in enumerate(nets):
        F.cross_entropy(seeded(net)(X), Y).backward()
        for name, parameter in net.named_parameters():
            theirs = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            close(ours[name][index], theirs)


def test_per_sample_gradients_are_those_of_a_loop(settings):
    net = network(**settings)
    parameters, buffers = state(net)

    def loss(parameters, x, y):
        output = functional_call(net, (parameters, buffers), (x[None],))
        return F.cross_entropy(output, y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0), randomness="same")
    ours = seeded(each)(parameters, X, Y)
    for index in range(len(X)):
        theirs = seeded(grad(loss))(parameters, X[index], Y[index])
        net.zero_grad()
        F.cross_entropy(seeded(net)(X[index][None]), Y[index][None]).backward()
        for name, parameter in net.named_parameters():
            close(ours[name][index], theirs[name])
            if parameter.grad is not None:
                close(theirs[name], parameter.grad)


def test_a_directional_derivative_is_the_gradient_in_that_direction(settings):
    net = network(**settings)
    parameters, buffers = state(net)
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}

    def loss(parameters):
        return F.cross_entropy(functional_call(net, (parameters, buffers), (X,)), Y)

    gradient = seeded(grad(loss))(parameters)
    expected = sum((gradient[name] * direction[name]).sum() for name in gradient)
    close(seeded(jvp)(loss, (parameters,), (direction,))[1], expected)
    with torch.no_grad():  # forward mode needs no graph
        close(seeded(jvp)(loss, (parameters,), (direction,))[1], expected)


@pytest.mark.parametrize("codebook", CODEBOOKS)
def test_dual_tensors_carry_the_same(codebook, relaxation):
    net = network(relaxation=relaxation, codebook=codebook)
    parameters, buffers = state(net)
    direction = {name: torch.ones_like(p) for name, p in parameters.items()}

    def output(parameters):
        return functional_call(net, (parameters, buffers), (X,))

    with forward_ad.dual_level():
        duals = {n: forward_ad.make_dual(p, direction[n]) for n, p in parameters.items()}
        ours = forward_ad.unpack_dual(output(duals)).tangent
    close(ours, jvp(output, (parameters,), (direction,))[1])


def penalty(net, parameters, buffers):
    """The penalty as a function; `functional_call` calls a module's forward only."""

    class Charged(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self):
            return ec.penalty(self.net, alpha=1.0, examples=10, refresh=False)

    named = {f"net.{name}": tensor for name, tensor in (parameters | buffers).items()}
    return functional_call(Charged(), named, ())


def test_the_penalty_can_be_transformed(relaxation, codebook):
    nets = [network(seed, relaxation=relaxation, codebook=codebook) for seed in range(2)]
    base = copy.deepcopy(nets[0])
    parameters, buffers = stack_module_state(nets)
    values = vmap(lambda p, b: penalty(base, p, b))(parameters, buffers)
    ours = vmap(grad(lambda p, b: penalty(base, p, b)))(parameters, buffers)
    for index, net in enumerate(nets):
        theirs = ec.penalty(net, alpha=1.0, examples=10, refresh=False)
        close(values[index], theirs.detach())
        if theirs.requires_grad:
            theirs.backward()
        for name, parameter in net.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(ours[name][index], expected)


@pytest.mark.parametrize("method", ["counts", "symbols"])
def test_what_levels_weights_have_can_be_mapped(method, relaxation, codebook):
    nets = [network(seed, relaxation=relaxation, codebook=codebook) for seed in range(2)]
    base = copy.deepcopy(nets[0])
    kind = next(handle.relaxation for handle in constrained_parameters(base))

    class Asked(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self):
            first = self.net[0]
            ask = getattr(kind, method)
            return ask(
                Constrained(first, "weight").variables(), Constrained(first, "weight").codebook()
            )

    askers = [Asked(net) for net in nets]
    base = copy.deepcopy(askers[0])
    ours = vmap(lambda *one: functional_call(base, one, ()))(*stack_module_state(askers))
    close(ours.double(), torch.stack([asker().double() for asker in askers]))


def test_levels_are_not_counted_within_a_transform():
    net = network()
    parameters, _ = state(net)

    def loss(weight):
        return functional_call(Penalised(net), {"net.0.weight": weight}, ())

    class Penalised(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self):
            return ec.penalty(self.net, alpha=1.0, examples=10)

    with pytest.raises(ConfigError, match="refresh=False"):
        grad(loss)(parameters["0.weight"])


@pytest.mark.parametrize("method", ["nearest", "moments"])
def test_second_derivatives_are_those_of_finite_differences(method, relaxation, codebook):
    """Of the first derivatives, to what the relaxation trains; straight through has none."""
    net = network(relaxation=relaxation, codebook=codebook)
    subject = Constrained(net[0], "weight").variables()
    name = "logits" if "logits" in subject else "weight"
    book = Constrained(net[0], "weight").codebook()
    kind = constraints(net[0])["weight"].relaxation
    scale = torch.linspace(-1, 2, 20, dtype=torch.float64).reshape(4, 5)

    def value(trained):
        found = getattr(kind, method)({**subject, name: trained}, book)
        total = sum(found) if method == "moments" else found
        return (total * scale).sum()

    at = subject[name].detach() + 1e-3  # off the levels
    ours = hessian(value)(at)
    close(jacrev(grad(value))(at), ours)
    leaf = at.clone().requires_grad_()
    (first,) = torch.autograd.grad(value(leaf), leaf, create_graph=True)
    close(first.detach(), grad(value)(at))
    if first.requires_grad:
        rows = [torch.autograd.grad(g, leaf, retain_graph=True)[0] for g in first.flatten()]
        close(torch.stack(rows).reshape(ours.shape), ours)
    else:
        assert not ours.any()
    if method == "moments" and relaxation != "hard":
        differences = []
        for index in range(at.numel()):
            moved = torch.zeros_like(at).flatten()
            moved[index] = 1e-6
            moved = moved.reshape(at.shape)
            differences.append((grad(value)(at + moved) - grad(value)(at - moved)) / 2e-6)
        expected = torch.stack(differences).reshape(ours.shape)
        torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)
        assert ours.any()


def test_a_batch_of_gradients_goes_back_at_once(settings):
    net = network(**settings)
    trained = [p for p in net.parameters() if p.requires_grad]
    outputs = seeded(net)(X).sum(0)
    together = torch.autograd.grad(
        outputs,
        trained,
        torch.eye(3, dtype=torch.float64),
        is_grads_batched=True,
        retain_graph=True,
        allow_unused=True,
    )
    for index in range(3):
        alone = torch.autograd.grad(outputs[index], trained, retain_graph=True, allow_unused=True)
        for ours, theirs in zip(together, alone, strict=True):
            assert (ours is None) == (theirs is None)
            if theirs is not None:
                close(ours[index], theirs)


def test_checkpointing_computes_the_same(settings):
    plain, kept = network(**settings), network(**settings)
    seeded(plain)(X).square().sum().backward()
    seeded(lambda x: checkpoint(kept, x, use_reentrant=False))(X).square().sum().backward()
    for ours, theirs in zip(kept.parameters(), plain.parameters(), strict=True):
        if theirs.grad is not None:
            close(ours.grad, theirs.grad)


def test_tied_weights_stay_tied_in_a_functional_call(relaxation):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    net[2].weight = net[0].weight
    ec.prepare(net, ec.Config(relaxation=relaxation))
    parameters, buffers = state(net)
    x = X[:, :4]

    def loss(parameters):
        return functional_call(net, (parameters, buffers), (x,)).square().sum()

    ours = grad(loss)(parameters)
    net(x).square().sum().backward()
    for name, parameter in net.named_parameters():
        close(ours[name], torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
