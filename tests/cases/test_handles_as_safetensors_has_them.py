"""`safe_open` and `load_file` take what safetensors' users write, and give what it gives."""

import inspect

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save_file as save_safetensors

import ectorch as ec
from ectorch.errors import ConfigError, UnknownTensorError

STATE = {
    "scalar": torch.tensor(3.0),
    "matrix": torch.arange(12.0).reshape(3, 4),
    "empty": torch.zeros(0, 4),
    "noise": torch.randn(300, 70, generator=torch.Generator().manual_seed(0)),
    "half": torch.arange(6).bfloat16().reshape(2, 3),
}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handles")
    ec.save_file(STATE, folder / "m.ect")
    save_safetensors(STATE, folder / "m.safetensors")
    return folder / "m.ect", folder / "m.safetensors"


OPENINGS = [
    lambda open_, path: open_(path, "pt"),
    lambda open_, path: open_(path, "pt", "cpu"),
    lambda open_, path: open_(path, framework="pt", device="cpu"),
    lambda open_, path: open_(path, framework="torch", device=torch.device("cpu").type),
    lambda open_, path: open_(path, "pytorch"),
    lambda open_, path: open_(path, framework="np"),
    lambda open_, path: open_(path, "numpy", device="cpu"),
]


@pytest.mark.parametrize("call", OPENINGS)
def test_a_handle_is_opened_as_safetensors_opens_it(call, paths):
    with call(ec.safe_open, paths[0]) as ours, call(safetensors.safe_open, paths[1]) as theirs:
        assert sorted(ours.keys()) == sorted(ours.offset_keys()) == sorted(theirs.keys())
        for name in ("scalar", "matrix", "empty", "noise"):
            mine, own = ours.get_tensor(name), theirs.get_tensor(name)
            assert type(mine) is type(own)
            assert mine.dtype == own.dtype
            assert mine.tolist() == own.tolist()
            assert ours.get_slice(name).get_shape() == theirs.get_slice(name).get_shape()


def test_bfloat16_comes_to_numpy_as_float32(paths):
    with ec.safe_open(paths[0], "np") as file:
        assert file.get_tensor("half").dtype == np.float32
        assert file.get_slice("half")[1].tolist() == [3, 4, 5]


def test_a_device_is_where_tensors_go(paths):
    with ec.safe_open(paths[0], "pt", device="meta") as file:
        assert file.get_tensor("matrix").is_meta
        assert file.get_slice("matrix")[1:].is_meta
    assert all(tensor.is_meta for tensor in ec.load_file(paths[0], "meta").values())
    assert ec.load_file(paths[0], device=torch.device("cpu"))["matrix"].equal(STATE["matrix"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"framework": "tf"}, "framework 'tf' is unknown, known: pt"),
        ({"framework": 4096}, "framework 4096 is unknown"),
        ({"device": "nowhere"}, "device 'nowhere'"),
        ({"device": 1.5}, r"device 1\.5"),
        ({"framework": "np", "device": "meta"}, "arrays of NumPy are on the CPU"),
    ],
    ids=str,
)
def test_what_is_no_framework_or_device_is_refused(arguments, message, paths):
    with pytest.raises(ConfigError, match=message):
        ec.safe_open(paths[0], **arguments)


@pytest.mark.parametrize("call", [ec.safe_open, ec.load_file, ec.load_model])
def test_limits_are_given_by_name(call):
    parameters = inspect.signature(call).parameters
    for name in ("max_decoded_bytes", "threads"):
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


INDICES = [
    ...,
    (),
    None,
    True,
    False,
    0,
    -1,
    2,
    3,
    np.int64(1),
    np.uint8(2),
    torch.tensor(1),
    torch.tensor([0, 2]),
    torch.tensor([True, False, True]),
    [0, 1],
    slice(None),
    slice(None, None, 2),
    slice(2, 0),
    slice(np.int32(1), None),
    slice(torch.tensor(1), None),
    slice(None, None, -1),
    slice(None, None, 0),
    (0, ...),
    (..., 0),
    (None, 0),
    (0, None),
    (1, 9),
    (np.int64(1), np.int32(2)),
    (slice(None), [0, 1]),
    (slice(1, 3), None, slice(None, None, 2)),
    (slice(None), slice(None, None, -1)),
    (1, True),
    (0, 0, 0),
    1.5,
    "a",
]


def outcome(act):
    try:
        got = act()
    except (IndexError, TypeError, ValueError) as error:
        return type(error)
    return got.shape, got.tolist()


@pytest.mark.parametrize("name", ["scalar", "matrix", "empty"])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_slice_is_what_the_tensor_gives(name, index, paths):
    with ec.safe_open(paths[0]) as file:
        assert outcome(lambda: file.get_slice(name)[index]) == outcome(lambda: STATE[name][index])


@pytest.mark.parametrize("index", [..., (), None, 0, slice(1, 3), (slice(None), 1), [0, 1]])
def test_a_slice_is_what_the_array_gives(index, paths):
    with ec.safe_open(paths[0], "np") as file:
        assert np.array_equal(file.get_slice("matrix")[index], STATE["matrix"].numpy()[index])


@pytest.mark.parametrize("ask", ["get_tensor", "get_slice", "get_entry"])
@pytest.mark.parametrize("kind", [KeyError, ec.EctorchError, UnknownTensorError])
def test_a_wrong_name_names_the_file_and_near_names(ask, kind, paths):
    with (
        ec.safe_open(paths[0]) as file,
        pytest.raises(kind, match=r"^\S+m\.ect: no tensor 'matrx', near: matrix$"),
    ):
        getattr(file, ask)("matrx")


@pytest.mark.parametrize("name", [3, None, ("matrix",), ""], ids=str)
def test_what_is_no_name_is_unknown(name, paths):
    with ec.safe_open(paths[0]) as file, pytest.raises(UnknownTensorError, match="no tensor"):
        file.get_tensor(name)


def test_a_closed_handle_says_so(paths):
    with ec.safe_open(paths[0]) as file:
        part = file.get_slice("matrix")
    for act in (
        lambda: file.get_tensor("matrix"),
        lambda: file.get_slice("matrix"),
        lambda: file.get_entry("matrix"),
        lambda: part[0],
        lambda: file.keys(),
        lambda: list(file),
        lambda: file.metadata(),
    ):
        with pytest.raises(ConfigError, match=r"m\.ect is closed"):
            act()
