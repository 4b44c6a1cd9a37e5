"""The benchmark of compression after training, on a network of a few hundred numbers."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ectorch.errors import DataError

NAME = "mnist-cnn"  # whose name the small network borrows
FAKE_SIDE = """
import json, sys
import numpy as np
print(json.dumps({"nncodec": "none"}), flush=True)
for line in sys.stdin:
    task = json.loads(line)
    step = 2.0 ** task["arguments"]["qp"]
    with np.load(task["weights"]) as file:
        rounded = {name: np.round(file[name] / step) * step for name in file.files}
    np.savez(task["decoded"], **{name: value.astype(np.float32) for name, value in rounded.items()})
    if task["arguments"].get("ioq"):
        print(json.dumps({"judge": True}), flush=True)
        assert json.loads(sys.stdin.readline()) <= 0
    print(json.dumps({"bytes": 1000 - 100 * task["arguments"]["qp"]}), flush=True)
"""


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def trained():
    module = importlib.import_module("posttrain.trained")

    def make(seed=0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 4)).eval()
        inputs = torch.randn(300, 16)
        labels = model(inputs).argmax(1)

        def error(network):
            return 100 * (network(inputs).argmax(1) != labels).double().mean().item()

        calibration = torch.randn(128, 16, generator=torch.Generator().manual_seed(seed)).split(64)
        return module.Trained(NAME, model, calibration, error, error, module.ERROR, "kl")

    return make


@pytest.fixture
def runner(trained, monkeypatch):
    module = importlib.import_module("posttrain.runner")
    monkeypatch.setattr(module, "load", lambda name, seed: trained(seed))
    monkeypatch.setattr(module, "BITS", {NAME: (6.0, 10.0)})
    monkeypatch.setattr(module, "sources", lambda: "as they are")
    return module


@pytest.mark.parametrize("method", ["feedback", "measured", "data-free", "nearest"])
def test_a_method_makes_a_file_of_the_size(runner, trained, method):
    point = runner.point(trained(), method, 10.0, 0)
    assert point["bytes"] <= point["target_bytes"] == trained().parameters * 10 // 8
    assert 0 <= point["quality"] < 50


def test_a_file_that_is_too_large_is_refused(runner, trained, monkeypatch):
    monkeypatch.setitem(runner.METHODS, "none", lambda trained, target, seed: trained.model)
    with pytest.raises(ValueError, match="asked for"):
        runner.point(trained(), "none", 1.0, 0)


def test_other_numbers_than_saved_are_told_by_name(runner, trained):
    saved, loaded = trained().model, trained().model
    runner.check_equal(saved, loaded)
    with torch.no_grad():
        loaded[2].bias[1] += 1
    with pytest.raises(ValueError, match=r"2\.bias"):
        runner.check_equal(saved, loaded)


def test_points_that_are_there_are_not_measured_again(runner, monkeypatch, tmp_path):
    log = tmp_path / "runs/points.jsonl"
    runner.measure(NAME, "data-free", 0, log)
    first, second = log.read_text().splitlines()
    log.write_text(f"{first}\n{second[:20]}")  # as a killed process leaves it
    runner.measure(NAME, "data-free", 0, log)
    again = log.read_text().splitlines()
    assert again[0] == first
    assert [json.loads(line)["bits"] for line in again] == [6.0, 10.0]
    monkeypatch.setattr(runner, "point", None)
    runner.measure(NAME, "data-free", 0, log)


def test_bytes_at_equal_quality_stand_in_the_table(tmp_path):
    report = importlib.import_module("posttrain.report")
    theirs = [(90, 1.0), (60, 2.0), (50, 3.0)]
    peer = {
        "peer": {"nncodec": "2.1.3"},
        "commit": "0" * 40,
        "points": [
            {"network": NAME, "setting": "dq", "bytes": 1000 * size, "quality": quality}
            for size, quality in theirs
        ],
    }
    rows = [
        {"network": NAME, "method": "feedback", "seed": seed, "bytes": 500 * size, "quality": error}
        for seed in (0, 1)
        for size, error in theirs
    ]
    made = {"commit": "1" * 40, "machine": {"cpu": "X", "threads": 1}}
    made["versions"] = {"ectorch": "0.1.0", "torch": "2"}
    text = report.as_markdown(rows, peer, made)
    assert "| NNCodec, best | 1 | 90,000 (1.000) |" in text
    assert "| feedback | 2 | 45,000 (0.500) |" in text
    assert "| 30,000 (0.500) | 25,000 (0.500) | -50.0 ± 0.0 % |" in text
    report.draw(rows, peer, tmp_path / "curves.svg")
    assert "NNCodec" in (tmp_path / "curves.svg").read_text()


def test_a_peer_is_told_arrays_and_its_are_judged(trained, monkeypatch, tmp_path):
    nncodec = importlib.import_module("posttrain.nncodec")
    side, log = tmp_path / "side.py", tmp_path / "log.jsonl"
    side.write_text(FAKE_SIDE)
    monkeypatch.setattr(nncodec, "SIDE", side)
    monkeypatch.setattr(nncodec, "RANGES", {NAME: nncodec.Range(-6, 2, worst=20.0)})
    with nncodec.start(sys.executable) as peer:
        assert peer.versions == {"nncodec": "none"}
        nncodec.measure(trained(), ["dq", "dq ioq fine"], peer, log, "0")
        before = log.read_text()
        nncodec.measure(trained(), ["dq", "dq ioq fine"], peer, log, "0")
    rows = [json.loads(line) for line in before.splitlines()]
    assert log.read_text() == before
    assert {row["setting"] for row in rows} == {"dq", "dq ioq fine"}
    assert rows[0] | {"bytes": 1600, "qp": -6} == rows[0]
    assert rows[0]["quality"] < rows[2]["quality"]


def test_a_peer_that_ends_is_told(trained, monkeypatch, tmp_path):
    nncodec = importlib.import_module("posttrain.nncodec")
    side = tmp_path / "side.py"
    side.write_text("")
    monkeypatch.setattr(nncodec, "SIDE", side)
    with pytest.raises(RuntimeError, match="peer ended"), nncodec.start(sys.executable):
        pass


def test_a_network_takes_its_tensors_by_name_or_in_a_dict():
    phonemes = importlib.import_module("posttrain.phonemes")
    model = phonemes.G2p()
    assert sum(parameter.numel() for parameter in model.parameters()) == 834_890
    batch = {"graphemes": torch.zeros(5, 7, dtype=int), "phonemes": torch.zeros(5, 3, dtype=int)}
    assert model(batch).shape == (5, 3, 74)
    assert torch.equal(model(batch), model(**batch))


def test_an_unknown_network_is_refused_by_name():
    with pytest.raises(DataError, match="'resnet'"):
        importlib.import_module("posttrain.networks").load("resnet")
