"""What every form of the kernels has to show: it computes what the plain one does.

Triton's interpreter runs the programs of a GPU here, on the CPU's memory; where there is a GPU, its
own run, too.
"""

from __future__ import annotations

import math
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ectorch.constrain.kernels import cuda, native, ops, plain
from ectorch.constrain.kernels.grid import gap_of, multiples, step_of

DTYPES = [torch.float32, torch.bfloat16, torch.float64]
LEVELS = (33, 2, 65)
SHAPES = {
    "matrix": lambda t: t[:2035].view(37, 55),
    "empty": lambda t: t[:0].view(0, 5),
    "one": lambda t: t[:1].view(1),
    "scalar": lambda t: t[0],
    "turned": lambda t: t[:2035].view(37, 55).t(),
    "strided": lambda t: t[: 30 * 40].view(30, 40)[::3, ::2],
    "channels last": lambda t: t[:1920].view(8, 4, 6, 10).to(memory_format=torch.channels_last),
    "channels last, 3d": lambda t: (
        t[:1920].view(4, 4, 2, 6, 10).to(memory_format=torch.channels_last_3d)
    ),
    "several blocks": lambda t: t.view(5, -1),
}


@pytest.fixture(params=["native", "interpreted", "cuda"])
def kernels(request):
    if request.param == "native":
        if native.compiled is None:
            pytest.skip("the kernels are not compiled")
        return native
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no CUDA device")
        return cuda
    if os.environ.get("TRITON_INTERPRET") != "1" or not cuda.has_programs():
        pytest.skip("no Triton here, or a GPU runs it")
    return cuda


@pytest.fixture
def device(request, kernels):
    return "cuda" if request.node.callspec.params["kernels"] == "cuda" else "cpu"


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


INTERPRETED = ("matrix", "empty", "scalar", "strided", "channels last", "several blocks")


@pytest.fixture(params=SHAPES)
def weight(request, dtype, device):
    if request.node.callspec.params["kernels"] == "interpreted":  # slowly: what tells them apart
        if request.param not in INTERPRETED:
            pytest.skip("as another one for a program")
        if request.param == "several blocks" and dtype != torch.float32:
            pytest.skip("as one block but for float32")
    torch.manual_seed(0)
    return SHAPES[request.param]((0.5 * torch.randn(20000)).to(dtype)).to(device)


def log_gaps_of(dtype: torch.dtype, device: str, step: float = 0.11) -> Tensor:
    return torch.tensor([step], dtype=dtype, device=device).log()


def noise_of(weight: Tensor) -> Tensor:
    noise = torch.randint(-(2**15), 2**15, (weight.numel(),), dtype=torch.int16)
    return noise.to(weight.device).view(weight.shape)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == theirs.dtype
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(), theirs.nan_to_num())
    assert torch.equal(torch.signbit(ours), torch.signbit(theirs)) or ours.isnan().any()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("noisy", [False, True], ids=["nearest", "sampled"])
@pytest.mark.parametrize("half", [False, True], ids=["own dtype", "bfloat16"])
def test_rounded_values_are_the_same_bits(kernels, device, weight, levels, noisy, half):
    noise, dtype = noise_of(weight) if noisy else None, torch.bfloat16 if half else None
    log_gaps = log_gaps_of(weight.dtype, device)
    ours = kernels.round_to_grid(weight, log_gaps, levels, noise, dtype)
    theirs = plain.round_to_grid(weight, log_gaps, levels, noise, dtype)
    assert_same(ours, theirs)
    assert not torch.signbit(ours[ours == 0]).any()
    if weight.is_contiguous(memory_format=torch.preserve_format):
        assert ours.stride() == weight.stride()


@pytest.mark.parametrize("levels", LEVELS)
def test_counts_are_the_same_bits(kernels, device, weight, levels):
    log_gaps = log_gaps_of(weight.dtype, device)
    (ours,) = kernels.counts([weight], [log_gaps], [levels])
    (theirs,) = plain.counts([weight], [log_gaps], [levels])
    assert_same(ours, theirs)
    assert ours.shape == (levels,)
    assert ours.sum().item() == pytest.approx(weight.numel(), abs=1e-9)


@pytest.mark.parametrize("levels", LEVELS)
def test_charges_are_the_same_bits(kernels, device, weight, levels):
    log_gaps = log_gaps_of(weight.dtype, device)
    lengths = [10 * torch.rand(levels, device=device)]
    grad = torch.tensor(0.37, dtype=torch.float64, device=device)
    arguments = (grad, [weight], [log_gaps], [levels], lengths, [0.7])
    assert_same(kernels.charge_backward(*arguments)[0], plain.charge_backward(*arguments)[0])


