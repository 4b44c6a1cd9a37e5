"""`load_model` puts a file into the network as it is: tied, on meta, lazy, wrapped or prepared."""

import copy

import pytest
import torch
from torch import distributed, nn
from torch._subclasses import FakeTensorMode
from torch.nn.parallel import DistributedDataParallel

import ectorch as ec
from ectorch.errors import MismatchError
from ectorch.rewrite.units import remove_dead_units
from ectorch.size.measure import rate_bits
from ectorch.storage.files import save
from ectorch.workflow import freeze_symbols


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.head = nn.Linear(8, 12, bias=False)
        self.head.weight = self.embed.weight


class TiedByMemory(Tied):
    """Two Parameters over one memory, as ``.data =`` leaves them."""

    def __init__(self):
        super().__init__()
        self.head.weight = nn.Parameter(self.embed.weight.data)


class Fused(nn.Module):
    """Three views of one memory beside the whole."""

    def __init__(self):
        super().__init__()
        self.fused = nn.Parameter(torch.randn(6, 4))
        for at, name in enumerate("qkv"):
            self.register_buffer(name, self.fused.data[2 * at : 2 * at + 2])


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)
        self.conv.bias.requires_grad_(False)
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, x):
        return self.norm(self.conv(x))


class Scaled(nn.Linear):
    """Keeps ``factor`` as its extra state: a tensor, or what ``make`` makes of it."""

    make = staticmethod(torch.tensor)

    def __init__(self, factor):
        super().__init__(2, 2)
        self.factor = factor

    def get_extra_state(self):
        return self.make(self.factor)

    def set_extra_state(self, state):
        self.factor = state.tolist()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.ect"


def same(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(mine[k].equal(v) for k, v in theirs.items())


@pytest.mark.parametrize("network", [Tied, TiedByMemory])
@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
@pytest.mark.parametrize("strict", [True, False])
def test_one_of_two_tied_names_is_enough(network, kept, strict, path):
    weight = torch.randn(12, 8)
    ec.save_file({kept: weight}, path)
    fresh = ec.load_model(network(), path, strict=strict)
    assert fresh.embed.weight.equal(weight)
    assert fresh.head.weight.data_ptr() == fresh.embed.weight.data_ptr()


@pytest.mark.parametrize("network", [Tied, TiedByMemory])
@pytest.mark.parametrize("strict", [True, False])
def test_two_values_for_one_tensor_are_refused(network, strict, path):
    ec.save_file({"embed.weight": torch.zeros(12, 8), "head.weight": torch.ones(12, 8)}, path)
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(MismatchError, match=r"embed\.weight, head\.weight share memory"):
        ec.load_model(model, path, strict)
    assert model.embed.weight.equal(before["embed.weight"])


def test_a_nan_in_tied_tensors_is_no_difference(path):
    nan = torch.full((12, 8), torch.nan)
    ec.save_file({"embed.weight": nan, "head.weight": nan}, path)
    assert ec.load_model(Tied(), path).head.weight.isnan().all()


def test_views_of_one_memory_load_where_they_agree(path):
    model, fresh = Fused(), Fused()
    ec.save_file(model, path)
    assert same(ec.load_model(fresh, path), model)
    stored = ec.load_file(path)
    stored["k"] += 1
    ec.save_file(stored, path)
    with pytest.raises(MismatchError, match="fused, k, q, v share memory"):
        ec.load_model(fresh, path)
    del stored["k"]
    ec.save_file(stored, path)
    with pytest.raises(MismatchError, match="k is missing"):  # another shape is no tie
        ec.load_model(fresh, path)


def test_a_model_that_does_not_tie_needs_both_names(path):
    ec.save_file(Tied(), path)
    untied = Tied()
    untied.head.weight = nn.Parameter(torch.zeros(12, 8))
    assert ec.load_model(untied, path).head.weight.equal(untied.embed.weight)
    ec.save_file({"embed.weight": torch.ones(12, 8)}, path)
    with pytest.raises(MismatchError, match=r"head\.weight is missing"):
        ec.load_model(untied, path)


@pytest.mark.parametrize("build", [Tied, Normed, lambda: nn.LSTM(3, 4)])
def test_a_model_on_meta_gets_the_tensors_of_the_file(build, path):
    model = build()
    ec.save_file(model, path)
    with torch.device("meta"):
        fresh = build()
    assert same(ec.load_model(fresh, path), model)
    for (_, mine), (_, own) in zip(
        fresh.named_parameters(), model.named_parameters(), strict=True
    ):  # ties too: they make one name less
        assert type(mine) is nn.Parameter
        assert mine.requires_grad == own.requires_grad


@pytest.mark.parametrize("kept", ["embed.weight", "head.weight"])
@pytest.mark.parametrize("network", [Tied, TiedByMemory])
def test_a_tied_model_on_meta_stays_tied(network, kept, path):
    with torch.device("meta"):
        fresh = network()
    ec.save_file({kept: torch.ones(12, 8)}, path)
    ec.load_model(fresh, path)
    fresh.head.weight.data.zero_()
    assert not fresh.embed.weight.any()


def test_views_on_meta_are_refused(path):
    ec.save_file(Fused(), path)
    with torch.device("meta"):
        fresh = Fused()
    with pytest.raises(MismatchError, match="fused, k, q, v are views of one memory on meta"):
        ec.load_model(fresh, path)


def test_one_layer_on_meta_is_assigned_and_the_others_keep_their_parameters(path):
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    ec.save_file(model, path)
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2, device="meta"))
    kept = fresh[0].weight
    assert same(ec.load_model(fresh, path), model)
    assert fresh[0].weight is kept


