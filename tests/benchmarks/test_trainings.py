"""Trainings in processes of their own: none outlives who asked for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

RECIPE = """
name = "long"
network = "lenet-300-100"
data = "digits"
threads = 1
[pretrain]
epochs = 100000
batch = 100
[constrain]
epochs = 1
batch = 100
"""
ASKS = """
from pathlib import Path
from ectorch.experiments.recipe import read_recipe
from trainings import train_all
if __name__ == "__main__":
    train_all([[(read_recipe(Path("recipe.toml")), Path("out"))]], 1)
"""
START_SECONDS, STOP_SECONDS = 120, 30  # a training that goes on has a checkpoint after 60


def wait_for(path, seconds):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"no {path.name}"
        time.sleep(0.1)


def test_a_training_whose_parent_is_killed_stops_and_keeps_what_it_has(tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "asks.py").write_text(ASKS)
    benchmarks = str(Path(__file__).parents[2] / "benchmarks")
    parent = subprocess.Popen(
        [sys.executable, "asks.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": benchmarks},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # the worker misses its parent in words, too
    )
    try:
        wait_for(tmp_path / "out", START_SECONDS)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    wait_for(tmp_path / "out/checkpoint.pt", STOP_SECONDS)
