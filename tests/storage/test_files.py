import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import ectorch as ec
from ectorch.bitstream import DTYPES
from ectorch.bitstream import load_file as load_numpy
from ectorch.errors import ConfigError, FormatError, MismatchError, UnsupportedTensorError
from ectorch.size.measure import rate_bits
from ectorch.storage.files import load, save
from ectorch.storage.opening import safe_open
from ectorch.workflow import convert, prepare

TORCH_DTYPES = [getattr(torch, name) for name in DTYPES]
CARRIERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor):
    carrier = CARRIERS[tensor.element_size()]
    return tensor.detach().contiguous().reshape(-1).view(carrier).tolist()


def same(ours, theirs):
    return (ours.dtype, ours.shape, bits(ours)) == (theirs.dtype, theirs.shape, bits(theirs))


def all_same(ours, theirs):
    return ours.keys() == theirs.keys() and all(same(ours[name], theirs[name]) for name in ours)


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
@given(STATES, st.dictionaries(st.text(), st.text(), max_size=2))
def test_any_dict_of_tensors_comes_back_bit_for_bit(state, metadata):
    data = save(state, metadata)
    loaded = load(data)
    assert all_same(loaded, state)
    assert save(loaded, metadata) == data


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_every_bit_pattern_of_small_and_odd_ones_of_wide_dtypes_survive(dtype):
    if dtype == torch.bool:
        state = {"a": torch.tensor([True, False])}
    elif dtype.itemsize == 1:
        state = {"a": torch.arange(256).to(torch.uint8).view(dtype)}
    else:
        top = torch.iinfo(CARRIERS[dtype.itemsize])
        odd = [top.min, top.min + 1, -1, 0, 1, top.max]
        state = {"a": torch.tensor(odd, dtype=CARRIERS[dtype.itemsize]).view(dtype)}
    assert all_same(load(save(state)), state)


def test_float_specials_survive():
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


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.out = nn.Linear(16, 20, bias=False)
        self.out.weight = self.embed.weight


def test_tied_tensors_are_stored_once_and_loaded_into_a_model_that_ties_them(tmp_path):
    path = tmp_path / "m.ect"
    model = Tied()
    size = ec.save_file(model, path)
    assert size <= len(save({"embed.weight": model.embed.weight})) + 20
    fresh = ec.load_model(Tied(), path)
    assert fresh.out.weight is fresh.embed.weight
    assert torch.equal(fresh.out.weight, model.out.weight)
    with safe_open(path) as file:
        assert file.get_entry("out.weight").alias_of == "embed.weight"


def test_save_file_tells_the_size_on_disk_and_writes_what_save_gives(tmp_path):
    model, path = small_network(), tmp_path / "m.ect"
    assert ec.save_file(model, path, {"seed": "0"}) == path.stat().st_size
    assert path.read_bytes() == save(model, {"seed": "0"})


def test_safe_open_reads_single_tensors(tmp_path):
    model, path = small_network(), tmp_path / "m.ect"
    ec.save_file(model, path, {"seed": "0"})
    state = model.state_dict()
    with safe_open(str(path)) as file:
        assert file.keys() == list(file) == sorted(state)
        assert file.metadata() == {"seed": "0"}
        assert same(file.get_tensor("4.weight"), state["4.weight"])
        entry = file.get_entry("0.weight")
        assert (entry.dtype, entry.shape) == ("float32", (6, 1, 3, 3))
        assert 0 < entry.size_bytes <= entry.decoded_bytes == 216
        with pytest.raises(KeyError):
            file.get_tensor("5.weight")


def test_load_model_restores_a_network_whole(tmp_path):
    model, fresh, path = small_network(), small_network(), tmp_path / "m.ect"
    model(torch.randn(8, 1, 8, 8))
    ec.save_file(model, path)
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    assert ec.load_model(fresh, path) is fresh
    assert all_same(fresh.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("4.bias"), r"4\.bias is missing"),
        (lambda s: s.update(extra=torch.ones(1)), "extra is not in the model"),
        (
            lambda s: s.update({"4.weight": torch.ones(10, 215)}),
            r"4\.weight is float32 \(10, 215\), the model has float32 \(10, 216\)",
        ),
        (
            lambda s: s.update({"4.weight": s["4.weight"].half()}),
            r"4\.weight is float16 \(10, 216\), the model has float32 \(10, 216\)",
        ),
    ],
    ids=["missing", "unexpected", "shape", "dtype"],
)
def test_mismatches_name_the_tensor_and_leave_the_model_as_it_was(change, message, tmp_path):
    model, path = small_network(), tmp_path / "m.ect"
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    stored = {name: tensor + 1 for name, tensor in before.items()}
    change(stored)
    ec.save_file(stored, path)
    with pytest.raises(MismatchError, match=rf"m\.ect: .*{message}"):
        ec.load_model(model, path)
    assert all_same(model.state_dict(), before)


