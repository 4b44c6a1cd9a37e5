"""A run from a recipe to a file: what it writes, says and refuses."""

import json

import pytest
import torch

import ectorch as ec
from ectorch.errors import TrainingError
from ectorch.experiments import data as data_sets
from ectorch.experiments.data import DataSet, Split
from ectorch.experiments.evaluation import evaluate
from ectorch.experiments.networks import NETWORKS
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.training import train


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


def test_a_run_that_holds_images_out_never_reads_the_test_set(tmp_path, monkeypatch, table):
    digits = data_sets.load("digits")
    blind = DataSet("digits", digits.train, Split(None, None))
    monkeypatch.setattr("ectorch.experiments.data.load", lambda _: blind)
    result = train(parse_recipe(table | {"holdout": 200}), tmp_path)
    assert result["evaluated_on"] == "held-out"
    last = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-2])
    assert last["held_out"]
    assert result["decoded_error_percent"] == last["error_percent"]


def test_the_decoded_file_is_the_network_of_the_run(finished):
    out, result = finished
    model = NETWORKS["small"]()
    ec.load_model(model, out / "model.ect")
    test = evaluate(model.eval(), data_sets.load("digits").test)
    assert test.predictions_sha256 == result["predictions_sha256"]


def test_a_finished_run_is_not_repeated(finished, table):
    def fail(progress):
        raise AssertionError("trained again")

    out, result = finished
    assert train(parse_recipe(table), out, fail) == result


def test_a_folder_of_another_recipe_is_refused(finished, table):
    with pytest.raises(TrainingError, match=r"another recipe \(seed differ"):
        train(parse_recipe(table | {"seed": 1}), finished[0])


def test_settings_of_a_stage_that_is_skipped_make_no_other_recipe(finished, table):
    out, result = finished
    assert table.get("reduce") is None
    assert train(parse_recipe(table | {"reduce": {"epochs": 0, "peak": 9.0}}), out) == result
    with pytest.raises(TrainingError, match=r"another recipe \(reduce differ"):
        train(parse_recipe(table | {"reduce": {"epochs": 1}}), out)


def test_a_recipe_of_before_a_key_existed_has_its_default(finished, tmp_path, table):
    stored = finished[1] | {"recipe": dict(finished[1]["recipe"])}
    del stored["recipe"]["start"]
    (tmp_path / "result.json").write_text(json.dumps(stored))
    assert train(parse_recipe(table), tmp_path) == stored
    stored["recipe"]["colour"] = 1
    (tmp_path / "result.json").write_text(json.dumps(stored))
    with pytest.raises(TrainingError, match="none now: colour: unknown key"):
        train(parse_recipe(table), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_writes_no_file(tmp_path, table):
    diverging = table | {"pretrain": {"epochs": 1, "lr": 1e30, "batch": 100}}
    with pytest.raises(TrainingError, match=r"pretrain step \d+: the loss is (nan|inf); lower lr"):
        train(parse_recipe(diverging), tmp_path)
    assert not (tmp_path / "model.ect").exists()


def test_batch_norms_of_the_decoded_network_are_those_of_the_hard_one(tmp_path, monkeypatch, table):
    class Normed(torch.nn.Sequential):
        image_shape = (1, 28, 28)

        def __init__(self):
            linear = torch.nn.Linear(784, 20), torch.nn.Linear(20, 10)
            flat, norm = torch.nn.Flatten(), torch.nn.BatchNorm1d(20)
            super().__init__(flat, linear[0], norm, torch.nn.ReLU(), linear[1])

    monkeypatch.setitem(NETWORKS, "normed", Normed)
    train(parse_recipe(table | {"network": "normed"}), tmp_path)
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
