"""NumPy alone reads and writes every file that has no zstd frame; another says what it lacks."""

import subprocess
import sys

import pytest

BLOCKED = """
import sys
sys.modules["zstandard"] = None
import numpy as np
from ectorch.bitstream import RawTensor, Reader, encode_file
from ectorch.errors import ConfigError

grid = np.arange(-8, 8, dtype=np.float32).repeat(9).view(np.uint32)
tensors = {"a": RawTensor("float32", (12, 12), grid)}
"""
FEW_VALUES = """
data = encode_file(tensors, preset="fast")
with Reader(data) as reader:
    assert np.array_equal(reader.read("a").bits, grid)
"""
NOISE = """
noise = np.random.default_rng(0).standard_normal(1000).astype(np.float32).view(np.uint32)
try:
    encode_file({"a": RawTensor("float32", (1000,), noise)})
except ConfigError as error:
    assert "pip install zstandard" in str(error)
else:
    sys.exit("encoded")
"""
FRAME = """
with Reader(sys.argv[1]) as reader:
    try:
        reader.read("text")
    except ConfigError as error:
        assert "pip install zstandard" in str(error)
    else:
        sys.exit("decoded")
"""


@pytest.mark.parametrize("work", [FEW_VALUES, NOISE, FRAME], ids=["few values", "noise", "frame"])
def test_the_package_is_needed_where_a_frame_is(work, tmp_path):
    import numpy as np

    from ectorch.bitstream import RawTensor, encode_file

    text = np.tile(np.random.default_rng(0).permutation(256).astype(np.uint8), 9)
    path = tmp_path / "text.ect"
    path.write_bytes(encode_file({"text": RawTensor("uint8", text.shape, text)}))
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + work, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