def test_what_both_sides_have_is_loaded_when_not_strict(tmp_path):
    model, path = small_network(), tmp_path / "m.ect"
    ec.save_file({"4.bias": torch.full((10,), 7.0), "extra": torch.ones(1)}, path)
    kept = model[4].weight.clone()
    ec.load_model(model, path, strict=False)
    assert (model[4].bias == 7).all()
    assert torch.equal(model[4].weight, kept)
    ec.save_file({"4.bias": torch.ones(9)}, path)
    with pytest.raises(MismatchError, match=r"4\.bias"):
        ec.load_model(model, path, strict=False)


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


@pytest.mark.parametrize("at", range(0, 3000, 211))
def test_damaged_files_are_format_errors(at, tmp_path):
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


def test_numpy_reads_the_same_values(tmp_path):
    model, path = small_network(), tmp_path / "m.ect"
    ec.save_file(model, path)
    arrays = load_numpy(path)
    assert all(
        torch.equal(torch.from_numpy(arrays[name]), tensor)
        for name, tensor in model.state_dict().items()
    )


def constrained(network, bias):
    model = network()
    prepare(model, ec.Config(levels=33, bias=bias))
    return model


def dense_network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10))


NETWORKS = pytest.mark.parametrize("network", [small_network, dense_network])
BIASES = pytest.mark.parametrize("bias", ["float32", "float16", "grid"])


@NETWORKS
@BIASES
def test_rate_is_the_size_of_the_file(network, bias):
    model = constrained(network, bias)
    file_bits = 8 * len(save(model))
    assert abs(rate_bits(model) - file_bits) <= 0.01 * file_bits + 64 * 8
    assert abs(rate_bits(convert(model)) - file_bits) <= 0.01 * file_bits + 64 * 8


@NETWORKS
@BIASES
def test_a_prepared_model_is_stored_as_convert_leaves_it(network, bias, tmp_path):
    model = constrained(network, bias)
    keys = network().state_dict().keys()
    prepared = save(model)
    assert load(prepared).keys() == keys
    ec.save_file(convert(model), tmp_path / "m.ect")
    assert (tmp_path / "m.ect").read_bytes() == prepared
    fresh = ec.load_model(network(), tmp_path / "m.ect")
    assert all_same(fresh.state_dict(), model.state_dict())


def test_constrained_weights_take_a_fraction_of_their_floats():
    model = constrained(dense_network, "float16")
    floats = sum(t.numel() * t.element_size() for t in dense_network().state_dict().values())
    assert len(save(model)) < floats / 10


@pytest.mark.parametrize("tensors", [{"epoch": 3}, {7: torch.zeros(2)}], ids=["number", "key"])
def test_what_is_no_named_tensor_is_refused(tensors):
    with pytest.raises(UnsupportedTensorError, match="expected a named tensor"):
        save(tensors)


PRESETS = ("small", "balanced", "fast")


def sparse(*shape, seed=0, share=0.1):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(shape, generator=generator) < share
    return (drawn * torch.randint(-4, 5, shape, generator=generator)).float() * 0.125


@pytest.fixture(scope="module")
def network():
    """Two layers of which the second has no use for the dead units of the first."""
    first, second = sparse(200, 300), sparse(120, 200, seed=1, share=0.4)
    dead = torch.arange(200) % 2 == 0
    first[dead], second[:, dead] = 0, 0
    return {"1.weight": first, "2.weight": second, "2.bias": torch.randn(120)}


@pytest.mark.parametrize("preset", PRESETS)
@MODERATE
@given(state=STATES)
def test_every_preset_brings_every_state_back(preset, state):
    assert all_same(load(save(state, preset=preset)), state)


@pytest.mark.parametrize("preset", PRESETS)
def test_bytes_do_not_depend_on_the_number_of_threads(preset, network):
    state = network | {"large": sparse(5000, 1000)}  # of several chunks
    alone = save(state, preset=preset, threads=1)
    for threads in (2, 4):
        assert save(state, preset=preset, threads=threads) == alone
        assert all_same(load(alone, threads=threads), state)


