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
    ("name", "given"),
    {
        "fewer symbols than bits": (
            "find_distinct",
            (np.arange(9, dtype=np.uint32), 9, np.zeros(3, np.uint16)),
        ),
        "more distinct than a symbol counts": (
            "find_distinct",
            (np.arange(9, dtype=np.uint32), 1 << 17, np.zeros(9, np.uint16)),
        ),
        "none is most": (
            "find_distinct",
            (np.zeros(9, np.uint32), 0, np.zeros(9, np.uint16)),
        ),
        "symbol past the frequencies": ("static_encode", (symbols(0, 5), frequencies(1, 1), 1)),
        "symbol without a frequency": ("static_encode", (symbols(0, 1), frequencies(2, 0), 1)),
        "frequencies past the scale": ("static_encode", (symbols(0, 1), frequencies(3, 1), 1)),
        "no frequencies": ("static_encode", (symbols(), frequencies(), 1)),
        "scale": ("static_encode", (symbols(0, 1), frequencies(1, 1), 64)),
        "rANS, no frequency": ("rans_encode_dense", (symbols(0, 1), frequencies(2, 0), 1)),
        "rANS, the sum": ("rans_encode_dense", (symbols(0, 1), frequencies(1, 2), 1)),
        "runs, no frequency": (
            "rans_encode_runs",
            (symbols(0, 1), 0, frequencies(1, 1), 1, frequencies(2, 0), 1),
        ),
        "levels of a table": ("decode_table", (b"ab", frequencies())),
        "levels of a stream": ("static_decode", (b"ab", symbols(0), (1 << 32) - 1)),
        "items that overflow": (
            "context_encode",
            (symbols(0, 1), (2, 1 << 30, 4, 1), 0, True, False, 2, 0, frequencies()),
        ),
    }.values(),
)
def test_what_cannot_be_coded_is_a_value_error(name, given):
    with pytest.raises(ValueError, match=r"."):
        getattr(native.module, name)(*given)


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