def test_what_would_stay_on_meta_is_named(path):
    ec.save_file(nn.Linear(3, 2), path)
    model = nn.Linear(3, 2, device="meta")
    model.register_buffer("angles", torch.empty(2, device="meta"), persistent=False)
    with pytest.raises(MismatchError, match="angles is on meta"):
        ec.load_model(model, path)
    assert model.weight.is_meta
    model.angles = torch.zeros(2)
    assert not ec.load_model(model, path).weight.is_meta


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_lazy_modules_get_their_shapes(device, path):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    model(torch.randn(5, 3))
    ec.save_file(model, path)
    with torch.device(device):
        fresh = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    ec.load_model(fresh, path)
    inputs = torch.randn(6, 3)
    assert fresh.eval()(inputs).equal(model.eval()(inputs))


def test_a_lazy_module_keeps_its_dtype(path):
    ec.save_file(nn.Linear(3, 2).half(), path)
    with pytest.raises(MismatchError, match=r"weight is float16 \(2, 3\), the model expects"):
        ec.load_model(nn.LazyLinear(2), path)


def test_extra_state_comes_back_or_is_refused(path):
    ec.save_file(nn.Sequential(Scaled([5.0, 2.0])), path)
    assert ec.load_model(nn.Sequential(Scaled(1.0)), path)[0].factor == [5.0, 2.0]
    ec.save_file(nn.Sequential(nn.Linear(2, 2)), path)
    with pytest.raises(MismatchError, match=r"0\._extra_state is missing"):
        ec.load_model(nn.Sequential(Scaled(1.0)), path)


@pytest.fixture
def process_group():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(net):
    return torch.compile(net, backend="eager")


WRAPPERS = {
    "compile": compiled,
    "data parallel": nn.DataParallel,
    "DDP": DistributedDataParallel,
    "layer": lambda net: nn.Sequential(compiled(net[0]), net[1]),
    "both": lambda net: nn.DataParallel(compiled(net)),
    "twice": lambda net: compiled(nn.Sequential(nn.DataParallel(net[0]), net[1])),
}


@pytest.mark.filterwarnings("ignore:.*is stored as it trains")  # into a prepared network
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # dynamo's own
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS.keys())
@pytest.mark.parametrize("prepared", [False, True])
def test_wrappers_leave_no_trace_in_names(wrap, prepared, path, process_group):
    def build():
        net = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2))
        return ec.prepare(net) if prepared else net

    model = build()
    plain = save(model)
    wrapped = wrap(model)
    ec.save_file(wrapped, path)
    assert path.read_bytes() == plain
    assert rate_bits(wrapped) == rate_bits(model)
    loaded, fresh = ec.load_model(build(), path), build()
    ec.load_model(wrap(fresh), path)
    assert same(fresh, loaded)
    ec.save_file(dict(wrapped.state_dict()), path)  # names with their wrappers
    ec.load_model(wrap(fresh), path)
    assert same(fresh, model)


