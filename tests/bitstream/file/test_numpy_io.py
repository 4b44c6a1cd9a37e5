import subprocess
import sys

import numpy as np
import pytest

from ectorch.bitstream import DTYPES, encode_file, load_file, write_atomic
from ectorch.errors import FormatError


def run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_files_are_read_where_torch_is_absent(tmp_path, ect):
    path = tmp_path / "model.ect"
    write_atomic(path, encode_file(ect.lenet(0.2)))
    expected = load_file(path)
    program = """
import sys
sys.modules["torch"] = None
import ectorch.bitstream
for name, array in ectorch.bitstream.load_file(sys.argv[1]).items():
    print(name, array.dtype, array.shape, array.tobytes().hex())
"""
    assert run(program, str(path)).splitlines() == [
        f"{name} {array.dtype} {array.shape} {array.tobytes().hex()}"
        for name, array in expected.items()
    ]


@pytest.mark.parametrize("module", ["ectorch", "ectorch.bitstream", "ectorch.errors"])
def test_imports_stay_light(module):
    heavy = {"torch", "matplotlib", "pydantic", "sklearn", "rich", "typer", "safetensors"}
    loaded = run(f"import {module}, sys; print(*sys.modules)").split()
    assert heavy.isdisjoint(loaded)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_comes_as_its_array(dtype, ect, tmp_path):
    ones = {"float16": 0x3C00, "bfloat16": 0x3F80, "float32": 0x3F800000, "float64": 0x3FF << 52}
    ones["complex64"] = ones["float32"]
    bits = [0, ones.get(dtype, 1)] * 3
    path = tmp_path / "model.ect"
    write_atomic(path, encode_file({"a": ect.raw(dtype, bits, (3, 2))}))
    array = load_file(path)["a"]
    stand_ins = {"bfloat16": "float32", "float8_e4m3fn": "uint8", "float8_e5m2": "uint8"}
    assert array.dtype == stand_ins.get(dtype, dtype)
    assert array.tolist() == [[0, 1]] * 3


def test_bfloat16_keeps_its_bits(ect, tmp_path):
    path = tmp_path / "model.ect"
    write_atomic(path, encode_file({"a": ect.raw("bfloat16", [0x8000, 0x7F81, 0xFF80, 1], (4,))}))
    array = load_file(path)["a"]
    assert array.view(np.uint32).tolist() == [0x80000000, 0x7F810000, 0xFF800000, 0x10000]


def test_scalars_and_empty_arrays_keep_their_shapes(ect, tmp_path):
    path = tmp_path / "model.ect"
    file = {"a": ect.raw("int64", [7], ()), "b": ect.raw("int64", [], (2, 0))}
    write_atomic(path, encode_file(file))
    assert {name: array.shape for name, array in load_file(path).items()} == {"a": (), "b": (2, 0)}


def test_the_limit_holds(ect, tmp_path):
    path = tmp_path / "model.ect"
    write_atomic(path, encode_file({"a": ect.raw("int8", [0] * 100)}))
    with pytest.raises(FormatError, match=r"model\.ect: .*max_decoded_bytes=99"):
        load_file(path, max_decoded_bytes=99)
