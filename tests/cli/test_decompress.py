"""``.safetensors`` is written without torch and without safetensors: both read what is written."""

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

from ectorch.bitstream import DTYPES, RawTensor
from ectorch.bitstream.tensor import bits_dtype
from ectorch.cli.decompress import to_safetensors
from ectorch.errors import UnsupportedTensorError
from ectorch.storage.files import to_raw


def a_tensor(dtype, shape=(3, 5)):
    items = np.random.default_rng(0).integers(0, 2, np.prod(shape, dtype=int))
    return RawTensor(dtype, shape, items.astype(bits_dtype(dtype)))


@pytest.mark.parametrize("shape", [(3, 5), (), (0, 2)], ids=str)
def test_every_dtype_comes_back_bit_for_bit(shape, tmp_path):
    tensors = {f"ä.{dtype}": a_tensor(dtype, shape) for dtype in DTYPES}
    path = tmp_path / "a.safetensors"
    path.write_bytes(to_safetensors(tensors, {"made": '"by hand"\n'}))
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"made": '"by hand"\n'}
    loaded = safetensors.torch.load_file(path)
    assert loaded.keys() == tensors.keys()
    for name, raw in tensors.items():
        back = to_raw(name, loaded[name])
        assert (back.dtype, back.shape) == (raw.dtype, raw.shape)
        assert np.array_equal(back.bits, raw.bits)


def test_items_lie_where_they_can_be_mapped():
    data = to_safetensors({"a": a_tensor("bool"), "b": a_tensor("int64")}, {})
    start = 8 + int.from_bytes(data[:8], "little")
    assert start % 8 == 0
    assert data[start : start + 8] == a_tensor("int64").bits[:1].tobytes()


def test_a_file_without_tensors_or_metadata_is_one():
    assert safetensors.torch.load(to_safetensors({}, {})) == {}


def test_the_reserved_name_is_refused():
    with pytest.raises(UnsupportedTensorError, match="__metadata__ is no name"):
        to_safetensors({"__metadata__": a_tensor("int8")}, {})


def test_the_bytes_are_those_of_safetensors_where_one_order_is_possible():
    weights = torch.arange(6.0).reshape(2, 3)
    ours = to_safetensors({"w": to_raw("w", weights)}, {"a": "b"})
    assert ours == safetensors.torch.save({"w": weights}, {"a": "b"})
