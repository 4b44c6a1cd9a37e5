"""A write, a gradient or a hook on ``layer.weight`` after `prepare` is the Parameter's."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import ectorch as ec
from ectorch.constrain.modules import Constrained
from ectorch.workflow import freeze_symbols

# fine enough that what is written is read again within a hundredth
BESIDE = ("log_gaps", "lengths", "bits")
FINE = ec.Config(levels=255, reach=127, bias="float16")


def prepared(config=FINE, module=None):
    torch.manual_seed(0)
    module = nn.Linear(8, 6) if module is None else module
    return ec.prepare(nn.Sequential(module), config)


def parameter(model):
    return model[0]._parameters["weight"]


def fill(layer):
    with torch.no_grad():
        layer.weight.fill_(0.125)


def fill_data(layer):
    layer.weight.data.fill_(0.125)


def assign_data(layer):
    layer.weight.data = torch.full((6, 8), 0.125)


def copy_data(layer):
    layer.weight.data.copy_(torch.full((6, 8), 0.125))


def fill_detached(layer):
    layer.weight.detach().fill_(0.125)


def fill_item(layer):
    with torch.no_grad():
        layer.weight[:] = 0.125


def fill_views(layer):
    with torch.no_grad():
        for row in layer.weight:
            row.fill_(0.125)


def fill_flat(layer):
    layer.weight.data.view(-1).fill_(0.125)


def fill_split(layer):
    for half in layer.weight.detach().chunk(2):
        half.zero_().add_(0.125)


def fill_turned(layer):
    with torch.no_grad():
        layer.weight.T[:4].unflatten(0, (2, 2)).fill_(0.125)
        layer.weight.mT.narrow(0, 4, 4).squeeze().fill_(0.125)


def fill_views_data(layer):
    layer.weight[:3].data.fill_(0.125)
    layer.weight[3:].detach().reshape(-1).copy_(torch.full((24,), 0.125))


def fill_parameter(layer):
    with torch.no_grad():
        dict(layer.named_parameters())["weight"].fill_(0.125)


def fill_got(layer):
    layer.get_parameter("weight").data.fill_(0.125)


def add(layer):
    with torch.no_grad():
        layer.weight *= 0
        layer.weight += 0.125


def fill_constant(layer):
    nn.init.constant_(layer.weight, 0.125)


WRITES = [
    *(fill, fill_data, assign_data, copy_data, fill_detached, fill_item, fill_views, fill_flat),
    *(fill_split, fill_turned, fill_views_data, fill_parameter, fill_got, add, fill_constant),
]


@pytest.mark.parametrize("forward", ["nearest", "sampled", "moments"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_the_parameters(write, forward):
    model = prepared(ec.Config(levels=255, reach=127, bias="float16", forward=forward))
    own = parameter(model)
    write(model[0])
    assert parameter(model) is own
    assert own.tolist() == [[0.125] * 8] * 6
    assert own.is_leaf
    assert own.requires_grad
    read = model[0].weight
    assert (read - 0.125).abs().max() < 0.01
    assert not read.is_leaf


INITIALISERS = [
    nn.init.uniform_,
    nn.init.normal_,
    nn.init.ones_,
    nn.init.zeros_,
    nn.init.xavier_uniform_,
    nn.init.kaiming_normal_,
    nn.init.trunc_normal_,
    nn.init.orthogonal_,
    nn.init.dirac_,
    lambda weight: nn.init.sparse_(weight, 0.5),
]


@pytest.mark.parametrize("initialise", INITIALISERS)
def test_an_initialiser_starts_the_parameter(initialise):
    plain = nn.Conv1d(4, 4, 3) if initialise is nn.init.dirac_ else nn.Linear(8, 6)
    model = prepared(module=copy.deepcopy(plain))
    for layer in (plain, model[0]):
        torch.manual_seed(1)
        initialise(layer.weight)
    torch.testing.assert_close(parameter(model).detach(), plain.weight.detach(), atol=0, rtol=0)


@pytest.mark.parametrize("module", [nn.Linear(8, 6), nn.Conv2d(3, 4, 3), nn.LSTM(4, 5)])
def test_reset_parameters_resets(module):
    plain = copy.deepcopy(module)
    model = prepared(ec.Config(levels=255, reach=127), copy.deepcopy(module))
    for layer in (plain, model[0]):
        torch.manual_seed(1)
        layer.reset_parameters()
    state = model[0].state_dict()
    for name, value in plain.state_dict().items():
        assert state[name].equal(value)


def test_one_entry_moves_alone():
    model = prepared()
    before = parameter(model).detach().clone()
    with torch.no_grad():
        model[0].weight[2, 3] = 0.0
        model[0].weight.view(-1)[7].mul_(2)
    changed = (parameter(model) != before).nonzero().tolist()
    assert changed == [[0, 7], [2, 3]]


def test_views_write_where_the_parameter_is_by_then():
    model = prepared()
    with torch.no_grad():
        kept, row = model[0].weight, model[0].weight[1]
        detached = kept.detach()
        kept[0].fill_(0.125)
        parameter(model)[1:].fill_(0.5)  # an optimizer's step, say
        row.view(2, 4)[0].fill_(0.25)
        detached[2].zero_()
    for _ in range(2):
        assert parameter(model)[0].tolist() == [0.125] * 8
        assert parameter(model)[1].tolist() == [0.25] * 4 + [0.5] * 4
        assert not parameter(model)[2].any()
        assert parameter(model)[3:].tolist() == [[0.5] * 8] * 3
        kept = row = detached = None
    assert model.state_dict()["0.weight"].equal(parameter(model))


def test_views_show_what_was_written():
    weight = prepared()[0].weight.data
    row, turned = weight[1], weight.T
    row.fill_(0.125)
    assert row.tolist() == turned[:, 1].tolist() == weight[1].tolist() == [0.125] * 8


def test_writes_add_up_as_on_a_parameter():
    model, plain = prepared(), prepared()
    weight = parameter(plain)
    with torch.no_grad():
        for own in (model[0].weight, weight):
            own[0].mul_(2).add_(1)
            own.view(-1)[9:12].div_(3)
            own[:, [5]] = -1
            own.t()[4] //= 0.01
    assert parameter(model).equal(weight)


def test_what_was_written_is_what_is_converted():
    model = prepared()
    with torch.no_grad():
        kept = model[0].weight.view(-1)
        kept[:8].zero_()
    ec.convert(model)
    assert model[0].weight[0].tolist() == [0.0] * 8
    assert model[0].weight[1].all()


def test_a_write_that_autograd_would_track_is_an_error_as_on_a_parameter():
    model = prepared()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        model[0].weight.zero_()
    with pytest.raises(RuntimeError, match="leaf Variable"):
        model[0].weight[0, 0] = 1.0
    with pytest.raises(RuntimeError, match="view of a leaf Variable"):
        model[0].weight[0].zero_()
    assert parameter(model).count_nonzero() == 48


CHANGES_OF_SHAPE = [
    lambda weight: weight.t_(),
    lambda weight: weight.transpose_(0, 1),
    lambda weight: weight.unsqueeze_(0),
    lambda weight: weight.resize_(3, 3),
    lambda weight: weight.set_(torch.zeros(2)),
    lambda weight: weight.as_strided_((3,), (1,)),
]


@pytest.mark.parametrize("change", CHANGES_OF_SHAPE)
def test_what_would_change_the_memory_is_refused(change):
    model = prepared()
    before = parameter(model).detach().clone()
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"Linear\.weight is constrained"):
        change(model[0].weight)
    assert parameter(model).equal(before)


UNSEEN = [
    lambda weight: torch.full((6, 8), 0.125, out=weight),
    lambda weight: torch._foreach_zero_([weight]),
    lambda weight: torch.Tensor.mul_(weight, 2),
    lambda weight: torch.transpose(weight, 0, 1).zero_(),
]


@pytest.mark.parametrize("write", UNSEEN)
def test_a_write_that_does_not_ask_the_read_is_said_to_be_lost(write):
    model = prepared()
    before = parameter(model).detach().clone()
    with (
        torch.no_grad(),
        pytest.warns(UserWarning, match=r"Linear\.weight is constrained, and .*lost"),
    ):
        write(model[0].weight)
    assert parameter(model).equal(before)


@pytest.mark.filterwarnings("error")
def test_what_writes_nothing_is_silent():
    model = prepared()
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            model[0].weight[0].zero_()
            model[0].weight.t()[1].sum()
            copy.deepcopy(model)(torch.randn(2, 8))
        torch.autograd.grad(model(torch.randn(2, 8)).sum(), [parameter(model)])


@pytest.mark.parametrize("relaxation", ["categorical", "frozen"])
@pytest.mark.parametrize(
    "write", [fill, fill_data, assign_data, fill_item, fill_views, fill_flat, fill_constant]
)
def test_a_write_that_no_read_would_show_is_refused(relaxation, write):
    model = prepared(ec.Config(relaxation="categorical" if relaxation != "frozen" else "bracket"))
    if relaxation == "frozen":
        freeze_symbols(model)
    before = model.state_dict()
    with pytest.raises(RuntimeError, match=r"Linear\.weight: .* would be lost: "):
        write(model[0])
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


def test_the_gradient_is_the_parameters():
    model = prepared()
    assert model[0].weight.grad is None
    model(torch.randn(3, 8)).sum().backward()
    assert model[0].weight.grad is parameter(model).grad
    torch.nn.utils.clip_grad_norm_([model[0].weight], 1e-3)
    assert parameter(model).grad.norm() <= 1e-3
    model[0].weight.grad = None
    assert parameter(model).grad is None


def test_hooks_are_the_parameters():
    model, seen = prepared(), []
    handle = model[0].weight.register_hook(lambda gradient: gradient * 0)
    model[0].weight.register_post_accumulate_grad_hook(seen.append)
    model(torch.randn(3, 8)).sum().backward()
    assert seen == [parameter(model)]
    assert parameter(model).grad.count_nonzero() == 0
    handle.remove()
    model(torch.randn(3, 8)).sum().backward()
    assert parameter(model).grad.count_nonzero()


def test_requires_grad_is_of_the_parameter_and_its_codebook():
    model = prepared()
    model[0].weight.requires_grad_(False)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["0.bias"]
    assert not model[0].weight.requires_grad
    model[0].weight.requires_grad_()
    assert all(p.requires_grad for p in model.parameters())


def test_operations_give_plain_tensors():
    weight = prepared()[0].weight
    results = [weight + 1, weight[[0, 1]], weight.clone(), weight.double(), weight.t() @ weight]
    assert {type(result) for result in results} == {torch.Tensor}
    assert type(copy.deepcopy(weight)) is torch.Tensor
    assert isinstance(weight, nn.Parameter)


def test_reading_and_dropping_reads_moves_nothing():
    model = prepared()
    before = copy.deepcopy(model.state_dict())
    for training in (True, False):
        model.train(training)
        kept = [model[0].weight for _ in range(3)]
        with torch.no_grad():
            kept += [model[0].weight, model[0].weight.data, model[0].weight.detach()]
        model(torch.randn(3, 8)).sum().backward()
        del kept
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("relaxation", ["bracket", "categorical"])
def test_another_parameter_takes_the_name_and_its_codebook_starts_from_it(relaxation):
    model = prepared(ec.Config(levels=255, reach=127, relaxation=relaxation))
    new = nn.Parameter(100 * torch.randn(6, 8))
    model[0].weight = new
    assert parameter(model) is new
    assert (model[0].weight - new).abs().max() < 3
    assert torch.nn.utils.parameters_to_vector(model.parameters()).isfinite().all()


def test_another_parameter_is_refused_where_it_would_not_be_read():
    model = prepared(ec.Config(relaxation="categorical"))
    with pytest.raises(RuntimeError, match=r"shape \(2, 8\), and what its relaxation trains"):
        model[0].weight = nn.Parameter(torch.zeros(2, 8))
    freeze_symbols(model)
    with pytest.raises(RuntimeError, match="symbols are frozen"):
        model[0].weight = nn.Parameter(torch.zeros(6, 8))


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("relaxation", ["bracket", "categorical"])
def test_a_tie_after_prepare_takes_all_of_the_other(relaxation, freeze):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    ec.prepare(model, ec.Config(overrides={"1": {"relaxation": relaxation}}))
    if freeze:
        freeze_symbols(model)
    model[1].weight = model[0].weight
    assert model[1].weight.equal(model[0].weight)
    assert {n for n, _ in model[1].named_parameters() if "logits" in n and "weight" in n} == set()
    ec.convert(model)
    assert model[1].weight is model[0].weight
    assert [*model.state_dict()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


def test_a_bias_may_be_taken_away():
    model = prepared(ec.Config())
    model[0].bias = None
    assert model[0].bias is None
    assert [*model.state_dict()] == ["0.weight", *(f"0.weight_{s}" for s in BESIDE)]
    model(torch.randn(2, 8))
    assert [*ec.convert(model).state_dict()] == ["0.weight"]


def test_a_module_made_by_the_class_is_a_plain_one():
    fresh = type(prepared()[0])(8, 4)
    assert type(fresh.weight) is nn.Parameter
    assert fresh(torch.randn(2, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    "take", [lambda w: w, lambda w: w.detach(), lambda w: w.data, lambda w: w[0]]
)
@pytest.mark.parametrize("grad", [True, False])
def test_a_parameter_of_its_own_needs_memory_of_its_own(take, grad):
    model = prepared()
    with pytest.raises(RuntimeError, match=r"Linear\.weight is constrained: clone\(\)"):
        nn.Parameter(take(model[0].weight), requires_grad=grad)
    assert parameter(model).requires_grad
    own = nn.Parameter(take(model[0].weight).detach().clone(), requires_grad=grad)
    assert type(own) is nn.Parameter
    assert own.requires_grad is grad


def test_a_read_under_no_grad_is_used_with_gradients_later():
    model = prepared()
    with torch.no_grad():
        weight = model[0].weight
        with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor"):
            nn.Linear(8, 6).weight = weight
    (weight * 2).sum().backward()
    assert parameter(model).grad.unique().tolist() == [2.0]


def test_requires_grad_reads_and_sets():
    lstm = prepared(FINE, nn.LSTM(4, 4, bidirectional=True))
    lstm[0].weight_ih_l0.requires_grad = False
    for grad in (torch.enable_grad, torch.no_grad):
        with grad():
            assert not lstm[0].weight_ih_l0.requires_grad
            assert lstm[0].weight_ih_l0_reverse.requires_grad
    frozen = {name for name, p in lstm.named_parameters() if not p.requires_grad}
    assert frozen == {"0.weight_ih_l0", "0.weight_ih_l0_log_gaps"}


def test_notes_are_the_parameters():
    model = prepared()
    parameter(model).no_decay = True
    assert model[0].weight.no_decay
    model[0].weight.group = "a"
    assert parameter(model).group == "a"
    assert not hasattr(model[0].weight, "unknown")


@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.orthogonal,
        lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", nn.ReLU()),
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.random_structured(layer, "weight", 0.5, dim=0),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
def test_what_takes_the_parameter_away_is_refused_in_a_clear_word(wrap):
    model = prepared()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Exception, match="constrained"):
        wrap(model[0])
    assert {*before} == {*model.state_dict()}
    assert not model[0]._forward_pre_hooks
    assert all(before[name].equal(value) for name, value in model.state_dict().items())
    assert Constrained(model[0], "weight").hard().equal(model[0].weight.detach())


def test_deleting_a_constrained_parameter_is_refused():
    model = prepared()
    with pytest.raises(RuntimeError, match="constrained"):
        del model[0].weight
    assert parameter(model) is not None


def test_under_inference_mode_a_read_is_only_a_read():
    model = prepared()
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model[0].weight.equal(Constrained(model[0], "weight").hard())
