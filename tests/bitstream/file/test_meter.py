"""Sizes of files whose tensors change from one to the next."""

import numpy as np
import pytest

from ectorch.bitstream import RawTensor, encode_file
from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file.meter import FileMeter


def tensor_of(symbols):
    values = symbols.astype(np.float32) / 16
    return RawTensor("float32", symbols.shape, values.reshape(-1).view(np.uint32))


@pytest.fixture
def layers():
    """Two that differ, and one whose empty columns are the empty rows of the second."""
    rng = np.random.default_rng(3)
    dead = rng.random(120) < 0.5
    first, second = (rng.integers(-1, 2, (120, 50)) * (rng.random((120, 50)) < 0.3) for _ in "ab")
    third = rng.integers(-1, 2, (40, 120)) * (rng.random((40, 120)) < 0.3)
    second[dead], third[:, dead] = 0, 0
    return {"a": tensor_of(first), "b": tensor_of(second), "c": tensor_of(third)}


def test_the_first_size_is_that_of_the_file(layers):
    total, tensors = FileMeter().measure(layers)
    assert total == len(encode_file(layers))
    assert list(tensors) == ["a", "b", "c"]


def test_a_tensor_of_which_a_hint_was_taken_may_become_an_alias(layers):
    meter = FileMeter()
    meter.measure(layers)
    assert meter.found["c"].layout.hint == 1
    tied = layers | {"a": layers["b"]}
    assert meter.measure(tied)[0] == len(encode_file(tied))
    assert meter.measure(layers)[0] >= len(encode_file(layers))


def test_what_becomes_noise_is_found_anew(layers):
    meter = FileMeter()
    meter.measure(layers)
    rng = np.random.default_rng(4)
    floats = RawTensor("float32", (120, 50), rng.integers(0, 1 << 32, 6000, np.uint32))
    noise = layers | {"b": floats}
    least = len(encode_file(noise))  # of "c" the hint is still taken, which tells nothing any more
    assert least <= meter.measure(noise)[0] <= 1.005 * least
    assert meter.found["b"].coding is Coding.RAW
    least = len(encode_file(layers))
    assert least <= meter.measure(layers)[0] <= 1.005 * least
    assert meter.found["b"].coding is Coding.CONTEXT
