"""Commands, run in this process; what takes long starts first."""

import os
import sys

import pytest
import torch

from ectorch import cli

if not torch.cuda.is_available():  # before anything imports Triton
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items):
    """A file stays on one worker: those with slow tests first, so that none is left at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="module")
def small():
    """The name of a network that trains in a second, which `NETWORKS` knows meanwhile."""
    from torch import nn

    from ectorch.experiments.networks import NETWORKS, LeNet300100

    class Small(LeNet300100):
        """784-64-32-10: LeNet-300-100 with a fifth of its weights."""

        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(784, 64), nn.Linear(64, 32), nn.Linear(32, 10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small", Small)
        yield "small"


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command; give its exit code, output and errors."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["ectorch", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture
def refusal(run):
    """Run a command that must fail as commands do; give its one line."""

    def call(*arguments):
        code, _, err = run(*arguments)
        assert (code, err.count("\n")) == (2, 1), err
        assert err.startswith("ectorch: ")
        assert err[:-1].isprintable()
        return err

    return call