def test_an_unknown_preset_is_refused(network):
    with pytest.raises(ConfigError, match="preset 'tiny' is unknown, known: small, balanced, fast"):
        save(network, preset="tiny")


def test_a_tensor_that_was_coded_with_an_earlier_one_can_be_read_alone(network, tmp_path):
    ec.save_file(network, tmp_path / "m.ect")
    alone = len(save({"2.weight": network["2.weight"]})) - len(save({}))
    with safe_open(tmp_path / "m.ect") as file:
        assert file.get_entry("2.weight").size_bytes < alone  # dead columns cost nothing
        assert same(file.get_tensor("2.weight"), network["2.weight"])
        assert same(file.get_slice("2.weight")[3:5], network["2.weight"][3:5])


INDICES = [
    0,
    -1,
    119,
    slice(None),
    slice(3, 7),
    slice(-5, None, 2),
    slice(7, 3),
    slice(500, 600),
    (slice(2, 9), slice(10, 90, 7)),
    (4, 5),
    (Ellipsis, 3),
    None,
]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["1.weight", "2.bias"])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_slice_is_that_of_the_tensor(preset, name, index, network, tmp_path):
    tensor = network[name]
    if isinstance(index, tuple) and Ellipsis not in index and tensor.ndim == 1:
        pytest.skip("two indices")
    ec.save_file(network, tmp_path / "m.ect", preset=preset)
    with safe_open(tmp_path / "m.ect") as file:
        part = file.get_slice(name)
        assert part.get_shape() == list(tensor.shape)
        assert part.get_dtype() == "float32"
        assert same(part[index], tensor[index])


@pytest.mark.parametrize(
    ("index", "error"),
    [(120, IndexError), (-121, IndexError), (slice(None, None, -1), ValueError)],
    ids=str,
)
def test_a_row_that_is_not_there_is_refused(index, error, network, tmp_path):
    ec.save_file(network, tmp_path / "m.ect")
    with safe_open(tmp_path / "m.ect") as file, pytest.raises(error, match=r"2\.bias"):
        file.get_slice("2.bias")[index]
    with pytest.raises(error):
        network["2.bias"][index]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_slice_decodes_its_own_chunks_only(preset, tmp_path, monkeypatch):
    from ectorch.bitstream.codings import context, rans

    decoded = []
    for stream in (context.ContextStream, rans.RansStream):
        original = stream.decode_into

        def record(self, index, out, original=original):
            decoded.append(index)
            original(self, index, out)

        monkeypatch.setattr(stream, "decode_into", record)
    large = sparse(6000, 1000) * (torch.arange(1000) % 7 == 0)
    ec.save_file({"w": large}, tmp_path / "m.ect", preset=preset)
    with safe_open(tmp_path / "m.ect") as file:
        assert same(file.get_slice("w")[5500:5600], large[5500:5600])
    assert len(decoded) == 1
    assert decoded[0] > 0


def trained_a_bit(steps, meter=None):
    """A small network under a strong penalty, and what the meter said on the way."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 50), nn.ReLU())
    ec.prepare(net.append(nn.Linear(50, 10)))
    optimizer = torch.optim.Adam(ec.param_groups(net, lr=4e-3))
    inputs = torch.randn(512, 64)
    labels = inputs[:, :10].argmax(1)
    for step in range(steps):
        loss = F.cross_entropy(net(inputs), labels) + ec.penalty(net, 0.02, len(inputs))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if meter and step % 20 == 0:
            before = copy.deepcopy(net.state_dict())
            size = meter(net)
            assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
            real = len(save(ec.finalize(copy.deepcopy(net))))
            yield size, real
        if step % 60 == 59:
            ec.remove_dead_units(net, optimizer)


def test_the_live_size_is_that_of_the_file():
    seen = list(trained_a_bit(300, ec.SizeMeter()))
    assert seen[-1][1] < 0.8 * seen[0][1]
    for size, real in seen:
        assert real <= size.total <= 1.01 * real + 64
        assert sum(size.tensors.values()) < size.total


def test_the_live_size_of_a_network_that_cannot_be_traced():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(6, 5)

        def forward(self, x):
            return self.one(x) if x.sum() > 0 else x

    net = ec.prepare(Branching())
    assert ec.SizeMeter()(net).total == len(save(net))