def test_modules_that_are_only_called_like_wrappers_keep_their_names(path):
    model = nn.ModuleDict({"module": nn.Linear(2, 2), "_orig_mod": nn.Linear(2, 2)})
    ec.save_file(model, path)
    assert ec.load_file(path).keys() == model.state_dict().keys()


def test_a_name_with_and_without_its_wrapper_is_refused(path):
    model = nn.DataParallel(nn.Linear(2, 2))
    model.register_buffer("bias", torch.zeros(2))
    with pytest.raises(MismatchError, match="DataParallel wraps a module that has the names"):
        ec.save_file(model, path)
    ec.save_file({"module.bias": torch.ones(2), "bias": torch.zeros(2)}, path)
    with pytest.raises(MismatchError, match="both their plain and their wrapped names"):
        ec.load_model(nn.DataParallel(nn.Linear(2, 2)), path, strict=False)


def test_a_plain_file_starts_a_prepared_model_as_a_plain_checkpoint_does(path):
    torch.manual_seed(0)
    plain, model = nn.Linear(30, 20), ec.prepare(nn.Linear(30, 20))
    ec.save_file(plain, path)
    ec.load_model(model, path)
    other = ec.prepare(nn.Linear(30, 20))
    other.load_state_dict(plain.state_dict())
    assert same(model, other)
    assert save(model) == save(other)


@pytest.mark.filterwarnings("ignore:.*is stored as it trains")  # into a prepared network
@pytest.mark.parametrize("freeze", [False, True])
def test_all_of_a_prepared_model_comes_back_or_nothing(freeze, path):
    model, fresh = ec.prepare(nn.Linear(30, 20)), ec.prepare(nn.Linear(30, 20))
    if freeze:
        freeze_symbols(model)
    state = dict(model.state_dict())
    ec.save_file(state, path)
    assert same(ec.load_model(fresh, path), model)
    del state["weight_log_gaps"]
    ec.save_file(state, path)
    with pytest.raises(MismatchError, match="weight_log_gaps is missing"):
        ec.load_model(fresh, path)


def test_nothing_in_common_is_an_error_even_where_names_may_differ(path):
    ec.save_file({"model.weight": torch.ones(2, 2)}, path)
    with pytest.raises(MismatchError, match="no name of Linear is in it"):
        ec.load_model(nn.Linear(2, 2), path, strict=False)


def test_many_differences_are_one_readable_line(path):
    ec.save_file({f"a{at}": torch.ones(1) for at in range(500)}, path)
    with pytest.raises(MismatchError, match=r"and 492 more$"):
        ec.load_model(nn.Linear(2, 2), path)


def inference():
    with torch.inference_mode():
        return torch.zeros(2)


def fake():
    with FakeTensorMode():
        return torch.zeros(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.ones(1).expand(2), "scale is expanded"),
        (lambda: torch.ones(2).to_sparse(), r"scale is a torch\.sparse_coo Tensor"),
        (inference, "scale was made in inference mode"),
        (fake, r"scale is a torch\.strided FakeTensor"),
        (lambda: torch.ones(2).half(), "scale is float32"),
    ],
    ids=["expanded", "sparse", "inference", "fake", "half"],
)
def test_tensors_that_cannot_be_written_to_are_named(make, message, path):
    model = nn.Linear(2, 2, bias=False)
    ec.save_file({"weight": torch.ones(2, 2), "scale": torch.ones(2)}, path)
    model.register_buffer("scale", make())
    with pytest.raises(MismatchError, match=message):
        ec.load_model(model, path)
    assert not (model.weight == 1).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_model_is_saved_and_loaded(path):
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    ec.save_file(torch.jit.script(model), path)
    assert path.read_bytes() == save(model)
    fresh = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert same(ec.load_model(fresh, path), model)