def test_many_parameters_are_served_as_each_alone(kernels, device, dtype):
    torch.manual_seed(1)
    sizes = [(300, 40), (7,), (0,), (5, 4, 3, 3), (1,)]
    levels = [33, 65, 9, 1025, 2]
    weights = [torch.randn(size).to(dtype).to(device) for size in sizes]
    gaps = [log_gaps_of(dtype, device, 0.01 * (at + 1)) for at in range(len(sizes))]
    together = kernels.counts(weights, gaps, levels)
    for ours, one in zip(together, zip(weights, gaps, levels, strict=True), strict=True):
        assert_same(ours, plain.counts(*([each] for each in one))[0])
    lengths = [9 * torch.rand(many, device=device) for many in levels]
    scales = [1.0, 0.5, 2.0, 0.25, 3.0]
    grad = torch.tensor(-1.7, dtype=torch.float64, device=device)
    found = kernels.charge_backward(grad, weights, gaps, levels, lengths, scales)
    rows = zip(weights, gaps, levels, lengths, scales, strict=True)
    for ours, one in zip(found, rows, strict=True):
        assert_same(ours, plain.charge_backward(grad, *([each] for each in one))[0])
        assert ours.shape == one[0].shape


@pytest.mark.parametrize("noisy", [False, True], ids=["nearest", "sampled"])
def test_what_reaches_the_step_is_the_same_sum(kernels, device, weight, noisy):
    torch.manual_seed(2)
    noise, grad = noise_of(weight) if noisy else None, torch.randn(weight.shape).to(weight)
    log_gaps = log_gaps_of(weight.dtype, device)
    ours = kernels.by_step(grad, weight, log_gaps, 33, noise)
    assert ours.dtype == weight.dtype
    assert ours.shape == (1,)
    parts = grad.double() * (plain.round_to_grid(weight, log_gaps, 33, noise) - weight).double()
    factor = (gap_of(log_gaps, 33) / step_of(log_gaps, 33)).double()
    error = 2e-2 if weight.dtype == torch.bfloat16 else 1e-5
    for found in (ours, plain.by_step(grad, weight, log_gaps, 33, noise)):
        off = found.double() - parts.sum() * factor
        assert off.abs() <= error * parts.abs().sum() + 1e-9


@pytest.mark.parametrize("parts", [(True, True), (True, False), (False, True)])
def test_moments_and_their_gradients(kernels, device, weight, parts):
    torch.manual_seed(3)
    log_gaps = log_gaps_of(weight.dtype, device)
    tolerance = {"rtol": 2e-2, "atol": 2e-3} if weight.dtype == torch.bfloat16 else {}
    for ours, theirs in zip(
        kernels.moments(weight, log_gaps, 9), plain.moments(weight, log_gaps, 9), strict=True
    ):
        assert ours.dtype == weight.dtype
        torch.testing.assert_close(ours, theirs, **tolerance)
    grads = [torch.randn(weight.shape).to(weight) if part else None for part in parts]
    ours = kernels.moments_backward(*grads, weight, log_gaps, 9)
    theirs = plain.moments_backward(*grads, weight, log_gaps, 9)
    torch.testing.assert_close(ours[0], theirs[0], **tolerance)
    scale = sum(grad.double().abs().sum().item() for grad in grads if grad is not None) + 1e-9
    error = 2e-2 if weight.dtype == torch.bfloat16 else 1e-5
    assert abs(ours[1].item() - theirs[1].item()) <= error * scale


