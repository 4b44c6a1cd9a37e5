import copy

import pytest
import torch
from torch import nn

import ectorch as ec
from ectorch.errors import ConfigError, MismatchError, UnsupportedLayerError
from ectorch.posttrain.quantize import quantize
from ectorch.storage.files import save


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


def mlp():
    return seeded(lambda: nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 10)))


def convnet():
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, groups=16, padding=1),
            nn.Conv2d(16, 24, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(24, 12, 2, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(12, 5),
        )
    )


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 24)
        self.gru = nn.GRU(24, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.attend = nn.MultiheadAttention(64, 4, batch_first=True)
        self.cell = nn.LSTMCell(64, 24)
        self.head = nn.Linear(24, 50)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x, _ = self.gru(self.embed(tokens))
        x, _ = self.attend(x, x, x)
        h, c = self.cell(x[:, 0])
        h, _ = self.cell(x[:, 1], (h, c))
        return self.head(h)


NETWORKS = {
    "mlp": (mlp, lambda seed=0: draw(256, 40, seed=seed)),
    "convnet": (convnet, lambda seed=0: draw(64, 3, 8, 8, seed=seed)),
    "words": (
        lambda: seeded(Words),
        lambda seed=0: torch.randint(
            0, 50, (128, 6), generator=torch.Generator().manual_seed(seed)
        ),
    ),
}


def apart(one, other, x):
    with torch.no_grad():
        return float((one(x) - other(x)).square().mean() / other(x).square().mean())


@pytest.mark.parametrize("data", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_has_the_size_and_the_network_its_numbers(name, data, tmp_path):
    make, inputs = NETWORKS[name]
    before = make()
    model = copy.deepcopy(before)
    pointers = {n: p.data_ptr() for n, p in model.named_parameters()}
    target = ec.SizeMeter(lambda net: net)(before).total // 7
    report = quantize(model, [inputs()] if data else None, target_bytes=target)
    assert 0.97 * target <= report.size_bytes <= target
    assert ec.save_model(model, tmp_path / "model.ect") == report.size_bytes
    assert {n: p.data_ptr() for n, p in model.named_parameters()} == pointers
    loaded, x = make(), inputs(1)
    ec.load_model(loaded, tmp_path / "model.ect")
    assert apart(loaded, model, x) == 0
    assert apart(model, before, x) < 0.5
    assert {layer.name for layer in report.layers} == set(model.state_dict())
    assert sum(layer.size_bytes for layer in report.layers) < report.size_bytes


def test_data_makes_it_better_at_the_same_size():
    before = seeded(lambda: nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)))
    mixed = draw(64, 64, seed=9) * torch.logspace(-1.5, 0.5, 64)
    x, y = draw(2048, 64, seed=1) @ mixed, draw(512, 64, seed=2) @ mixed
    found = {}
    for data in (None, x[:128], x):
        model = copy.deepcopy(before)
        quantize(model, data, target_bytes=5000)
        found[0 if data is None else len(data)] = apart(model, before, y)
    assert found[2048] < 0.75 * found[0]
    assert found[128] < 0.75 * found[0]


@pytest.mark.parametrize("feedback", [False, True])
def test_biases_take_over_the_mean(feedback):
    before = seeded(lambda: nn.Linear(60, 4))
    x = draw(512, 60) + 2  # of a mean that is far from 0
    found = {}
    for corrects in (False, True):
        model = copy.deepcopy(before)
        how = {"feedback": feedback, "correct_biases": corrects}
        report = quantize(model, x, target_bytes=130, keep=[], **how)
        roads = {layer.name: layer.road for layer in report.layers}
        assert roads["weight"] == ("feedback" if feedback else "measured")
        with torch.no_grad():
            found[corrects] = float((model(x) - before(x)).mean(0).square().mean())
    assert found[True] < found[False]


def test_the_same_bytes_each_time():
    files = []
    for _ in range(2):
        model = mlp()
        quantize(model, draw(256, 40), target_bytes=1500)
        files.append(save(model))
    assert files[0] == files[1]


