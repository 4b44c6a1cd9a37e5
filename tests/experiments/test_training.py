import json

import pytest
import safetensors.torch
import torch

import ectorch as ec
from ectorch.errors import RecipeError, TrainingError
from ectorch.experiments import data as data_sets
from ectorch.experiments.data import DataSet, Split
from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.networks import NETWORKS, identify
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.training import Interrupted, train
from ectorch.rewrite.units import remove_dead_units
from ectorch.storage.files import load

TABLE = {
    "name": "small",
    "network": "lenet-300-100",
    "data": "digits",
    "threads": 1,
    "pretrain": {"epochs": 2, "batch": 100},
    "constrain": {
        "epochs": 3,
        "batch": 100,
        "alpha": 0.02,
        "config": {"bias": "grid", "forward": "sampled", "reach": 3.0},
    },
    "finetune": {"epochs": 1, "batch": 100, "lr": 1e-4},
}
PARAMETERS = {
    "lenet-300-100": 266_610,
    "lenet-5-caffe": 431_080,
    "vgg-like": 14_987_210,
    "vgg-like-16": 939_770,
    "resnet-20": 269_722,
    "resnet-20-4": 4_286_026,
    "airbench-like": 1_972_802,
}
STEPS = {"pretrain": 30, "constrain": 45, "finetune": 15}


def train_in_parts(recipe, out, stops):
    """The file of a run that is interrupted after so many steps, and goes on each time."""
    steps = 0

    def count(progress):
        nonlocal steps
        steps += 1

    for stop in stops:
        with pytest.raises(Interrupted):
            train(recipe, out, count, lambda stop=stop: steps == stop)
    train(recipe, out, count)
    return (out / "model.ect").read_bytes()


def epochs_of(out, stage):
    """The records of a run's log that tell of an epoch of ``stage``."""
    records = map(json.loads, (out / "log.jsonl").read_text().splitlines())
    return [record for record in records if record.get("stage") == stage]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    return out, train(parse_recipe(TABLE), out)


def test_a_run_writes_a_small_file_that_still_knows_its_digits(finished):
    out, result = finished
    assert result["file_bytes"] == (out / "model.ect").stat().st_size < result["float_bytes"] / 10
    assert result["decoded_error_percent"] < 15
    assert result["file_bytes"] < 1.01 * result["estimate_bytes"] + 64
    assert json.loads((out / "result.json").read_text()) == result
    assert result["mdl_bytes"] == result["labels_bytes"] + result["file_bytes"]


def test_the_test_set_is_looked_at_once_and_that_is_logged(finished):
    out, result = finished
    records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [r["stage"] for r in records if "stage" in r] == ["pretrain"] * 2 + ["constrain"] * 3 + [
        "finetune"
    ]
    tests = [r for r in records if "evaluation_of" in r]
    assert [t["decoded_error_percent"] for t in tests] == [result["decoded_error_percent"]]
    assert result["evaluated_on"] == "test"
    assert not any(r["held_out"] for r in records if "stage" in r)


def test_a_run_that_holds_images_out_never_reads_the_test_set(tmp_path, monkeypatch):
    digits = data_sets.load("digits")
    blind = DataSet("digits", digits.train, Split(None, None))
    monkeypatch.setattr("ectorch.experiments.data.load", lambda _: blind)
    result = train(parse_recipe(TABLE | {"holdout": 200}), tmp_path)
    assert result["evaluated_on"] == "held-out"
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-2])
    assert last["held_out"]
    assert result["decoded_error_percent"] == last["error_percent"]


@pytest.mark.parametrize("stop", [5, 30, 46, 75, 80], ids=lambda n: f"after {n} steps")
def test_an_interrupted_run_resumes_to_the_same_bytes(finished, tmp_path, stop):
    steps = 0

    def count(progress):
        nonlocal steps
        steps += 1

    with pytest.raises(Interrupted):
        train(parse_recipe(TABLE), tmp_path, count, lambda: steps == stop)
    assert not (tmp_path / "model.ect").exists()
    train(parse_recipe(TABLE), tmp_path, count)
    assert steps == sum(STEPS.values())
    assert (tmp_path / "model.ect").read_bytes() == (finished[0] / "model.ect").read_bytes()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_finished_run_is_not_repeated(finished):
    def fail(progress):
        raise AssertionError("trained again")

    out, result = finished
    assert train(parse_recipe(TABLE), out, fail) == result


