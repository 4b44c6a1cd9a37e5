"""Results name the commit, command, machine, versions and seeds that made them."""

import importlib
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module


def test_what_is_said_of_a_measurement(module, monkeypatch):
    monkeypatch.setattr("sys.argv", [str(ROOT / "benchmarks/step.py"), "--name", "two words"])
    made = module("provenance").provenance(seeds=[0, 1])
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()
    assert made["commit"] == head
    assert made["command"] == "python benchmarks/step.py --name 'two words'"
    assert made["seeds"] == [0, 1]
    assert {"torch", "ectorch", "python"} <= set(made["versions"])
    said = module("provenance").stamp(made | {"dirty": False})
    assert said == f"`{made['command']}`, commit {head[:10]}."


def test_changes_and_guesses_are_told(module):
    stamp = module("provenance").stamp
    made = {"commit": "c" * 40}
    assert stamp(made | {"dirty": True}) == f"Commit {'c' * 10} with changes that are not in it."
    assert "which brought" in stamp(made | {"commit_from": "history"})


def test_a_block_is_written_between_its_marks_alone(module, tmp_path):
    write_block, page = module("provenance").write_block, tmp_path / "page.md"
    block = "<!-- results of {} -->\nold\n<!-- end of results -->\n"
    page.write_text(f"a\n{block.format('x')}b\n{block.format('y')}")
    write_block(page, "x", "new")
    assert page.read_text() == f"a\n{block.format('x').replace('old', 'new')}b\n{block.format('y')}"
    with pytest.raises(ValueError, match="0 blocks"):
        write_block(page, "z", "new")


def test_history_finds_the_commit_that_first_kept_a_run(module):
    git = module("provenance").git
    if git("rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("the history is not there")
    path = ROOT / "results/cifar10/results.json"
    versions = list(module("history").history(path))
    run = versions[0][1]["points"][0]["runs"][0]
    assert module("history").first(run, versions) == versions[0][0] != versions[-1][0]
