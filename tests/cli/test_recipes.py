"""Recipes that ship are listed, printed and found by name."""

import subprocess
import sys

from ectorch.experiments.shipped import described, shipped_recipes


def test_they_are_listed_with_what_they_are(run):
    code, text, _ = run("recipes")
    assert code == 0
    for name, path in shipped_recipes().items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
        assert described(path).what in row
        assert described(path).time in row


def test_one_is_printed_to_copy(run):
    code, text, _ = run("recipes", "digits")
    assert (code, text) == (0, shipped_recipes()["digits"].read_text())


def test_a_name_that_is_none_is_told_what_is_near(refusal):
    assert "no recipe 'digit'; digits?, known: digits, lenet" in refusal("recipes", "digit")
    assert "no recipe of that name; lenet-300-100?" in refusal("train", "lenet-300")
    assert "no recipe of that name; digits?" in refusal("sweep", "digit")


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "ectorch", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True)
    assert said.stdout.startswith("ectorch ")
