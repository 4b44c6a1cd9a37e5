"""What can be known of a step on a GPU without one, and what only a GPU shows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.constrain.kernels import cuda
from ectorch.constrain.modules import constrained_parameters

HERE = Path(__file__).parent
ON_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
FORWARDS = ("nearest", "sampled", "moments")
RELAXATIONS = ("bracket", "categorical", "hard")
EXACT = ("round_block", "by_step_block", "count_blocks", "charge_blocks")


@pytest.mark.slow
@pytest.mark.skipif(not cuda.has_programs(), reason="there is no Triton")
def test_every_program_compiles_for_a_gpu(tmp_path):
    """And divides as the plain kernels do, not by an approximate quotient."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, str(HERE / "compile_programs.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads(done.stdout)
    assert {each["kind"] for each in made} == {"fp32", "bf16", "fp16", "fp64"}
    exact = [each for each in made if each["program"] in EXACT]
    assert exact
    assert all(each["rounded_quotients"] for each in exact)


class Recorded:
    """In the place of the programs: launches by name, nothing is computed."""

    def __init__(self):
        self.launches = []
        self.tl = pytest.importorskip("triton.language")

    def __getattr__(self, name):
        launches = self.launches

        class Program:
            def __getitem__(self, grid):
                return lambda *arguments, **options: launches.append(name)

        return Program()


@pytest.fixture
def programs(monkeypatch):
    programs = Recorded()
    monkeypatch.setattr(cuda, "_programs", lambda: programs)
    monkeypatch.setattr(cuda, "serves", lambda tensor: tensor.is_meta)
    return programs


def network(relaxation, forward, codebook="grid", device="meta", **settings):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(8, 3))
    config = ec.Config(
        levels=9, relaxation=relaxation, forward=forward, codebook=codebook, **settings
    )
    return ec.prepare(model, config).to(device), torch.randn(5, 1, 8, 8, device=device)


def step(model, x, refresh=True):
    (model(x).square().mean() + ec.penalty(model, 1.0, 100, refresh)).backward()


@pytest.mark.parametrize("codebook", ["grid", "kmeans"])
@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_no_step_reads_a_number(relaxation, forward, codebook):
    """On the meta device there are none: whatever asked for one, or for a count, would fail."""
    model, x = network(relaxation, forward, codebook)
    for refresh in (True, False):
        step(model, x, refresh)
    assert all(
        parameter.grad is not None
        for parameter in model[0].parameters()
        if relaxation != "categorical"
    )


@pytest.mark.parametrize(
    "lengths", ["isotonic", "running_maximum", "free", "pruning", "cardinality"]
)
def test_no_rule_reads_a_number(lengths):
    model, x = network("bracket", "nearest", lengths=lengths)
    step(model, x)


@pytest.mark.parametrize("forward", FORWARDS)
def test_launches_of_a_step(programs, forward):
    """One forward and two backward a parameter, and of the rate one for all."""
    model, x = network("bracket", forward)
    many = sum(1 for _ in constrained_parameters(model))
    assert many == 6
    found = []
    for refresh in (False, True):
        programs.launches.clear()
        step(model, x, refresh)
        found.append(sorted(programs.launches))
    assert found[0].count("charge_blocks") == 1
    assert found[0].count("sum_to_log_gaps") == many
    assert len([name for name in found[0] if name in ("round_block", "moments_block")]) == many
    counting = ["count_blocks", "isotonic_rows", "isotonic_rows", "sum_counts"]
    assert sorted([*found[0], *counting]) == found[1]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter
def test_counts_fall_from_zero_as_those_of_the_cpu(monkeypatch):
    if os.environ.get("TRITON_INTERPRET") != "1" or not cuda.has_programs():
        pytest.skip("no interpreter here")
    from ectorch.constrain.lengths import isotonic_counts

    torch.manual_seed(0)
    monkeypatch.setattr(cuda, "serves", lambda tensor: True)
    for levels in (2, 3, 8, 33, 65):
        counts = 1000 * torch.rand(4, levels, dtype=torch.float64) ** 4
        counts[1, torch.rand(levels) < 0.5] = 0
        counts[3] = 0
        zero = (levels - 1) // 2
        ours = cuda.isotonic(counts, zero)
        torch.testing.assert_close(ours, isotonic_counts(counts, zero), rtol=1e-9, atol=1e-9)
    counts[0, 1] = torch.nan
    ours = cuda.isotonic(counts, zero)
    assert ours[0].isnan().any()
    assert not ours[1:].isnan().any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter
def test_noise_follows_from_its_seed():
    if os.environ.get("TRITON_INTERPRET") != "1" or not cuda.has_programs():
        pytest.skip("no interpreter here")
    spread, floor = torch.ones(20000), torch.tensor(1e-9)
    seed = torch.tensor([2**61 + 12345])
    noise = cuda.deviate(spread, floor, seed)
    assert abs(noise.mean()) < 0.03
    assert noise.std().item() == pytest.approx(1, abs=0.03)
    assert torch.equal(noise, cuda.deviate(spread, floor, seed))
    assert not torch.equal(noise, cuda.deviate(spread, floor, seed + 1))
    torch.testing.assert_close(cuda.deviate(4 * spread, floor, seed), 2 * noise)
    grad = torch.randn(20000)
    back = cuda.deviate_backward(grad, 4 * spread, floor, seed)
    torch.testing.assert_close(back, grad * noise / 4)
    assert not cuda.deviate_backward(grad, 0 * spread, floor, seed).any()


@pytest.fixture
def no_waiting():
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def warmed(relaxation, forward, codebook="grid"):
    model, x = network(relaxation, forward, codebook, device="cuda")
    optimizer = torch.optim.AdamW(ec.param_groups(model, lr=1e-3), fused=True, capturable=True)
    for refresh in (True, False):
        step(model, x, refresh)
    optimizer.step()
    torch.cuda.synchronize()
    return model, x, optimizer


@ON_GPU
@pytest.mark.parametrize("codebook", ["grid", "kmeans"])
@pytest.mark.parametrize("forward", FORWARDS)
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_a_step_on_a_gpu_waits_for_nothing(relaxation, forward, codebook, request):
    model, x, optimizer = warmed(relaxation, forward, codebook)
    request.getfixturevalue("no_waiting")
    for refresh in (True, False):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(x).float().square().mean()
        (loss + ec.penalty(model, 1.0, 100, refresh)).backward()
        optimizer.step()


@ON_GPU
@pytest.mark.parametrize("forward", FORWARDS)
def test_a_whole_step_is_a_cuda_graph(forward):
    """Refresh and optimizer included; replays do what eager steps do."""
    found = []
    for captured in (False, True):
        model, x, optimizer = warmed("bracket", forward)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                optimizer.zero_grad()
                step(model, x)
                optimizer.step()
        torch.cuda.current_stream().wait_stream(side)
        optimizer.zero_grad()
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step(model, x)
                optimizer.step()
            for _ in range(3):
                graph.replay()
        else:
            for _ in range(3):
                optimizer.zero_grad()
                step(model, x)
                optimizer.step()
        found.append({name: p.detach().clone() for name, p in model.named_parameters()})
    if forward == "nearest":  # the others draw
        for name, ours in found[1].items():
            torch.testing.assert_close(ours, found[0][name], rtol=1e-3, atol=1e-4)


@ON_GPU
def test_a_gpu_gives_the_counts_and_values_of_the_cpu():
    there, _ = network("bracket", "nearest", device="cuda")
    here, _ = network("bracket", "nearest", device="cpu")
    for ours, theirs in zip(
        constrained_parameters(there), constrained_parameters(here), strict=True
    ):
        torch.testing.assert_close(ours.hard().cpu(), theirs.hard())
        torch.testing.assert_close(ours.lengths.cpu(), theirs.lengths)


@ON_GPU
def test_2_to_the_28_weights_on_a_gpu():
    n = (1 << 28) + 5
    weight = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    weight[-1], weight[n // 2] = 0.25, 1.0
    log_gaps = torch.tensor([0.5], dtype=torch.bfloat16, device="cuda").log()
    (counts,) = cuda.counts([weight], [log_gaps], [9])
    assert counts.tolist() == [0, 0, 0, 0, n - 1.5, 0.5, 1, 0, 0]
    value = cuda.round_to_grid(weight, log_gaps, 9)
    assert int(value.count_nonzero()) == 1
