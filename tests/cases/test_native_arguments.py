"""No argument crashes the compiled module, keeps it busy for ever, or loses its output."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ectorch.bitstream import native

SCRIPT = Path(__file__).parent / "hostile_calls.py"
CALLS = 4000

if native.module is None:
    pytest.skip("the coders are not compiled", allow_module_level=True)


def symbols(*values):
    return np.array(values, np.uint16)


def frequencies(*values):
    return np.array(values, np.uint32)


@pytest.mark.parametrize("name", [n for n in vars(native.module) if n[0] != "_" and n.islower()])
def test_hostile_arguments_are_refused_or_served(name):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", str(SCRIPT), name, str(CALLS)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "out",
    {
        "dtype": np.zeros(4, np.int16),
        "stride": np.zeros(8, np.uint16)[::2],
        "byte order": np.zeros(4, np.dtype(np.uint16).newbyteorder()),
        "dimensions": np.zeros((2, 2), np.uint16),
        "read-only": np.frombuffer(bytes(8), np.uint16),
        "list": [0, 0, 0, 0],
    }.values(),
)
def test_an_output_that_cannot_be_written_in_place_is_refused(out):
    stream = native.module.static_encode(symbols(0, 1, 1, 0), frequencies(1, 1), 1)
    with pytest.raises(TypeError):
        native.module.static_decode(stream, out, 2)
    with pytest.raises(TypeError):
        native.module.find_distinct(np.zeros(4, np.uint32), 4, out)


def test_an_output_within_an_input_is_refused():
    shared = np.zeros(8, np.uint16)
    with pytest.raises(ValueError, match="output lies in an input"):
        native.module.take(symbols(9, 8), shared[:4], shared[1:5])