def test_a_folder_of_another_recipe_is_refused(finished):
    with pytest.raises(TrainingError, match=r"another recipe \(seed differ"):
        train(parse_recipe(TABLE | {"seed": 1}), finished[0])


def test_settings_of_a_stage_that_is_skipped_make_no_other_recipe(finished):
    out, result = finished
    assert TABLE.get("reduce") is None
    assert train(parse_recipe(TABLE | {"reduce": {"epochs": 0, "peak": 9.0}}), out) == result
    with pytest.raises(TrainingError, match=r"another recipe \(reduce differ"):
        train(parse_recipe(TABLE | {"reduce": {"epochs": 1}}), out)


def test_a_recipe_of_before_a_key_existed_has_its_default(finished, tmp_path):
    stored = finished[1] | {"recipe": dict(finished[1]["recipe"])}
    del stored["recipe"]["start"]
    (tmp_path / "result.json").write_text(json.dumps(stored))
    assert train(parse_recipe(TABLE), tmp_path) == stored
    stored["recipe"]["colour"] = 1
    (tmp_path / "result.json").write_text(json.dumps(stored))
    with pytest.raises(TrainingError, match="none now: colour: unknown key"):
        train(parse_recipe(TABLE), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_writes_no_file(tmp_path):
    diverging = TABLE | {"pretrain": {"epochs": 1, "lr": 1e30, "batch": 100}}
    with pytest.raises(TrainingError, match=r"pretrain step \d+: the loss is (nan|inf); lower lr"):
        train(parse_recipe(diverging), tmp_path)
    assert not (tmp_path / "model.ect").exists()


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_known_by_their_tensors(name):
    model = NETWORKS[name]()
    shapes = {key: tuple(t.shape) for key, t in model.state_dict().items()}
    assert identify(shapes) == name
    assert model(torch.zeros(2, *model.image_shape)).shape == (2, 10)
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == PARAMETERS[name]


def test_label_bits_are_the_code_length_of_the_labels():
    class Uniform(torch.nn.Module):
        def forward(self, images):
            return torch.zeros(len(images), 8)

    split = Split(torch.zeros(2500, 1, 28, 28, dtype=torch.uint8), torch.zeros(2500).long())
    result = evaluate(Uniform(), split)
    assert result.label_bits == pytest.approx(3 * 2500)
    assert result.error_percent == 0


def test_the_decoded_file_is_the_network_of_the_run(finished):
    out, result = finished
    model = NETWORKS["lenet-300-100"]()
    ec.load_model(model, out / "model.ect")
    test = evaluate(model.eval(), data_sets.load("digits").test)
    assert test.predictions_sha256 == result["predictions_sha256"]


@pytest.mark.parametrize("road", ["pruning", "cardinality"])
def test_a_road_reduces_first_and_resumes_in_it(road, tmp_path):
    table = TABLE | {"reduce": TABLE["constrain"] | {"config": {"lengths": road, "bias": "grid"}}}
    expected = train(parse_recipe(table), tmp_path / "whole")
    seen = []

    def stop():
        return len(seen) == 40  # in the reducing stage

    with pytest.raises(Interrupted):
        train(parse_recipe(table), tmp_path / "halves", seen.append, stop)
    assert seen[-1].stage == "reduce"
    result = train(parse_recipe(table), tmp_path / "halves")
    assert result["file_bytes"] == expected["file_bytes"]
    files = [(tmp_path / name / "model.ect").read_bytes() for name in ("whole", "halves")]
    assert files[0] == files[1]
    stages = [
        json.loads(line).get("stage")
        for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()
    ]
    assert stages[0] == "pretrain"
    assert "reduce" in stages


def test_batch_norms_of_the_decoded_network_are_those_of_the_hard_one(tmp_path, monkeypatch):
    class Normed(torch.nn.Sequential):
        image_shape = (1, 28, 28)

        def __init__(self):
            linear = torch.nn.Linear(784, 20), torch.nn.Linear(20, 10)
            flat, norm = torch.nn.Flatten(), torch.nn.BatchNorm1d(20)
            super().__init__(flat, linear[0], norm, torch.nn.ReLU(), linear[1])

    monkeypatch.setitem(NETWORKS, "normed", Normed)
    train(parse_recipe(TABLE | {"network": "normed"}), tmp_path)
    model = Normed()
    ec.load_model(model, tmp_path / "model.ect")
    images = data_sets.load("digits").train.inputs.float() / 255
    expected = torch.nn.BatchNorm1d(20, momentum=None)
    expected(model[1](model[0](images)))
    stored = dict(model[2].named_buffers())
    assert not stored["running_mean"].any()
    assert (stored["running_var"] == 1).all()
    # gain and offset were trained from 1 and 0: only the true statistics bring them back near
    gain = model[2].weight * (expected.running_var + 1e-5).sqrt()
    offset = model[2].bias + expected.running_mean * model[2].weight
    assert (gain - 1).abs().max() < 0.3
    assert offset.abs().max() < 0.3


def test_a_run_that_removes_units_resumes_to_the_same_bytes(tmp_path, monkeypatch):
    constrain = TABLE["constrain"] | {
        "alpha": 0.02,
        "rise": 0.2,
        "peak": 3.0,
        "fall": 0.2,
        "lr": 4e-3,
        "config": {"bias": "grid", "reach": 1.33},
    }
    table = TABLE | {
        "precision": "bfloat16",
        "augment": {"rotate": 5.0, "scale": 0.05, "shift": 1.0},
        "constrain": constrain,
    }
    removed = []

    def remove(*arguments, **settings):
        removed.append(remove_dead_units(*arguments, **settings))

    monkeypatch.setattr("ectorch.experiments.training.remove_dead_units", remove)
    result = train(parse_recipe(table), tmp_path / "whole")
    assert sum(removed) > 10
    whole = (tmp_path / "whole/model.ect").read_bytes()
    assert whole == train_in_parts(parse_recipe(table), tmp_path / "parts", (46, 62, 78))
    full = NETWORKS["lenet-300-100"]().state_dict()
    assert {k: t.shape for k, t in load(whole).items()} == {k: t.shape for k, t in full.items()}
    assert result["decoded_error_percent"] < 30


def test_a_run_starts_from_a_file_and_keeps_its_grid(finished, tmp_path):
    start = finished[0] / "model.ect"
    constrain = TABLE["constrain"] | {"alpha": 0.0, "lr": 1e-9, "codebook_lr": 1e-9}
    constrain["config"] = {**constrain["config"], "keep_grid": True}
    table = TABLE | {
        "start": str(start),
        "pretrain": {"epochs": 0},
        "constrain": constrain | {"epochs": 1, "remove_dead": False},
        "finetune": {"epochs": 0},
    }
    result = train(parse_recipe(table), tmp_path / "out")
    assert result["predictions_sha256"] == finished[1]["predictions_sha256"]
    assert result["float_error_percent"] == finished[1]["decoded_error_percent"]
    stored, written = ec.load_file(start), ec.load_file(tmp_path / "out/model.ect")
    assert all(torch.equal(stored[name], written[name]) for name in stored)


def test_a_start_of_no_epochs_is_put_on_grids_as_it_is(finished, tmp_path):
    none = {"epochs": 0}
    config = {"levels": 1023, "reach": 511.0}
    table = TABLE | {"pretrain": none, "constrain": none | {"config": config}, "finetune": none}
    start = finished[0] / "model.ect"
    result = train(parse_recipe(table | {"start": str(start)}), tmp_path)
    kept, given = ec.load_file(tmp_path / "model.ect"), ec.load_file(start)
    assert all(torch.allclose(kept[name], given[name], atol=0.01) for name in given)
    assert result["decoded_error_percent"] == pytest.approx(
        finished[1]["decoded_error_percent"], abs=1
    )


def test_a_run_that_starts_from_a_file_goes_on_with_its_batch_norms(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (128, 3, 32, 32), generator=generator, dtype=torch.uint8)
    split = Split(images, images[:, 0].float().mean((1, 2)).argsort().argsort() // 13)
    monkeypatch.setattr(
        "ectorch.experiments.data.load", lambda name: DataSet("cifar-10", split, split)
    )
    table = TABLE | {"network": "resnet-20", "data": "cifar-10", "finetune": {"epochs": 0}}
    still = {"epochs": 1, "batch": 128, "alpha": 0.0, "lr": 1e-9, "codebook_lr": 1e-9}
    config = {"levels": 127, "reach": 63.0, "keep_grid": True}
    still |= {"config": config, "remove_dead": False}
    pretrain = {"epochs": 12, "batch": 32}
    train(parse_recipe(table | {"pretrain": pretrain, "constrain": still}), tmp_path / "first")
    start = tmp_path / "first/model.ect"
    with torch.no_grad():
        logits = ec.load_model(NETWORKS["resnet-20"](), start).eval()(images.float() / 255)
    table |= {"start": str(start), "pretrain": {"epochs": 0}, "constrain": still}
    train(parse_recipe(table), tmp_path / "second")
    epoch = json.loads((tmp_path / "second/log.jsonl").read_text().splitlines()[0])
    expected = torch.nn.functional.cross_entropy(logits, split.labels).item()
    assert epoch["loss"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing.ect", None, "No such file"),
        ("missing.safetensors", None, "No such file"),
        ("damaged.ect", b"ECT", "header: 1 bytes expected"),
        ("other.safetensors", safetensors.torch.save({"x": torch.zeros(1)}), "fc1.weight"),
    ],
)
def test_a_start_that_cannot_be_had_is_named(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(RecipeError, match=f"start: .*{name}.*({said})"):
        train(parse_recipe(TABLE | {"start": str(tmp_path / name)}), tmp_path / "out")


def test_sgd_has_momentum_and_resumes(tmp_path):
    table = TABLE | {"pretrain": {"epochs": 2, "batch": 100, "lr": 0.1, "optimizer": "sgd"}}
    whole = train(parse_recipe(table), tmp_path / "whole")
    seen = []
    with pytest.raises(Interrupted):
        train(parse_recipe(table), tmp_path / "halves", seen.append, lambda: len(seen) == 7)
    halves = train(parse_recipe(table), tmp_path / "halves")
    assert halves["predictions_sha256"] == whole["predictions_sha256"]
    assert whole["float_error_percent"] < 30


TARGET = TABLE | {
    "constrain": {"epochs": 6, "batch": 100, "lr": 4e-3, "alpha": 0.02},
    "finetune": {"epochs": 1, "batch": 100, "lr": 1e-4},
}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"target_bytes": "8KB"}, 8000),
        ({"target_bits_per_weight": 0.2}, 266_610 * 0.2 // 8),
    ],
    ids=lambda value: str(value),
)
def test_a_file_takes_what_was_asked_for(asked, expected, tmp_path):
    result = train(parse_recipe(TARGET | asked), tmp_path)
    assert 0.99 * expected <= result["file_bytes"] <= expected
    assert result["file_bytes"] == (tmp_path / "model.ect").stat().st_size
    assert result["decoded_error_percent"] < 20


