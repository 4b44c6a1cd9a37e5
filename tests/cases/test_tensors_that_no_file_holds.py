"""What a file would lose, or no reader would take, is refused by its name before it is written."""

import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load as load_safetensors
from torch import distributed, nn
from torch._subclasses import FakeTensorMode

import ectorch as ec
from ectorch import cli
from ectorch.errors import ConfigError, UnsupportedTensorError
from ectorch.size.measure import rate_bits
from ectorch.storage.files import load, save, to_safetensors
from ectorch.workflow import freeze_symbols


class Wrapped(torch.Tensor):
    """As torchao's quantized weights are: values are made of tensors that it holds."""

    @staticmethod
    def __new__(cls, codes, scale):
        return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=scale.dtype)

    def __init__(self, codes, scale):
        self.codes, self.scale = codes, scale

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].codes, args[0].scale)
        raise NotImplementedError(function)


class Spoken(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return super().__torch_function__(function, types, args, kwargs or {})


class Named(nn.Parameter):
    """A class of a user's own that is nothing but its values."""


def fake():
    with FakeTensorMode():
        return torch.ones(3)


def masked():
    return torch.masked.masked_tensor(torch.ones(2), torch.tensor([True, False]))


def jagged():
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


def quantized():
    return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


REFUSED = {
    "Wrapped": lambda: Wrapped(torch.ones(3, dtype=torch.int8), torch.ones(())),
    "Spoken": lambda: torch.ones(3).as_subclass(Spoken),
    "FakeTensor": fake,
    "MaskedTensor": masked,
    "NestedTensor": jagged,
    "UninitializedParameter": lambda: nn.LazyLinear(2).weight,
    "UninitializedBuffer": lambda: nn.LazyBatchNorm1d().running_mean,
    "qint8": quantized,
    "sparse_csr": lambda: torch.eye(3).to_sparse_csr(),
    "mkldnn": lambda: torch.eye(3).to_mkldnn(),
    "on meta": lambda: torch.ones(3, device="meta"),
    "trace": lambda: torch._to_functional_tensor(torch.ones(3)),
    "shape": lambda: torch.ones([1] * 65),
    "shape (0, ": lambda: torch.empty(0, 1 << 40),
    "shape (1099511627776, 0": lambda: torch.empty(1 << 40, 0, dtype=torch.int8),
}


@pytest.mark.parametrize(("kind", "make"), REFUSED.items(), ids=REFUSED.keys())
def test_a_tensor_that_is_more_than_its_bits_is_named(kind, make, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes of torch
        tensor = make()
        with pytest.raises(UnsupportedTensorError) as error:
            ec.save_file({"layer.w": tensor}, tmp_path / "m.ect")
    assert "layer.w: " in str(error.value)
    assert kind in str(error.value)
    assert not [*tmp_path.iterdir()]


def test_a_tensor_of_many_processes_is_named():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import distribute_tensor

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        tensor = distribute_tensor(torch.ones(4), init_device_mesh("cpu", (1,)))
        with pytest.raises(UnsupportedTensorError, match=r"w: cannot store a DTensor.*full_tensor"):
            save({"w": tensor})
    finally:
        distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
@pytest.mark.parametrize(
    "transform",
    [torch.vmap, torch.func.grad, torch.func.functionalize, torch.func.hessian],
    ids=lambda transform: transform.__name__,
)
def test_tensors_within_a_transform_are_named(transform):
    def attempt(x):
        with pytest.raises(UnsupportedTensorError, match="w: cannot store a tensor of a tr"):
            save({"w": x})
        return x.square().sum()

    transform(attempt)(torch.ones(2, 3))


@pytest.mark.parametrize(
    "tensor",
    [nn.Parameter(torch.ones(3)), nn.Buffer(torch.ones(3)), Named(torch.ones(3))],
    ids=["Parameter", "Buffer", "own class"],
)
def test_classes_that_are_their_values_are_stored(tensor):
    assert load(save({"w": tensor}))["w"].equal(torch.ones(3))


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)[:, ::2],
        torch.randn(6, 5).t()[1::2],
        torch.ones(2, 1).expand(2, 3),
        torch.randn(4, dtype=torch.complex64).conj()[1:],
        torch.randn(4, dtype=torch.complex64).conj().imag,
        torch.tensor(True),
        torch.tensor(-0.0, dtype=torch.float64),
        torch.tensor([True, False]).expand(3, 2),
        torch.empty(0, 5),
        torch.empty(2, 0, 3).transpose(0, 2),
    ],
    ids=[
        "channels last",
        "transposed",
        "expanded",
        "conjugate",
        "negative",
        "scalar",
        "negative zero",
        "bools",
        "empty",
        "empty, transposed",
    ],
)
@pytest.mark.parametrize("preset", ["small", "fast"])
def test_views_are_stored_as_what_they_show(tensor, preset):
    whole = load(save({"v": tensor, "w": tensor}, preset=preset))
    for loaded in whole.values():
        assert loaded.dtype == tensor.dtype
        assert loaded.shape == tensor.shape
        assert torch.equal(loaded, tensor)
        assert tensor.is_complex() or torch.equal(loaded.signbit(), tensor.signbit())


