"""Tensors of every kind come back from a file bit for bit, or are refused by name."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ectorch as ec
from ectorch.bitstream import DTYPES
from ectorch.bitstream import load_file as load_numpy
from ectorch.errors import ConfigError, FormatError, UnsupportedTensorError
from ectorch.storage.files import load, save

TORCH_DTYPES = [getattr(torch, name) for name in DTYPES]
CARRIERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
PRESETS = ("small", "balanced", "fast")


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(TORCH_DTYPES))
    shape = draw(st.lists(st.integers(0, 5), max_size=3))
    seed = draw(st.integers(0, 99))
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    levels = draw(st.sampled_from([1, 3, 1 << 40]))
    noise = torch.randint(-levels, levels, shape, generator=generator)
    few = noise % 3 if draw(st.booleans()) else noise
    narrow = few.to(CARRIERS[dtype.itemsize])
    tensor = narrow.view(dtype) if draw(st.booleans()) else few.float().to(dtype)
    return tensor.transpose(0, -1) if tensor.dim() > 1 and draw(st.booleans()) else tensor


STATES = st.dictionaries(st.text(max_size=5), tensors(), max_size=5)
MODERATE = settings(deadline=None, max_examples=60)


@MODERATE
@given(state=STATES, metadata=st.dictionaries(st.text(), st.text(), max_size=2))
def test_any_dict_of_tensors_comes_back_bit_for_bit(state, metadata, all_same):
    data = save(state, metadata)
    loaded = load(data)
    assert all_same(loaded, state)
    assert save(loaded, metadata) == data


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_every_bit_pattern_of_small_and_odd_ones_of_wide_dtypes_survive(dtype, all_same):
    if dtype == torch.bool:
        state = {"a": torch.tensor([True, False])}
    elif dtype.itemsize == 1:
        state = {"a": torch.arange(256).to(torch.uint8).view(dtype)}
    else:
        top = torch.iinfo(CARRIERS[dtype.itemsize])
        odd = [top.min, top.min + 1, -1, 0, 1, top.max]
        state = {"a": torch.tensor(odd, dtype=CARRIERS[dtype.itemsize]).view(dtype)}
    assert all_same(load(save(state)), state)


def test_float_specials_survive(all_same):
    nan, inf = float("nan"), float("inf")
    state = {
        str(t): torch.tensor([nan, -nan, inf, -inf, -0.0, 0.0] * 9, dtype=t)
        for t in (torch.float32, torch.float16, torch.bfloat16, torch.float64)
    }
    assert all_same(load(save(state)), state)


def test_views_and_parameters_are_stored_as_what_they_show():
    base = torch.arange(24.0).reshape(4, 6)
    state = {
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "channels_last": torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "parameter": nn.Parameter(base),
        "graph": nn.Parameter(base) * 2,
        "conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
        "negative": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    }
    loaded = load(save(state))
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert not any(tensor.requires_grad for tensor in loaded.values())


def test_loaded_tensors_are_writable_and_apart(tmp_path):
    weight = torch.randn(30, 30)
    ec.save_file({"a": weight, "b": weight}, tmp_path / "m.ect")
    loaded = ec.load_file(tmp_path / "m.ect")
    loaded["a"].zero_()
    assert torch.equal(loaded["b"], weight)


def test_save_file_tells_the_size_on_disk_and_writes_what_save_gives(tmp_path, small_network):
    model, path = small_network(), tmp_path / "m.ect"
    assert ec.save_file(model, path, {"seed": "0"}) == path.stat().st_size
    assert path.read_bytes() == save(model, {"seed": "0"})


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.empty(3, device="meta"),
        torch.ones(3, dtype=torch.complex128),
    ],
    ids=["sparse", "meta", "complex128"],
)
def test_tensors_that_no_file_holds_are_named(tensor, tmp_path):
    path = tmp_path / "m.ect"
    with pytest.raises(UnsupportedTensorError, match=r"layer\.mask: cannot store"):
        ec.save_file({"layer.mask": tensor}, path)
    assert not path.exists()


@pytest.mark.parametrize("tensors", [{"epoch": 3}, {7: torch.zeros(2)}], ids=["number", "key"])
def test_what_is_no_named_tensor_is_refused(tensors):
    with pytest.raises(UnsupportedTensorError, match="expected a named tensor"):
        save(tensors)


@pytest.mark.parametrize("at", range(0, 3000, 211))
def test_damaged_files_are_format_errors(at, tmp_path, small_network):
    path = tmp_path / "m.ect"
    ec.save_file(small_network(), path)
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(FormatError):
        load(bytes(data))
    with pytest.raises(FormatError, match=r"m\.ect"):
        ec.load_file(path)
    with pytest.raises(FormatError):
        ec.load_model(small_network(), path)


def test_the_limit_holds(tmp_path):
    data = save({"a": torch.zeros(1000)})
    with pytest.raises(FormatError, match="max_decoded_bytes=3999"):
        load(data, max_decoded_bytes=3999)


def test_numpy_reads_the_same_values(tmp_path, small_network):
    model, path = small_network(), tmp_path / "m.ect"
    ec.save_file(model, path)
    arrays = load_numpy(path)
    assert all(
        torch.equal(torch.from_numpy(arrays[name]), tensor)
        for name, tensor in model.state_dict().items()
    )


@pytest.mark.parametrize("preset", PRESETS)
@MODERATE
@given(state=STATES)
def test_every_preset_brings_every_state_back(preset, state, all_same):
    assert all_same(load(save(state, preset=preset)), state)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("preset", PRESETS)
def test_bytes_do_not_depend_on_the_number_of_threads(preset, network, sparse, all_same):
    state = network | {"large": sparse(300, 1000)}  # of several chunks
    alone = save(state, preset=preset, threads=1)
    for threads in (2, 4):
        assert save(state, preset=preset, threads=threads) == alone
        assert all_same(load(alone, threads=threads), state)


def test_an_unknown_preset_is_refused(network):
    with pytest.raises(ConfigError, match="preset 'tiny' is unknown, known: small, balanced, fast"):
        save(network, preset="tiny")