WRONG = [math.nan, math.inf, -math.inf, 1e38, -1e38, 0.0, -0.0, 1e-45, 0.055, -0.055]


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # of the interpreter
def test_numbers_that_are_none(kernels, device, dtype):
    weight = torch.tensor(WRONG, device=device).to(dtype)
    log_gaps = log_gaps_of(dtype, device)
    assert_same(
        kernels.round_to_grid(weight, log_gaps, 33), plain.round_to_grid(weight, log_gaps, 33)
    )
    lengths, grad = [torch.rand(33, device=device)], torch.ones((), dtype=torch.float64)
    charged = (grad.to(device), [weight], [log_gaps], [33], lengths, [1.0])
    assert_same(kernels.charge_backward(*charged)[0], plain.charge_backward(*charged)[0])
    for wrong in WRONG[:3]:
        some = torch.full((3,), 0.1, device=device).to(dtype)
        some[1] = wrong
        assert kernels.counts([some], [log_gaps], [33])[0].isnan().any()
        assert plain.counts([some], [log_gaps], [33])[0].isnan().any()


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-3, 3, width=32), max_size=200),
    step=st.floats(1e-4, 2.0),
    levels=st.integers(2, 100),
    seed=st.integers(0, 99),
)
def test_compiled_kernels_give_the_bits_of_plain_ones(values, step, levels, seed):
    if native.compiled is None:
        pytest.skip("the kernels are not compiled")
    torch.manual_seed(seed)
    weight, log_gaps = torch.tensor(values), torch.tensor([step]).log()
    noise = noise_of(weight)
    for given_noise in (None, noise):
        assert_same(
            native.round_to_grid(weight, log_gaps, levels, given_noise),
            plain.round_to_grid(weight, log_gaps, levels, given_noise),
        )
    rows = [weight], [log_gaps], [levels]
    assert_same(native.counts(*rows)[0], plain.counts(*rows)[0])
    grad, lengths = torch.tensor(1.3, dtype=torch.float64), [8 * torch.rand(levels)]
    ours, theirs = (
        kernels.charge_backward(grad, *rows, lengths, [1.0]) for kernels in (native, plain)
    )
    assert_same(ours[0], theirs[0])


def test_threads_and_their_number_change_no_count():
    if native.compiled is None:
        pytest.skip("the kernels are not compiled")
    weight = torch.randn((1 << 20) + 3)
    rows, threads = ([weight], [torch.tensor([-2.0])], [33]), torch.get_num_threads()
    found = []
    try:
        for many in (1, 2, 5):
            torch.set_num_threads(many)
            found.append(native.counts(*rows)[0])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(found[0], other) for other in found)
    assert torch.equal(found[0], plain.counts(*rows)[0])


@pytest.mark.slow
def test_2_to_the_28_weights():
    """Sizes pass 32 bits of bytes; counts are exact, far beyond what float32 counts to."""
    if native.compiled is None:
        pytest.skip("the kernels are not compiled")
    n = (1 << 28) + 5
    weight = torch.zeros(1, dtype=torch.bfloat16).expand(n).clone()
    weight[-1], weight[n // 2] = 0.25, 1.0
    log_gaps = torch.tensor([0.5], dtype=torch.bfloat16).log()
    (counts,) = native.counts([weight], [log_gaps], [9])
    assert counts.tolist() == [0, 0, 0, 0, n - 1.5, 0.5, 1, 0, 0]
    value = native.round_to_grid(weight, log_gaps, 9)
    assert value[-1] == 0
    assert value[n // 2] == 1
    assert int(value.count_nonzero()) == 1
    (charged,) = native.charge_backward(
        torch.ones((), dtype=torch.float64), [weight], [log_gaps], [9], [torch.arange(9.0)], [1.0]
    )
    assert charged[-1] == charged[0] == 2.0


def test_the_step_has_the_gradient_of_finite_differences():
    """Of what is smooth in it: values at fixed levels, variances; by neighbours in bfloat16."""
    torch.manual_seed(0)
    levels, gap = 9, torch.tensor(0.75, dtype=torch.float64)
    low, high = multiples(levels)
    place = torch.randint(low, high, (40,)) + torch.rand(40, dtype=torch.float64) * 0.6 + 0.2
    weight = (place * gap).requires_grad_()
    log_gaps = gap.log().reshape(1).requires_grad_()
    apart = 2.0**-8  # a bfloat16 more and less

    def variance(step: Tensor) -> Tensor:
        return (plain.moments(weight.detach(), step.log().reshape(1), levels)[1]).sum()

    numeric = (variance(gap + apart) - variance(gap - apart)) / (2 * apart)
    (found,) = torch.autograd.grad(ops.moments(weight, log_gaps, levels)[1].sum(), log_gaps)
    torch.testing.assert_close(found, (numeric * gap).reshape(1))
    scaled = torch.randn(40, dtype=torch.float64)
    value = ops.round_to_grid(weight, log_gaps, levels)
    (found,) = torch.autograd.grad((scaled * value).sum(), log_gaps)
    step = step_of(log_gaps, levels)
    expected = (scaled * (value - weight)).sum() / step * gap_of(log_gaps, levels)
    torch.testing.assert_close(found, expected.detach())
