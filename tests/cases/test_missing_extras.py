"""Without a package that an extra brings, one line names the extra."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ectorch.extras import EXTRA_OF, missing

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden/everything.ect"
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn"}


def python(program, *arguments, without=("torch", "safetensors")):
    blocked = f"import sys; sys.modules.update(dict.fromkeys({without!r})); "
    return subprocess.run(
        [sys.executable, "-c", blocked + program, *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def command(*arguments, without):
    return python("from ectorch.__main__ import main; main()", *arguments, without=without)


def test_every_name_of_a_network_asks_for_torch():
    done = python("""
import ectorch as ec
from ectorch.bitstream import load_file
for name in ec.__all__:
    try:
        getattr(ec, name)
    except ModuleNotFoundError as error:
        print(error)
    else:
        print(name)
""")
    other = {"load_file": "load_file", "safe_open": "Reader"}
    import ectorch as ec

    asked = "ectorch.{0} needs torch: pip install 'ectorch[torch]'"
    aside = "; ectorch.bitstream.{1} reads the same files without it"
    assert done.stdout.splitlines() == [
        name
        if name == "EctorchError"
        else (asked + aside if name in other else asked).format(name, other.get(name))
        for name in ec.__all__
    ], done.stderr


def test_from_imports_say_the_same():
    done = python("from ectorch import prepare")
    line = "ModuleNotFoundError: ectorch.prepare needs torch: pip install 'ectorch[torch]'"
    assert done.stderr.splitlines()[-1] == line
    assert "During handling" not in done.stderr


@pytest.mark.parametrize(
    ("without", "arguments", "said"),
    [
        ("typer", ["inspect", GOLDEN], "the command line needs typer: pip install 'ectorch[cli]'"),
        ("rich", ["--version"], "the command line needs rich: pip install 'ectorch[cli]'"),
        (
            "torch",
            ["compress", "a.safetensors", "a.ect"],
            "compress needs torch: pip install 'ectorch[torch]'",
        ),
        (
            "torch",
            ["decompress", GOLDEN, "a.safetensors"],
            "decompress needs torch: pip install 'ectorch[torch]'",
        ),
        (
            "torch",
            ["compare", "a.safetensors"],
            "compare needs torch: pip install 'ectorch[torch]'",
        ),
        (
            "torch",
            ["train", "digits"],
            "train needs torch: pip install 'ectorch[experiments]'",
        ),
        (
            "matplotlib",
            ["sweep", "digits"],
            "sweep needs matplotlib: pip install 'ectorch[experiments]'",
        ),
        ("jinja2", ["report", "."], "report needs jinja2: pip install 'ectorch[experiments]'"),
        (
            "torch",
            ["eval", GOLDEN, "--data", "digits"],
            "eval needs torch: pip install 'ectorch[experiments]'",
        ),
        (
            "tensorboard",
            ["train", "digits", "--tensorboard", "events"],
            "train needs tensorboard: pip install 'ectorch[tensorboard]'",
        ),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_a_command_names_the_extra_in_one_line(without, arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(bytes(8))
    done = command(*arguments, without=(without,))
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"ectorch: {said}\n")


@pytest.mark.parametrize("arguments", [["inspect"], ["verify"], ["compare"]], ids=" ".join)
def test_files_are_shown_and_checked_without_torch(arguments):
    done = command(*arguments, GOLDEN, without=("torch", "safetensors", "jinja2"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_an_error_that_no_extra_mends_stays():
    error = ModuleNotFoundError("No module named 'spam'", name="spam")
    assert missing("this", error) is error


def test_extras_bring_what_is_said_of_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    brought = {
        extra: {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
        for extra, requirements in project["optional-dependencies"].items()
    }
    for package, extra in EXTRA_OF.items():
        assert DISTRIBUTIONS.get(package, package) in brought[extra], package
    known = {DISTRIBUTIONS.get(package, package) for package in EXTRA_OF}
    for extra in set(EXTRA_OF.values()):
        assert brought[extra] <= known | {"ectorch"}, extra
