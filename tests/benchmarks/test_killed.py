"""Files of a killed command are compared with those of an undisturbed one, and named."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def killed(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    module = importlib.import_module("killed")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["killed.py", "any", "train", "recipe.toml"])
    return module


def ends_at_once(command, out, timeout=None):
    out.mkdir(exist_ok=True)
    (out / "model.ect").write_bytes(b"network")


def loses_a_step_when_killed(command, out, timeout=None):
    out.mkdir(exist_ok=True)
    if timeout is not None:
        (out / "checkpoint").touch()
        raise subprocess.TimeoutExpired("ectorch", timeout)
    lost = b", short of a step" if (out / "checkpoint").exists() else b""
    (out / "model.ect").write_bytes(b"network" + lost)


def goes_on_where_it_was(command, out, timeout=None):
    if timeout is not None:
        raise subprocess.TimeoutExpired("ectorch", timeout)
    ends_at_once(command, out)


def test_two_kills_and_the_same_files_are_written_down(killed, monkeypatch, tmp_path):
    monkeypatch.setattr(killed, "run", goes_on_where_it_was)
    killed.main()
    result = json.loads((tmp_path / "killed-any.json").read_text())
    assert result["same"]
    assert len(result["kills"]) == 2
    assert list(result["files"]) == ["model.ect"]


@pytest.mark.parametrize(
    ("run", "said"),
    [(ends_at_once, "ended before it was killed"), (loses_a_step_when_killed, r"model\.ect")],
)
def test_a_command_that_shows_nothing_or_another_file_fails(killed, monkeypatch, run, said):
    monkeypatch.setattr(killed, "run", run)
    with pytest.raises(SystemExit, match=said):
        killed.main()
