"""The kernels as torch sees them: operators with gradients, shapes without values, and batches."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.library import opcheck

from ectorch import Config, penalty, prepare
from ectorch.constrain.kernels import choose, native, ops, plain

LEVELS = 9
OPERATORS = torch.ops.ectorch


def subject(dtype=torch.float32, shape=(6, 5)):
    torch.manual_seed(0)
    weight = torch.randn(shape).to(dtype).requires_grad_()
    return weight, torch.tensor([-1.2], dtype=dtype).requires_grad_()


def arguments_of(name, dtype=torch.float32):
    weight, log_gaps = subject(dtype)
    grad = torch.randn(weight.shape).to(dtype)
    noise = torch.randint(-9, 9, weight.shape, dtype=torch.int16)
    lengths, one = torch.rand(LEVELS), torch.ones((), dtype=torch.float64)
    return {
        "round_to_grid": (weight, log_gaps, LEVELS, noise, torch.bfloat16),
        "round_to_grid_by_step": (grad, weight.detach(), log_gaps.detach(), LEVELS, noise),
        "grid_moments": (weight, log_gaps, LEVELS),
        "grid_moments_backward": (grad, grad, weight.detach(), log_gaps.detach(), LEVELS),
        "grid_counts": ([weight, weight], [log_gaps, log_gaps], [LEVELS, 3]),
        "grid_charge": ([weight], [log_gaps], [LEVELS], [lengths], [1.0]),
        "grid_charge_backward": (one, [weight.detach()], [log_gaps], [LEVELS], [lengths], [0.5]),
    }[name]


NAMES = [
    *("round_to_grid", "round_to_grid_by_step", "grid_moments", "grid_moments_backward"),
    *("grid_counts", "grid_charge", "grid_charge_backward"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_operators_are_what_they_say_of_themselves(name, dtype):
    opcheck(getattr(OPERATORS, name).default, arguments_of(name, dtype))


@pytest.mark.parametrize("name", ["round_to_grid", "grid_moments", "grid_counts"])
def test_a_batch_of_networks_is_one_after_the_other(name):
    operator = getattr(OPERATORS, name)
    weights = torch.randn(3, 4, 5)
    gaps = torch.randn(3, 1)

    def call(weight, log_gaps):
        if name == "grid_counts":
            return operator([weight], [log_gaps], [LEVELS])[0]
        return operator(weight, log_gaps, LEVELS)

    together = torch.vmap(call)(weights, gaps)
    alone = [call(*pair) for pair in zip(weights, gaps, strict=True)]
    for at, found in enumerate(together if isinstance(together, tuple) else (together,)):
        expected = [each[at] if isinstance(each, tuple) else each for each in alone]
        torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("noisy", [False, True])
def test_the_operator_and_the_eager_way_give_the_same_gradients(noisy):
    found = []
    for call in (ops.round_to_grid, OPERATORS.round_to_grid):
        weight, log_gaps = subject()
        torch.manual_seed(1)
        noise = torch.randint(-(2**15), 2**15, weight.shape, dtype=torch.int16) if noisy else None
        value = call(weight, log_gaps, LEVELS, noise)
        (value * torch.randn(weight.shape)).sum().backward()
        found.append((value.detach(), weight.grad, log_gaps.grad))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("together", [False, True])
def test_a_gradient_has_the_curvature_of_the_log_gap_alone(together):
    """``d by_log / d log = by_log``, as the gap is an exponential; rounding has none."""
    weight, log_gaps = subject(torch.float64)
    if together:
        rows = [weight, weight], [log_gaps, log_gaps.detach()], [LEVELS, LEVELS]
        value = ops.round_together(*rows)[0]
    else:
        value = ops.round_to_grid(weight, log_gaps, LEVELS)
    factor = torch.randn(weight.shape, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad((factor * value).sum(), log_gaps, create_graph=True)
    second, by_factor = torch.autograd.grad(first, (log_gaps, factor))
    torch.testing.assert_close(second, first.detach())
    torch.testing.assert_close((by_factor * factor.detach()).sum(), first.detach().squeeze())


def test_each_form_serves_what_it_can():
    for kind, expected in (
        (torch.float32, plain if native.compiled is None else native),
        (torch.float16, plain),
    ):
        assert choose.kernels_for(*subject(kind)) is expected
    weight, log_gaps = subject()
    assert choose.kernels_for(weight.to("meta"), log_gaps.to("meta")) is plain
    assert choose.kernels_for(weight, log_gaps.double()) is plain


@pytest.mark.parametrize("kinds", [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_a_codebook_of_another_dtype_is_no_memory_of_the_weight(kinds):
    weight, log_gaps = (pair[at] for at, pair in enumerate(map(subject, kinds)))
    alike = log_gaps.detach().to(weight.dtype).requires_grad_()
    found = []
    for book in (log_gaps, alike):
        value = ops.round_together([weight, weight], [book, book], [LEVELS, 5])
        charged = ops.charge([weight], [book], [LEVELS], [torch.arange(9.0)], [1.0])
        total = value[0].square().sum() + value[1].sum() + charged
        found.append(torch.autograd.grad(total, (weight, book)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)


def test_an_operator_refuses_what_a_kernel_would_read_beyond():
    weight, log_gaps = (tensor.detach() for tensor in subject())
    one, noise = torch.ones((), dtype=torch.float64), torch.zeros(6, 5, dtype=torch.int16)
    calls = [
        ("noise", OPERATORS.round_to_grid, (weight, log_gaps, LEVELS, noise[:2])),
        ("noise", OPERATORS.round_to_grid, (weight, log_gaps, LEVELS, noise.int())),
        ("log gaps", OPERATORS.round_to_grid, (weight, log_gaps[:0], LEVELS)),
        ("levels", OPERATORS.grid_counts, ([weight], [log_gaps], [1])),
        ("gradient", OPERATORS.round_to_grid_by_step, (weight[:1], weight, log_gaps, LEVELS)),
        (
            "lengths",
            OPERATORS.grid_charge_backward,
            (one, [weight], [log_gaps], [LEVELS], [torch.ones(3)], [1.0]),
        ),
    ]
    for what, operator, arguments in calls:
        with pytest.raises(ValueError, match=what):
            operator(*arguments)


def test_shapes_without_values():
    weight, log_gaps = (tensor.to("meta") for tensor in subject())
    assert OPERATORS.round_to_grid(weight, log_gaps, LEVELS).shape == weight.shape
    model, x = model_and_batch()
    assert model.to("meta")(x.to("meta")).shape == (5, 3)


def model_and_batch(forward="nearest"):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(8, 3))
    return prepare(model, Config(levels=9, forward=forward)), torch.randn(5, 1, 8, 8)


def objective(model, x, refresh):
    return model(x).square().mean() + penalty(model, 1.0, 100, refresh)


@pytest.mark.parametrize("refresh", [False, True])
def test_a_step_compiles_whole(refresh):
    """Forward, penalty and backward are one graph, and the gradients are those of eager."""
    model, x = model_and_batch()
    objective(model, x, refresh).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    compiled(model, x, refresh).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_an_exported_network_has_the_operators():
    model, x = model_and_batch()
    exported = torch.export.export(model.eval(), (x,))
    names = [str(node.target) for node in exported.graph.nodes]
    assert sum("ectorch.round_to_grid" in name for name in names) == 6
    torch.testing.assert_close(exported.module()(x), model(x))


def test_autocast_gets_its_operands_from_the_kernel():
    """In its own dtype: no pass over the weights casts them."""
    model, x = model_and_batch()
    half = torch.autocast("cpu", torch.bfloat16)
    with half, torch.profiler.profile(record_shapes=True) as profiler:
        model(x)
    casts = [e for e in profiler.events() if e.name == "aten::_to_copy"]
    sizes = {tuple(shape) for cast in casts for shape in cast.input_shapes if shape}
    assert (5, 1, 8, 8) in sizes
    assert not sizes & {(4, 1, 3, 3), (8, 144), (3, 8)}
    with torch.autocast("cpu", torch.bfloat16):
        ours = model(x)
        theirs = plain_forward(model, x)
    assert ours.dtype == torch.bfloat16
    assert torch.equal(ours, theirs)


def plain_forward(model, x):
    """By reads, which autocast casts."""
    for layer in model:
        if isinstance(layer, nn.Linear):
            x = nn.functional.linear(x, layer.weight, layer.bias)
        elif isinstance(layer, nn.Conv2d):
            x = nn.functional.conv2d(x, layer.weight, layer.bias)
        else:
            x = layer(x)
    return x
