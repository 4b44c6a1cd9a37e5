import copy
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

from ectorch.errors import ConfigError
from ectorch.posttrain.quantize import quantize
from ectorch.storage.files import save

SCRIPT = """
import os, signal, sys
import torch
from torch import nn
import ectorch as ec
torch.manual_seed(0)
model = nn.Sequential(nn.Embedding(30, 24), nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 8))
inputs = torch.randint(0, 30, (256, 4))
left = int(sys.argv[2])
def told(words):
    global left
    print(words, flush=True)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
ec.quantize(model, inputs, target_bytes=1400, folder=sys.argv[1] or None, on_progress=told)
ec.save_model(model, sys.argv[3])
"""


def run(folder, kill_after, target):
    given = [sys.executable, "-c", SCRIPT, str(folder), str(kill_after), str(target)]
    return subprocess.run(given, capture_output=True, text=True, check=False)


def test_a_run_that_was_killed_goes_on_and_ends_in_the_same_bytes(tmp_path):
    whole = run("", 0, tmp_path / "whole.ect")
    assert whole.returncode == 0, whole.stderr
    lines = whole.stdout.splitlines()
    assert len(lines) > 6
    folder, said = tmp_path / "work", []
    for kill_after in (2, 2, 3, 2, 0):
        part = run(folder, kill_after, tmp_path / "parts.ect")
        assert part.returncode == (0 if kill_after == 0 else -signal.SIGKILL), part.stderr
        said += part.stdout.splitlines()
    assert (tmp_path / "parts.ect").read_bytes() == (tmp_path / "whole.ect").read_bytes()
    for line in lines:
        if line.startswith("sensitivity"):
            assert said.count(line) == 1


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 10)).eval()


def test_another_network_is_refused_and_damage_is_named(tmp_path):
    inputs = torch.randn(128, 40)
    quantize(network(), inputs, target_bytes=1500, folder=tmp_path / "work")
    with pytest.raises(ConfigError, match="work on another network"):
        quantize(network(1), inputs, target_bytes=1500, folder=tmp_path / "work")
    with pytest.raises(ConfigError, match="work on another network"):
        quantize(network(), inputs + 1, target_bytes=1500, folder=tmp_path / "work")
    for path in (tmp_path / "work").glob("*.safetensors"):
        os.truncate(path, 100)
    with pytest.raises(ConfigError, match="damaged"):
        quantize(network(), inputs, target_bytes=1500, folder=tmp_path / "work")
    (tmp_path / "work/measured.json").write_text("[]")
    with pytest.raises(ConfigError, match="damaged"):
        quantize(network(), inputs, target_bytes=1500, folder=tmp_path / "work")


def test_a_folder_changes_nothing(tmp_path):
    inputs = torch.randn(128, 40)
    one, other = network(), network()
    quantize(one, inputs, target_bytes=1500)
    quantize(other, inputs, target_bytes=1500, folder=tmp_path / "work")
    again = copy.deepcopy(network())
    quantize(again, inputs, target_bytes=1500, folder=tmp_path / "work")
    assert save(one) == save(other) == save(again)
