"""A command that is killed on its way, and given again, ends in the same files.

    python benchmarks/killed.py targeted train lenet-300-100 --target-ratio 100
    python benchmarks/killed.py sweep sweep lenet-300-100 --points 8

The first word names the result; the rest is a command of `ectorch`, which is run undisturbed, then
once more with SIGKILL at the given shares of that time. Whatever .ect files the two leave are
compared. Writes benchmarks/results/killed-NAME.json; fails when a file differs, or none was killed.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from provenance import RESULTS, provenance, write_results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=float, nargs="+", default=[0.5, 0.9])
    parser.add_argument("name")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    made = provenance()
    with tempfile.TemporaryDirectory() as temporary:
        undisturbed, killed = Path(temporary, "undisturbed"), Path(temporary, "killed")
        started = time.monotonic()
        run(arguments.command, undisturbed)
        seconds = time.monotonic() - started
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        kills = run_killed(arguments.command, killed, [seconds * at for at in arguments.kills])
        expected, files = digests(undisturbed), digests(killed)
    written = made | {
        "killed_command": ["ectorch", *arguments.command],
        "undisturbed_seconds": seconds,
        "kills": kills,
        "files": expected,
        "same": files == expected,
    }
    write_results(RESULTS / f"killed-{arguments.name}.json", written)
    if not kills:
        sys.exit("the command ended before it was killed")
    if not expected or files != expected:
        sys.exit(f"expected {expected}, found {files}")
    print(f"{len(files)} files, all the same")


def run_killed(command: list[str], out: Path, moments: list[float]) -> list[dict[str, object]]:
    """Run ``command`` to its end, killed at each of ``moments`` (seconds of its running time).

    Returns:
        for each kill, when it came, and the files that lay there.
    """
    kills, before = [], 0.0
    for moment in moments:
        try:
            run(command, out, moment - before)
        except subprocess.TimeoutExpired:  # which kills, with SIGKILL
            before = moment
        else:
            break
        left = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
        kills.append({"after_seconds": moment, "left": left})
        print(f"killed after {moment:.0f} s: {', '.join(left)}", flush=True)
    run(command, out)
    return kills


def run(command: list[str], out: Path, timeout: float | None = None) -> None:
    """One `ectorch` command that writes to ``out``."""
    ectorch = Path(sys.executable).with_name("ectorch")
    subprocess.run(
        [ectorch, *command, "--out", out],
        check=True,
        timeout=timeout,
        stdout=subprocess.DEVNULL,
    )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every .ect file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.ect"))
    }


if __name__ == "__main__":
    main()
