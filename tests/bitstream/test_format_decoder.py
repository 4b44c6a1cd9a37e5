"""FORMAT.md is enough to write a decoder: `format_decoder.py` was written from that page alone."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from ectorch.bitstream import DTYPES, RawTensor, Reader, encode_file
from ectorch.bitstream.codings.decode import Coding

HERE = Path(__file__).parent
MOST_LINES = 300
FILES = sorted((HERE.parent / "golden").glob("*.ect"))


@pytest.fixture(scope="module")
def decoder():
    spec = importlib.util.spec_from_file_location("format_decoder", HERE / "format_decoder.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_same(decoder, data):
    metadata, tensors = decoder.decode_file(data)
    with Reader(data) as reader:
        assert metadata == reader.metadata
        ours = reader.read_all()
    assert tensors == {n: (t.dtype, t.shape, t.little_endian()) for n, t in ours.items()}


def test_it_is_short_and_knows_nothing_of_the_library():
    text = (HERE / "format_decoder.py").read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) < MOST_LINES
    assert "ectorch" not in text.replace(".ect", "")
    assert "numpy" not in text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_files(decoder, path):
    assert_same(decoder, path.read_bytes())


@pytest.mark.parametrize("preset", ["small", "balanced", "fast"])
def test_files_of_every_preset(decoder, preset):
    rng = np.random.default_rng(1)
    live = rng.random(30) < 0.6

    def tensor(values, dtype="float32"):
        values = np.asarray(values, dtype)
        return RawTensor(dtype, values.shape, values.reshape(-1).view(f"u{DTYPES[dtype]}"))

    def sparse(*shape):
        return (rng.random(shape) < 0.2) * rng.integers(-5, 6, shape)

    tensors = {
        "0.weight": tensor(sparse(30, 64) * live[:, None] * 0.25),
        "1.weight": tensor(sparse(8, 30) * live),
        "2.weight": tensor(sparse(4, 3, 5, 5) * 0.1),
        "2.bias": tensor(rng.normal(size=40)),
        "many": tensor(rng.integers(-3, 4, (130, 130)), "int8"),
        "runs": tensor(rng.random((130, 130)) < 0.01, "int16"),
    }
    data = encode_file(tensors, {"made": "here"}, preset)
    assert_same(decoder, data)
    if preset == "fast":
        with Reader(data) as reader:
            assert Coding.RANS in {entry.coding for entry in reader}


def test_damage_is_a_value_error(decoder):
    data = FILES[0].read_bytes()
    for at in range(0, len(data), 7):
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        with pytest.raises(ValueError):
            decoder.decode_file(damaged)
