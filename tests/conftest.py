"""Commands, run in this process."""

import sys

import pytest

from ectorch import cli


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
