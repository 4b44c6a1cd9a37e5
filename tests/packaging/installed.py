"""What an installed ectorch does where NumPy and zstandard are all that is beside it.

Run by the Python of that environment, outside of the repository: ``compiled`` or ``plain`` says
which coders it must have; with ``cli`` the packages of that extra are there, too.

    python -W error installed.py GOLDEN compiled|plain [cli]
"""

from __future__ import annotations

import compileall
import json
import re
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import ectorch
from ectorch.bitstream import RawTensor, Reader, encode_file, load_file, native

DATA = (
    "py.typed",
    "experiments/recipes/lenet-300-100.toml",
    "report/page.html.jinja",
)


def check_package(kind: str, cli: bool) -> None:
    """It is the installed one, whole, and every file of it is good for this Python."""
    package = Path(ectorch.__file__).parent
    assert package.is_relative_to(sysconfig.get_path("platlib")), package
    assert (native.module is None) == (kind == "plain"), native.module
    for name in DATA:
        assert (files("ectorch") / name).is_file(), name
    for name in ("torch", "safetensors", "matplotlib"):
        assert find_spec(name) is None, f"{name} is installed"
    assert (find_spec("typer") is not None) == cli
    assert compileall.compile_dir(package, quiet=1, force=True)


def check_golden_files(golden: Path) -> None:
    """Known files decode to known bits."""
    paths = sorted(golden.glob("*.ect"))
    assert paths
    for path in paths:
        expected = json.loads(path.with_suffix(".json").read_text())["tensors"]
        with Reader(path) as reader:
            decoded = {
                name: (raw.dtype, list(raw.shape), raw.little_endian().hex())
                for name, raw in reader.read_all().items()
            }
        assert decoded == {
            name: (tensor["dtype"], tensor["shape"], tensor["bits"])
            for name, tensor in expected.items()
        }, path
        assert load_file(path).keys() == expected.keys()


def check_many_symbols(kind: str) -> None:
    """They come back, and plain Python warns of the time that it takes."""
    values = np.random.default_rng(0).integers(0, 3, 1 << 14).astype(np.uint8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Reader(encode_file({"a": RawTensor("uint8", values.shape, values)})) as reader:
            assert np.array_equal(reader.read("a").bits, values)
    said = [str(warning.message) for warning in caught]
    assert len(said) == (kind == "plain"), said
    assert all("built without a C++ compiler" in words for words in said), said


def check_names_of_torch() -> None:
    """Each asks for its extra."""
    for name in {*ectorch.__all__} - {"EctorchError"}:
        said = ""
        try:
            getattr(ectorch, name)
        except ModuleNotFoundError as error:
            said = str(error)
        assert said.startswith(f"ectorch.{name} needs torch: pip install 'ectorch[torch]'"), said


def check_command(golden: Path, cli: bool) -> None:
    """What can work without torch works; for the rest one line names the extra."""
    file = golden / "everything.ect"
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "a.safetensors"
        given.write_bytes(bytes(8))
        works = [["inspect", file], ["verify", file], ["compare", file], ["--help"]]
        for arguments in works if cli else ():
            code, said = _ectorch(*arguments)
            assert (code, said) == (0, ""), (arguments, said)
        for name, extra, arguments in (
            ("compress", "torch", [given, Path(folder) / "a.ect"]),
            ("decompress", "torch", [file, Path(folder) / "b.safetensors"]),
            ("train", "experiments", ["digits"]),
            ("report", "experiments", [folder]),
        ):
            what, brings = (name, extra) if cli else ("the command line", "cli")
            code, said = _ectorch(name, *arguments)
            line = rf"ectorch: {what} needs \w+: pip install 'ectorch\[{brings}\]'\n"
            assert code == 2, (name, code)
            assert re.fullmatch(line, said), said


def _ectorch(*arguments: object) -> tuple[int, str]:
    """Its exit code and errors."""
    command = Path(sysconfig.get_path("scripts")) / "ectorch"
    done = subprocess.run([command, *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stderr


def main() -> None:
    """Check it all; the first thing that is wrong ends it."""
    golden, kind, cli = Path(sys.argv[1]), sys.argv[2], "cli" in sys.argv[3:]
    check_package(kind, cli)
    check_golden_files(golden)
    check_many_symbols(kind)
    check_names_of_torch()
    check_command(golden, cli)


if __name__ == "__main__":
    main()
