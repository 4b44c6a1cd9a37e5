"""A user's own network and data through every command: train, sweep, report, eval, compare."""

import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import safetensors.torch
import torch

import ectorch as ec
from ectorch.experiments import data as data_sets
from ectorch.experiments.build import make_network

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.1)
        self.hidden = nn.Linear(8 * 5 * 6, 16)
        self.out = nn.Linear(16, 4)

    def forward(self, images):
        maps = torch.max_pool2d(torch.relu(self.norm(self.conv(images))), 2)
        maps = self.drop(maps.view(maps.size(0), -1))
        return self.out(torch.relu(self.hidden(maps)))

def rows(): return nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))

class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(9, 6), nn.Linear(6, 2)

    def forward(self, numbers): return self.out(self.embed(numbers).mean(1))
"""
DATA = """
import torch

def images():  # a bright patch, in one of the quarters
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (600, 3, 10, 12), generator=draw)
    labels = torch.randint(0, 4, (600,), generator=draw)
    for image, label in zip(images, labels.tolist()):
        image[:, 5 * (label // 2):, 6 * (label % 2):][:, 1:4, 1:5] += 150
    images = images.to(torch.uint8)
    return (images[:450], labels[:450]), (images[450:], labels[450:])

def rows():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randn(300, 5, generator=draw)
    labels = inputs[:, :3].argmax(1)
    return (inputs[:240], labels[:240]), (inputs[240:], labels[240:])

def tokens():
    draw = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 9, (300, 7), generator=draw)
    labels = (inputs.sum(1) > 28).long()
    return (inputs[:240], labels[:240]), (inputs[240:], labels[240:])

def changing(): return [(torch.rand(40, 3, 10, 12, generator=GENERATOR), torch.arange(40) % 4)] * 2

GENERATOR = torch.Generator()
"""
RECIPE = """
name = "own"
network = "own_net:Net"
data = "own_data:images"
threads = 1
[augment]
flip = false
shift = 0.5
[pretrain]
epochs = 4
batch = 50
[constrain]
epochs = 4
batch = 50
lr = 4e-3
alpha = 0.05
[constrain.config]
bias = "grid"
"""
NAMES = ("--network", "own_net:Net", "--data", "own_data:images")


@contextmanager
def current_folder(folder):
    """``folder`` with the modules and the recipe above, as the current one."""
    for name, text in (("own_net.py", NETWORK), ("own_data.py", DATA), ("own.toml", RECIPE)):
        (folder / name).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "path", [*sys.path])
        yield folder
        for name in ("own_net", "own_data"):
            sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def folder(tmp_path):
    with current_folder(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of the recipe above."""
    from ectorch.experiments.recipe import read_recipe
    from ectorch.experiments.training import train

    with current_folder(tmp_path_factory.mktemp("trained")) as folder:
        train(read_recipe("own.toml"), folder / "run")
    return folder / "run"


def result_of(folder):
    return json.loads((Path(folder) / "result.json").read_text())


def test_a_run_that_is_stopped_goes_on_to_the_same_bytes(run, monkeypatch, trained):
    from ectorch.cli import train as command

    @contextmanager
    def stop():
        steps = iter([False] * 55 + [True])
        yield lambda: next(steps)

    with monkeypatch.context() as patch:
        patch.setattr(command, "stop_on_signal", stop)
        assert run("train", "own.toml", "--out", "run")[0] == 130
    assert Path("run/checkpoint.pt").exists()
    code, text, _ = run("train", "own.toml", "--out", "run")
    assert code == 0
    assert Path("run/model.ect").read_bytes() == (trained / "model.ect").read_bytes()
    result = result_of("run")
    assert (result["network"], result["data"]) == ("own_net:Net", "own_data:images")
    assert result["decoded_error_percent"] < 20
    assert result["warning"] is None
    assert f"{result['file_bytes']:,}" in text


def test_its_file_is_evaluated_and_compared(run, trained):
    code, text, _ = run("eval", trained / "model.ect", *NAMES, "--json")
    assert code == 0
    record, result = json.loads(text), result_of(trained)
    assert record["network"] == "own_net:Net"
    assert record["predictions_sha256"] == result["predictions_sha256"]
    assert record["error_percent"] == result["decoded_error_percent"]
    files = trained / "model.ect", trained / "float.safetensors"
    assert "hidden.weight" in run("compare", *files)[1]
    code, text, _ = run("eval", trained / "float.safetensors", *NAMES)
    assert "error on 150 images of own_data:images" in text


def test_a_sweep_has_a_report_that_runs_no_code_unless_it_is_named(run):
    recipe = Path("own.toml").read_text().replace("own_net:Net", "lenet-300-100")
    Path("other.toml").write_text(recipe.replace("own_data:images", "digits"))
    sweep = ("sweep", "other.toml", *NAMES, "--points", "2", "--out", "curve")
    code, text, _ = run(*sweep)
    assert code == 0
    assert "holdout 75 training examples of own_data:images" in text
    sys.modules.pop("own_net")
    code, text, _ = run("report", "curve", "--out", "page.html")
    assert code == 0
    assert "own_net" not in sys.modules
    assert "measured with --network own_net:Net --data own_data:images, which runs" in text
    assert "own_net:Net on own_data:images, held-out error" in Path("page.html").read_text()
    assert not Path("curve/baselines.json").exists()
    assert run("report", "curve", "--out", "page.html", *NAMES)[0] == 0
    rows = json.loads(Path("curve/baselines.json").read_text())
    assert {row["network"] for row in rows} == {"own_net:Net"}
    assert "int8 + zstd" in Path("page.html").read_text()


def test_a_report_runs_no_code_that_a_recipe_in_it_names(run, trained):
    shutil.copytree(trained, "run")
    result = result_of("run") | {"network": "lenet-300-100", "data": "digits"}
    Path("run/result.json").write_text(json.dumps(result))
    Path("own_data.py").write_text("raise SystemExit('ran')")
    code, _, err = run("report", "run", "--out", "page.html")
    assert (code, "conv.weight" in err, "ran" in err) == (2, True, False)  # no LeNet in the file


@pytest.mark.parametrize("kind", ["rows", "tokens"])
def test_inputs_need_not_be_images(run, kind):
    network = {"rows": "own_net:rows", "tokens": "own_net:Tokens"}[kind]
    text = RECIPE.replace("shift = 0.5", "").replace("alpha = 0.05", "alpha = 0.001")
    text = text.replace("[pretrain]", "[pretrain]\nlr = 0.02").replace("batch = 50", "batch = 10")
    Path("own.toml").write_text(text)
    command = ("train", "own.toml", "--network", network, "--data", f"own_data:{kind}")
    assert run(*command, "--out", "run", "--holdout", "30")[0] == 0
    result = result_of("run")
    assert (result["network"], result["data"]) == (network, f"own_data:{kind}")
    assert result["decoded_error_percent"] < 45
    code, text, _ = run("eval", "run/model.ect", "--network", network, "--data", f"own_data:{kind}")
    assert (code, "error on 60 examples of" in text) == (0, True)
    assert run("report", "run", "--out", "page.html")[0] == 0


def test_it_starts_from_its_own_floats_and_a_teacher_of_its_own(run, trained):
    start = trained / "float.safetensors"
    text = RECIPE.replace("epochs = 4", "epochs = 1")
    text += f'[distill]\nteacher = "{start}"\nnetwork = "own_net:Net"\n'
    Path("own.toml").write_text(text)
    assert run("train", "own.toml", "--start", start, "--out", "run")[0] == 0
    assert result_of("run")["float_error_percent"] < 25


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (lambda own: own | {"more": torch.ones(1)}, "more"),
        (lambda own: {name: own[name] for name in own if name != "out.bias"}, "out.bias"),
        (lambda own: own | {"out.bias": torch.ones(5)}, "out.bias"),
    ],
    ids=["more", "fewer", "another shape"],
)
def test_a_start_that_does_not_fit_is_told_by_name(refusal, trained, tensors, said):
    own = safetensors.torch.load_file(trained / "float.safetensors")
    safetensors.torch.save_file(tensors(own), "start.safetensors")
    line = refusal("train", "own.toml", "--start", "start.safetensors", "--out", "run")
    assert line.startswith("ectorch: start: start.safetensors: ")
    assert said in line
    assert len(line) < 300
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--network", "no_such:make"), "network: no_such:make: no module no_such"),
        (("--network", "own_net:Nets"), "own_net has no Nets; Net?"),
        (("--network", "own_net:rows"), "own_net:rows in train mode, given inputs (4, 3, 10, 12)"),
        (("--network", "resnet"), "network: 'resnet' is unknown; resnet-20?, known: "),
        (("--network", "lenet-5-caffe"), "lenet-5-caffe takes images of (1, 28, 28), those of own"),
        (("--data", "own_data:rows"), "augment: inputs (n, 5) are no images"),
        (("--data", "own_data:row"), "own_data has no row; rows?"),
        (("--data", "digit"), "data: 'digit' is unknown; digits?, known: "),
        (("--holdout", "80"), "own_data:images has 450 training images, of which a sixth"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_what_does_not_fit_is_told_before_anything_is_written(refusal, command, arguments, said):
    assert said in refusal(command, "own.toml", *arguments, "--out", "run")
    assert not list(Path().glob("run/*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("bias = ", "include = ['fc9.*']\nbias = "), "fc9.*"),
        (("batch = 50\nlr", "batch = 500\nlr"), "batch of 500 from 450 images"),
        (("shift = 0.5", "crop = 10"), "augment.crop = 10: images are 10 x 12"),
    ],
)
def test_a_stage_that_cannot_be_is_told_before_any_training(refusal, change, said):
    Path("own.toml").write_text(RECIPE.replace(*change))
    assert said in refusal("train", "own.toml", "--out", "run")
    assert not Path("run").exists()


def test_eval_asks_for_the_name_of_a_network_that_is_not_known(refusal, trained):
    model = trained / "model.ect"
    assert "name one of your own" in refusal("eval", model, "--data", "own_data:images")
    line = refusal("eval", model, "--network", "own_net:rows", "--data", "own_data:rows")
    assert "model.ect: " in line
    assert "conv.weight" in line


def test_a_loader_that_gives_other_tensors_does_not_go_on(refusal, run, monkeypatch):
    from ectorch.cli import train as command

    @contextmanager
    def stop():
        yield lambda: True

    Path("own.toml").write_text(RECIPE.replace("batch = 50", "batch = 10"))
    arguments = ("train", "own.toml", "--data", "own_data:changing", "--out", "run")
    with monkeypatch.context() as patch:
        patch.setattr(command, "stop_on_signal", stop)
        assert run(*arguments)[0] == 130
    assert "other tensors than own_data:changing gives now" in refusal(*arguments)


def test_files_are_read_without_commands(trained):
    model = ec.load_model(make_network("own_net:Net"), trained / "model.ect").eval()
    test = data_sets.load("own_data:images").test
    with torch.no_grad():
        wrong = (model(test.inputs.float() / 255).argmax(1) != test.labels).float().mean()
    assert 100 * wrong.item() == pytest.approx(result_of(trained)["decoded_error_percent"])