def test_a_run_trains_on_at_the_size_of_its_file(tmp_path):
    recipe = TARGET | {"target_bytes": 8000}
    first = train(parse_recipe(recipe), tmp_path / "first")
    constrain = {"rise": 0.0, "peak": 1.0, "config": {"keep_grid": True}}
    more = {
        "start": str(tmp_path / "first/model.ect"),
        "pretrain": {"epochs": 0},
        "constrain": TARGET["constrain"] | constrain,
    }
    result = train(parse_recipe(recipe | more), tmp_path / "more")
    epochs = epochs_of(tmp_path / "more", "constrain")
    assert all(0.7 * 8000 < epoch["size_bytes"] < 1.1 * 8000 for epoch in epochs)
    assert 0.99 * 8000 <= result["file_bytes"] <= 8000
    assert result["decoded_error_percent"] < first["decoded_error_percent"] + 2


def test_a_run_with_a_target_resumes_to_the_same_bytes(tmp_path):
    recipe = parse_recipe(TARGET | {"target_bytes": 5000})
    train(recipe, tmp_path / "whole")
    whole = (tmp_path / "whole/model.ect").read_bytes()
    assert whole == train_in_parts(recipe, tmp_path / "parts", (40, 71, 125))


def test_a_network_that_dies_short_of_its_size_says_so(tmp_path):
    deadly = {"epochs": 1, "alpha": 1e5, "rise": 0.0, "peak": 1.0}
    recipe = TARGET | {"constrain": TARGET["constrain"] | deadly, "target_bytes": 8000}
    with pytest.warns(RuntimeWarning, match=r"takes [\d,]+ bytes, 8,000 were asked for: .* lower"):
        result = train(parse_recipe(recipe), tmp_path)
    assert result["file_bytes"] < 0.99 * 8000