def test_every_way_to_ask_for_a_size():
    numbers = sum(p.numel() for p in mlp().parameters())
    sizes = [
        quantize(mlp(), **{name: value}).size_bytes
        for name, value in (
            ("target_bytes", numbers / 2),
            ("target_ratio", 8),
            ("target_bits_per_weight", 4),
        )
    ]
    assert sizes[0] == sizes[1] == sizes[2]


def test_a_quality_is_kept_and_a_stricter_one_costs_more():
    before, x = mlp(), draw(512, 40, seed=3)
    with torch.no_grad():
        labels = before(x).argmax(1)

    def agreement(model):
        with torch.no_grad():
            return float((model(x).argmax(1) == labels).float().mean())

    sizes = []
    for floor in (0.6, 0.95):
        model = mlp()
        report = quantize(model, quality=agreement, floor=floor)
        assert agreement(model) == report.quality >= floor
        sizes.append(report.size_bytes)
    assert sizes[0] < sizes[1]


def test_the_loss_increases_by_no_more_than_asked():
    x = draw(256, 40)
    report = quantize(mlp(), x, max_loss_increase=0.01, divergence="kl")
    assert 0.005 < report.divergence <= 0.01


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_the_one_that_was_judged(name):
    make, inputs = NETWORKS[name]
    model, judged, x = make(), [], inputs(1)

    def quality(network):
        with torch.no_grad():
            judged.append(network(x))
        return 1.0 if len(judged) < 3 else 0.0

    quantize(model, [inputs()], quality=quality, floor=0.5)
    with torch.no_grad():
        assert torch.equal(model(x), judged[-1])


def test_what_is_kept_stays_bit_for_bit():
    model, before = mlp(), mlp()
    report = quantize(model, target_bytes=4000, keep=["2.*"])
    units = before[2].weight.sort().values  # they may come in another order
    assert torch.equal(model[2].weight.sort().values, units)
    assert model[0].weight.unique().numel() < before[0].weight.numel() / 4
    assert {layer.road for layer in report.layers if layer.name.startswith("2")} == {
        "kept by its name"
    }
    with pytest.raises(ConfigError, match=r"no parameter matches 'nothing\*'"):
        quantize(mlp(), target_bytes=4000, keep=["nothing*"])


def test_layers_that_the_batches_do_not_reach_are_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(40, 16), nn.Linear(40, 16)

        def forward(self, x):
            return self.used(x)

    model, before = seeded(Two), seeded(Two)
    report = quantize(model, draw(128, 40), target_bits_per_weight=5)
    roads = {layer.name: layer.road for layer in report.layers}
    assert roads["used.weight"] == "feedback"
    assert roads["unused.weight"] == "data-free"
    error = (model.unused.weight - before.unused.weight).square().sum()
    assert error < 0.05 * before.unused.weight.square().sum()


def test_a_layer_that_dies_is_named():
    model = mlp()
    with pytest.warns(RuntimeWarning, match=r"^0\.weight.*no nonzero is left"):
        quantize(model, target_bytes=150)