def test_memory_formats_and_strides_of_the_model_stay(path):
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    ec.save_file(model, path)
    fresh = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert same(ec.load_model(fresh, path), model)
    assert fresh.weight.is_contiguous(memory_format=torch.channels_last)
    transposed = nn.Linear(3, 4)
    transposed.weight = nn.Parameter(torch.zeros(3, 4).t())
    linear = nn.Linear(3, 4)
    ec.save_file(linear, path)
    assert same(ec.load_model(transposed, path), linear)
    assert transposed.weight.stride() == (1, 4)


class Kernel(nn.Linear):
    """Its checkpoints call the weight "kernel"."""

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "kernel"] = destination.pop(prefix + "weight")

    def _load_from_state_dict(self, state, prefix, *rest):
        state[prefix + "weight"] = state.pop(prefix + "kernel")
        super()._load_from_state_dict(state, prefix, *rest)


def kernels():
    torch.manual_seed(0)
    return nn.Sequential(Kernel(8, 6), nn.ReLU(), Kernel(6, 4))


def test_a_prepared_weight_is_stored_under_the_name_that_its_module_gives_it(path):
    net, inputs = ec.prepare(kernels()).eval(), torch.randn(5, 8)
    ec.save_file(net, path)
    assert ec.load_file(path).keys() == kernels().state_dict().keys()
    fresh = ec.load_model(kernels(), path)
    assert torch.equal(fresh(inputs), net(inputs))
    assert same(ec.convert(net), fresh)


def hooked(change):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    net[0].weight.data[3:] = 0
    net = ec.prepare(net)

    def hook(module, state, prefix, local_metadata):
        change(state)

    net.register_state_dict_post_hook(hook)
    return net


def test_a_hook_that_renames_all_is_followed(path):
    def rename(state):
        for name in list(state):
            state["net." + name] = state.pop(name)

    net, inputs = hooked(rename), torch.randn(5, 4)
    assert remove_dead_units(net) == 5
    ec.save_file(net, path)
    stored = ec.load_file(path)
    assert stored.keys() == {f"net.{at}.{name}" for at in (0, 2) for name in ("weight", "bias")}
    assert stored["net.0.weight"].shape == (8, 4)  # with its dead units
    plain = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plain.load_state_dict({name.removeprefix("net."): value for name, value in stored.items()})
    torch.testing.assert_close(plain(inputs), net.eval()(inputs))


def test_a_hook_that_copies_is_followed(path):
    def copies(state):
        state.update({name: value.detach().clone() for name, value in state.items()})

    net = hooked(copies)
    ec.save_file(net, path)
    assert torch.equal(ec.load_file(path)["0.weight"], net[0].weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("2.weight"), r"2\.weight is constrained.* does not have it"),
        (
            lambda state: state.update({"2.weight": 2 * state["2.weight"]}),
            r"2\.weight is constrained.* has something else under its name",
        ),
    ],
    ids=["dropped", "changed"],
)
def test_a_constrained_weight_that_the_state_dict_hides_is_refused(change, message, path):
    net = hooked(change)
    with pytest.raises(MismatchError, match=message):
        ec.save_file(net, path)
    assert not path.exists()


class Versioned(nn.Module):
    """The first version had its weight transposed."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.inner, self.w = nn.Linear(2, 2), nn.Parameter(torch.randn(4, 4))

    def _load_from_state_dict(self, state, prefix, local_metadata, *rest):
        if local_metadata.get("version", 1) < 2 and prefix + "w" in state:
            state[prefix + "w"] = state[prefix + "w"].t()
        super()._load_from_state_dict(state, prefix, local_metadata, *rest)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_module_does_not_migrate_what_its_own_version_wrote(device, path):
    model = nn.Sequential(Versioned(), nn.BatchNorm1d(4))
    ec.save_file(model, path)
    fresh = nn.Sequential(Versioned(), nn.BatchNorm1d(4))
    fresh[0].to(device)
    kept = fresh[1].weight
    assert same(ec.load_model(fresh, path), model)
    assert fresh[1].weight is kept  # what is not on meta is written to
    fresh.load_state_dict({"0.w": model[0].w}, strict=False)
    assert torch.equal(fresh[0].w, model[0].w.t())  # a state without versions migrates still
