import re

import pytest
import torch
from safetensors.torch import save_file as save_safetensors
from torch.nn import functional as F

import ectorch as ec
from ectorch.experiments import data
from ectorch.experiments.inputs import values
from ectorch.experiments.networks import NETWORKS


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A file of a float network for digits."""
    torch.manual_seed(0)
    model = NETWORKS[small]()
    split = data.load("digits").train
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(10):
        for batch in torch.randperm(len(split)).split(50):
            loss = F.cross_entropy(model(values(split.inputs[batch])), split.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    path = tmp_path_factory.mktemp("trained") / "float.safetensors"
    save_safetensors(model.state_dict(), path)
    return path


def arguments(small, trained, target):
    return ["quantize", trained, target, "--data", "digits", "--network", small]


@pytest.mark.parametrize("examples", ["0", "128"])
def test_a_size(run, small, trained, tmp_path, examples):
    target = tmp_path / "a.ect"
    code, out, err = run(
        *arguments(small, trained, target), "--target-size", "12kB", "--examples", examples
    )
    assert (code, err) == (0, "")
    assert 11_800 <= target.stat().st_size <= 12_000
    assert ("data-free" if examples == "0" else "feedback") in out
    ec.load_model(NETWORKS[small](), target)


@pytest.mark.parametrize(
    ("quality", "limit", "least"),
    [
        ("error", 8.0, False),
        ("perplexity", 1.5, False),
        ("kl", 0.05, False),
        ("cosine", 0.99, True),
    ],
)
def test_a_quality_on_examples_that_are_held_out(
    run, small, trained, tmp_path, quality, limit, least
):
    target = tmp_path / "a.ect"
    asked = ["--quality", quality, "--limit", str(limit)]
    code, out, err = run(*arguments(small, trained, target), *asked, "--examples", "0")
    assert (code, err) == (0, "")
    said = float(re.search(rf"^{quality} ([0-9.e+-]+) on 250 held-out", out, re.MULTILINE)[1])
    assert said >= limit if least else said <= limit
    assert target.stat().st_size < trained.stat().st_size / 10


def test_a_quality_of_ones_own(run, small, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_quality.py").write_text(
        "def levels(network):\n    return float(network.fc1.weight.unique().numel())\n"
    )
    target = tmp_path / "a.ect"
    asked = ["--quality", "mine_quality:levels", "--limit", "9", "--examples", "0"]
    code, _, err = run(*arguments(small, trained, target), *asked)
    assert (code, err) == (0, "")
    model = NETWORKS[small]()
    ec.load_model(model, target)
    assert model.fc1.weight.unique().numel() >= 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "give one of --target-size, --bits and --quality"),
        (["--bits", "2", "--target-size", "9kB"], "give one of"),
        (["--quality", "error"], "--quality and --limit go together"),
        (["--quality", "eror", "--limit", "3"], "eror' is unknown; error?"),
        (["--quality", "error", "--limit", "0"], "float network has not the quality"),
        (["--target-size", "20"], "smallest file of this network"),
        (["--bits", "2", "--divergence", "l1"], "expected one of mse, kl, cosine"),
    ],
)
def test_what_cannot_be_is_one_line(run, small, trained, tmp_path, options, words):
    target = tmp_path / "a.ect"
    code, _, err = run(*arguments(small, trained, target), *options, "--examples", "0")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not target.exists()