class Odd(nn.Module):
    """A weight of two convolutions of other groups, and an embedding that no gradient reaches."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.one, self.other = nn.Conv1d(8, 8, 1), nn.Conv1d(64, 8, 1, groups=8)
        self.other.weight = self.one.weight

    def forward(self, tokens):
        with torch.no_grad():
            x = self.embed(tokens).movedim(-1, 1)
        return self.other(self.one(x).repeat(1, 8, 1))


def test_what_is_read_in_two_ways_or_without_a_gradient_is_only_measured():
    tokens = torch.randint(0, 20, (64, 5), generator=torch.Generator().manual_seed(0))
    report = quantize(seeded(Odd), tokens, target_bits_per_weight=7)
    roads = {layer.name: layer.road for layer in report.layers}
    assert roads["embed.weight"] == roads["one.weight"] == "measured"


def test_half_precision_and_frozen_parameters():
    model = mlp().to(torch.bfloat16)
    model[0].weight.requires_grad_(False)
    report = quantize(model, draw(128, 40).to(torch.bfloat16), target_bytes=1500)
    assert report.size_bytes <= 1500
    assert model[0].weight.dtype == torch.bfloat16
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad
    assert model[2].weight.grad is None


def bad_batches(model):
    return {
        "wrong shape": (draw(8, 39), r"does not run on them.*39"),
        "no examples": ([], "expected inputs"),
        "NaN": (torch.full((4, 40), torch.nan), "NaN or infinity"),
        "labels too": ([[draw(8, 40), torch.zeros(8)]], "inputs alone"),
        "no batches": (7, "batches = 7"),
    }


@pytest.mark.parametrize("case", [*bad_batches(None)])
def test_bad_batches_are_one_line_and_nothing_changes(case):
    model = mlp().train()
    before = copy.deepcopy(model.state_dict())
    batches, words = bad_batches(model)[case]
    with pytest.raises(ConfigError, match=words) as raised:
        quantize(model, batches, target_bytes=2000)
    assert "\n" not in str(raised.value)
    assert model.training
    assert model[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_numbers_that_are_none_are_named():
    model = mlp()
    with torch.no_grad():
        model[2].weight[3, 3] = torch.inf
    with pytest.raises(UnsupportedLayerError, match=r"^2\.weight holds NaN or infinity$"):
        quantize(model, target_bytes=2000)


def test_a_size_below_the_smallest_file():
    model, before = mlp().train(), mlp()
    with pytest.raises(MismatchError, match=r"smallest file .* takes [0-9]+ bytes, 20 were"):
        quantize(model, target_bytes=20)
    assert torch.equal(model[0].weight, before[0].weight)
    assert model.training


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "expected one of"),
        ({"target_bytes": 100, "target_ratio": 3}, "expected one of"),
        ({"target_bytes": -4}, "target_bytes = -4"),
        ({"target_ratio": "x"}, "expected a number"),
        ({"quality": len}, "quality and floor go together"),
        ({"floor": 0.5, "target_bytes": 100}, "quality and floor go together"),
        ({"quality": 0.9, "floor": 0.9}, "expected a function of a network"),
        ({"max_loss_increase": 0.1}, "measured on batches"),
        ({"target_bytes": 2000, "divergence": "l2"}, "expected one of mse, kl, cosine"),
        ({"quality": lambda net: 0.1, "floor": 0.5}, "float network has not the quality"),
    ],
)
def test_what_is_asked_for_is_checked(asked, words):
    with pytest.raises(ec.EctorchError, match=words):
        quantize(mlp(), **asked)


def test_prepared_networks_and_no_networks_are_refused():
    with pytest.raises(ConfigError, match=r"prepared: ectorch\.finalize"):
        quantize(ec.prepare(mlp()), target_bytes=2000)
    with pytest.raises(ConfigError, match=r"expected a torch\.nn\.Module"):
        quantize(mlp().state_dict(), target_bytes=2000)
    with pytest.raises(ConfigError, match="no tensor that could be rounded"):
        quantize(nn.Sequential(nn.ReLU()), target_bytes=2000)


def test_an_output_without_floats_asks_which_to_compare():
    class Labels(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            return {"label": self.inner(x).argmax(1), "all": [self.inner(x)]}

    report = quantize(Labels(), draw(64, 40), target_bytes=2000)
    assert report.divergence > 0

    class Only(Labels):
        def forward(self, x):
            return self.inner(x).argmax(1)

    with pytest.raises(ConfigError, match="no tensor of floats"):
        quantize(Only(), draw(64, 40), target_bytes=2000)


def test_it_goes_on_training_from_its_grid():
    model, x = mlp(), draw(256, 40)
    report = quantize(model, x, target_bytes=1500)
    with torch.no_grad():
        expected = model(x)
    ec.prepare(model, report.config())
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert len(save(ec.finalize(model))) == report.size_bytes
