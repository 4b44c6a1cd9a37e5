"""Build what is published, install it into empty environments, and decode there.

The wheel for every Python that is found and may be supported, without torch; and the sdist where
there is no compiler, which falls back to coders in plain Python.

    python tests/packaging/check.py
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
GOLDEN = HERE.parent / "golden"
VERSIONS = re.findall(r"Python :: (3\.\d+)", (ROOT / "pyproject.toml").read_text())
USABLE = (
    "import os, sys, sysconfig, venv; os.stat(sysconfig.get_path('include') + '/Python.h'); "
    "print('%d.%d' % sys.version_info[:2])"
)
SDIST_MOST_BYTES = 1 << 20


class Failed(Exception):  # noqa: N818 - of a step, whose output it is
    pass


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> None:
    """Run it where nothing of this repository or environment is imported; quiet unless it fails."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env=inherited | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}\n{done.stdout[-6000:]}")


def pythons() -> dict[str, Path]:
    """By version, every supported Python with headers: on the path, or one that pyenv has."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = {}
    for version in VERSIONS:
        own = sys.executable if sys.version.startswith(f"{version}.") else None
        there = [own, shutil.which(f"python{version}")]
        there += sorted(pyenv.glob(f"{version}.*/bin/python{version}"))
        for path in filter(None, there):
            done = subprocess.run([path, "-c", USABLE], capture_output=True, text=True)
            if done.stdout.strip() == version:
                found[version] = Path(path)
                break
    return found


def empty(python: Path, folder: Path) -> Path:
    """The Python of a new environment that holds nothing, not even pip."""
    run(python, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    return folder / "bin/python"


def pip(python: Path, *arguments: object, env: dict[str, str] | None = None) -> None:
    constraints = ("--constraint", ROOT / "constraints.txt")
    command = (sys.executable, "-m", "pip", "--python", python, *arguments, *constraints)
    run(*command, cwd=python.parent, env=env)


def install(python: Path, what: object, env: dict[str, str] | None = None) -> None:
    """Modules of NumPy that nobody imports need no byte code."""
    pip(python, "install", "--no-compile", what, env=env)


def check(python: Path, *words: str) -> None:
    run(python, "-W", "error", HERE / "installed.py", GOLDEN, *words, cwd=python.parent)


def check_wheel(base: Path, sdist: Path, folder: Path) -> None:
    """Built with a compiler; alone, then with the command line."""
    python = empty(base, folder / "venv")
    pip(python, "wheel", "--no-deps", "--wheel-dir", folder, sdist)
    [wheel] = folder.glob("*.whl")
    install(python, wheel)
    check(python, "compiled")
    install(python, f"{wheel}[cli]")
    check(python, "compiled", "cli")


def check_no_compiler(base: Path, sdist: Path, folder: Path) -> None:
    """The sdist where CMake finds no compiler."""
    python = empty(base, folder / "venv")
    nothing = str(folder / "no-compiler")
    install(python, sdist, env={"CC": nothing, "CXX": nothing, "PATH": str(python.parent)})
    check(python, "plain")


def build_sdist(folder: Path) -> Path:
    """Small, and without anything that was built."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", folder, ROOT, cwd=folder)
    [sdist] = folder.glob("*.tar.gz")
    assert sdist.stat().st_size < SDIST_MOST_BYTES, f"{sdist.stat().st_size} bytes"
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    assert not [name for name in names if name.endswith((".so", ".pyc"))], names
    return sdist


def main() -> None:
    """Check it all at once, a line a step; exit code 1 where one failed."""
    found = pythons()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        root = Path(temporary)
        sdist = build_sdist(root)

        def step(name: str, work: Callable[[Path, Path, Path], None], base: Path) -> str:
            start, folder = time.monotonic(), root / name.replace(" ", "-")
            folder.mkdir()
            try:
                work(base, sdist, folder)
            except Failed as error:
                return f"FAILED {name}: {error}"
            return f"ok {name} ({time.monotonic() - start:.0f} s)"

        steps = [
            pool.submit(step, f"wheel for Python {version}", check_wheel, base)
            for version, base in found.items()
        ]
        base = Path(sys.executable)
        steps.append(pool.submit(step, "sdist without a compiler", check_no_compiler, base))
        lines = [future.result() for future in steps]
    print(f"packages: {sdist.name}; Pythons {', '.join(found)} of {', '.join(VERSIONS)}")  # noqa: T201
    print(*lines, sep="\n")  # noqa: T201
    sys.exit(any(line.startswith("FAILED") for line in lines))


if __name__ == "__main__":
    main()