class Keeping(nn.Linear):
    def __init__(self, state):
        super().__init__(2, 2)
        self.state = state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


@pytest.mark.parametrize("state", [{"factor": 5.0}, 3, None, [torch.ones(1)]], ids=str)
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("call", [save, rate_bits, lambda net: ec.SizeMeter()(net)])
def test_an_extra_state_that_is_no_tensor_is_refused_by_name(state, prepared, call):
    net = nn.Sequential(Keeping(state))
    if prepared:
        ec.prepare(net)
    with pytest.raises(UnsupportedTensorError, match=r"0\._extra_state is a .*get_extra_state"):
        call(net)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(3, "int"), (None, "NoneType"), (np.ones(2), r"ndarray.*torch\.from_numpy"), ({}, "dict")],
    ids=["number", "None", "array", "nested"],
)
def test_what_is_no_tensor_is_refused_by_name(value, kind):
    with pytest.raises(UnsupportedTensorError, match=f"'epoch': {kind}"):
        save({"w": torch.ones(2), "epoch": value})


def test_what_is_no_state_is_refused():
    with pytest.raises(UnsupportedTensorError, match="list: expected a module or named tensors"):
        save([("w", torch.ones(2))])


def test_a_lazy_network_is_refused_by_name():
    with pytest.raises(UnsupportedTensorError, match=r"0\.weight: .*run one batch"):
        save(nn.Sequential(nn.LazyLinear(2)))


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(UnsupportedTensorError, match=r"'a\\ud800' is no Unicode text"):
        save({"a\ud800": torch.ones(2)})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"epoch": 3}, r"metadata\['epoch'\]: 3 is a int, expected Unicode text"),
        ({3: "epoch"}, r"metadata\[3\]: 3 is a int"),
        ({"note": "\udc80"}, r"metadata\['note'\]: '\\udc80' is a str"),
        ({"\udc80": "note"}, r"metadata\['\\udc80'\]"),
        ({"note": None}, r"metadata\['note'\]: None is a NoneType"),
        ({"note": b"bytes"}, r"metadata\['note'\]: b'bytes' is a bytes"),
        ([("note", "x")], "metadata are a list"),
    ],
    ids=str,
)
def test_metadata_that_are_no_text_are_refused_by_key(metadata, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        ec.save_file({"w": torch.ones(2)}, tmp_path / "m.ect", metadata)
    assert not [*tmp_path.iterdir()]


def test_a_name_that_safetensors_reserves_stays_in_ect_files_alone(tmp_path, monkeypatch):
    state = {"__metadata__": torch.ones(2), "w": torch.zeros(2)}
    assert load(save(state)).keys() == state.keys()
    with pytest.raises(UnsupportedTensorError, match="__metadata__ is no name"):
        to_safetensors(state, {})
    ec.save_file(state, tmp_path / "m.ect")
    monkeypatch.setattr(
        "sys.argv", ["ectorch", "decompress", f"{tmp_path}/m.ect", f"{tmp_path}/m.safetensors"]
    )
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert not (tmp_path / "m.safetensors").exists()
    state["__metadata__.w"] = state.pop("__metadata__")
    assert load_safetensors(to_safetensors(state, {"__metadata__": "text"})).keys() == state.keys()


@pytest.mark.parametrize("freeze", [False, True])
def test_latent_weights_of_a_prepared_network_are_not_stored_as_its_weights_in_silence(freeze):
    model = ec.prepare(torch.nn.Sequential(torch.nn.Linear(8, 4)))
    if freeze:
        freeze_symbols(model)
    with pytest.warns(UserWarning, match=r"0\.weight is stored as it trains, on no level"):
        saved = load(save(model.state_dict()))
    assert saved["0.weight"].equal(model.state_dict()["0.weight"])
    assert {*load(save(model))} == {"0.weight", "0.bias"}  # the network itself is discrete