@pytest.mark.parametrize("impossible", [80, "800KB"])
def test_an_impossible_size_is_refused_before_any_training(impossible, tmp_path):
    recipe = parse_recipe(TARGET | {"target_bytes": impossible})
    steps = []
    with pytest.raises(RecipeError, match=r"cannot be had: .* from \d+ \(all zeros\) to \d+,\d+"):
        train(recipe, tmp_path, steps.append)
    assert not steps


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        ("target_bytes", 80, r"target_bytes = 80: a file of 80 bytes"),
        (
            "target_ratio",
            1e9,
            r"target_ratio = 1,000,000,000.0: expected \d\.\d+ to [\d,]+\.\d+: ",
        ),
        ("target_ratio", 1e-320, r"target_ratio = .*: expected "),
        ("target_bits_per_weight", 1e-9, r"target_bits_per_weight = 1e-09: expected 0\.\d+ to \d"),
        ("target_bits_per_weight", 1e308, r"target_bits_per_weight = .*: expected "),
    ],
)
def test_an_impossible_target_is_refused_by_key(target, value, expected, tmp_path):
    with pytest.raises(RecipeError, match=rf"^{expected}.* cannot be had"):
        train(parse_recipe(TARGET | {target: value}), tmp_path)


def test_a_size_above_that_of_the_finest_grid_is_refused_before_the_constraint(tmp_path):
    recipe = parse_recipe(TARGET | {"target_bytes": "165KB"})  # more than trained weights fill
    with pytest.raises(RecipeError, match=r"165,000 bytes cannot be had: .* to 1[0-5]\d,\d+"):
        train(recipe, tmp_path)


@pytest.mark.parametrize("impossible", [80, "800KB"])
def test_an_impossible_size_is_refused_on_a_grid_that_is_kept(impossible, finished, tmp_path):
    table = TARGET | {
        "start": str(finished[0] / "model.ect"),
        "pretrain": {"epochs": 0},
        "constrain": TARGET["constrain"] | {"config": {"keep_grid": True}},
        "target_bytes": impossible,
    }
    with pytest.raises(RecipeError, match=r"cannot be had: .* from \d+ \(all zeros\) to \d+,\d+"):
        train(parse_recipe(table), tmp_path)


def test_one_target_is_enough():
    with pytest.raises(RecipeError, match="target_bytes and target_ratio: give one"):
        parse_recipe(TARGET | {"target_bytes": 5000, "target_ratio": 3.0})
