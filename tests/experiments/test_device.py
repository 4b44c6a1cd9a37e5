"""Which device a recipe means, what a run does on one that runs ahead, and going on elsewhere."""

import json

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ectorch.constrain.kernels import layout
from ectorch.errors import DataError, RecipeError, TrainingError
from ectorch.experiments import training
from ectorch.experiments.device import CPU, Device, check_precision, find_device
from ectorch.experiments.recipe import Stage, parse_recipe
from ectorch.experiments.schedule import make_optimizer, restore_optimizer
from ectorch.experiments.split import Split, moved
from ectorch.experiments.training import Interrupted, train

AHEAD = Device(torch.device("cpu"), "a card", runs_ahead=True)
PLACE = "cpu (a card), 1 threads"


@pytest.fixture
def ahead(monkeypatch):
    """Whatever a recipe says, it runs on a device that runs ahead, as far as the loop can tell."""
    monkeypatch.setattr(training, "find_device", lambda name: AHEAD)


@pytest.fixture
def cards(monkeypatch):
    """Let torch find so many cards, none of which computes."""

    def call(count):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    return call


@pytest.mark.parametrize("name", ["cpu", "auto", "cuda", "cuda:3"])
def test_a_recipe_may_name_what_is_not_here(name, table):
    assert parse_recipe(table | {"device": name}).device == name


@pytest.mark.parametrize("name", ["", "gpu", "cpu:0", "cuda:", "cuda:x", "CUDA", "xpu", "meta"])
def test_another_name_is_refused_with_what_was_expected(name, table):
    with pytest.raises(RecipeError, match=r'^device: .*: expected "auto", "cpu", "cuda" or "cuda:'):
        parse_recipe(table | {"device": name})


def test_a_device_without_doubles_is_refused_with_the_reason(table):
    with pytest.raises(RecipeError, match="'mps': it has no float64, in which code lengths are"):
        parse_recipe(table | {"device": "mps"})


def test_a_recipe_runs_on_the_processor_unless_it_says_otherwise(table):
    assert find_device(parse_recipe(table).device) == CPU
    assert (CPU.kind, CPU.words, CPU.runs_ahead, CPU.generators) == ("cpu", "cpu", False, [])


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_where_there_is_none_is_refused_before_anything_is_written(
    name, table, tmp_path, cards
):
    cards(0)
    with pytest.raises(RecipeError, match=f"^device: '{name}': there is none, .*: choose --device"):
        train(parse_recipe(table | {"device": name}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert find_device("auto") == CPU


def test_a_card_that_is_not_there_or_does_not_compute_is_refused(cards, monkeypatch):
    cards(2)
    with pytest.raises(RecipeError, match=r"'cuda:2': expected cuda:0 to cuda:1"):
        find_device("cuda:2")

    def fail(*arguments, **settings):
        raise RuntimeError("CUDA error: no kernel image is available\nmore words")

    monkeypatch.setattr(torch, "zeros", fail)
    for name in ("auto", "cuda", "cuda:1"):
        with pytest.raises(
            RecipeError, match=r"not compute: CUDA error: no kernel .*: --device cp"
        ):
            find_device(name)


def test_auto_takes_cuda_where_it_is(cards, monkeypatch):
    cards(1)
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.ones(1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"card {place.index}")
    found = find_device("auto")
    assert (found.place, found.runs_ahead) == (torch.device("cuda", 0), True)
    assert (found.words, found.generators) == ("cuda (card 0)", [0])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    check_precision("float32", found)
    with pytest.raises(RecipeError, match=r"precision: cuda \(card 0\) has no bfloat16"):
        check_precision("bfloat16", found)


def test_examples_that_do_not_fit_are_counted(monkeypatch):
    def full(self, place):
        raise torch.OutOfMemoryError("CUDA out of memory")

    split = Split(torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.zeros(3).long())
    monkeypatch.setattr(Split, "to", full)
    with pytest.raises(
        DataError, match=r"own: 3 images take 72 bytes, which cpu \(a card\) has no"
    ):
        moved("own", split, AHEAD)


def test_too_little_memory_names_the_batches(ahead, monkeypatch, tmp_path, table):
    def full(self, batch, progress):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(training._Run, "_step", full)
    said = r"cpu \(a card\) has too little .* \(pretrain.batch, constrain.batch, finetune.batch\)"
    with pytest.raises(TrainingError, match=said):
        train(parse_recipe(table), tmp_path)


def test_a_result_has_the_device_and_where_the_run_went(finished):
    _, result = finished
    assert result["machine"]["device"] == "cpu"
    assert "card" not in result["machine"]
    assert result["devices"] == ["cpu, 1 threads"]
    assert result["recipe"]["device"] == "cpu"


def test_a_device_that_runs_ahead_comes_to_the_same_file_and_losses(
    ahead, finished, tmp_path, table
):
    seen = []
    result = train(parse_recipe(table), tmp_path, seen.append)
    for name in ("model.ect", "float.safetensors", "log.jsonl"):
        assert (tmp_path / name).read_bytes() == (finished[0] / name).read_bytes()
    assert result["machine"]["card"] == "a card"
    assert result["devices"] == [PLACE]
    # shown from the first step of an epoch on, and read at its end
    assert seen[0].loss == seen[1].loss == seen[13].loss != seen[14].loss


def test_a_run_ahead_that_is_interrupted_comes_to_the_same_file_and_losses(
    ahead, finished, tmp_path, table, train_in_parts
):
    file = train_in_parts(parse_recipe(table), tmp_path, (5, 46))
    assert file == (finished[0] / "model.ect").read_bytes()
    assert (tmp_path / "log.jsonl").read_bytes() == (finished[0] / "log.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("batch", "said"),
    [(100, "steps 1 to 14"), (10, "steps 1 to 100"), (1400, "step 1")],
    ids=["at the end of the epoch", "after a hundred", "alone"],
)
def test_a_loss_that_is_not_finite_is_found_within_steps_that_are_named(
    ahead, tmp_path, table, batch, said
):
    diverging = {"epochs": 3, "lr": 1e30, "batch": batch, "optimizer": "sgd"}
    seen = []
    with pytest.raises(
        TrainingError, match=rf"^pretrain {said}: the loss is (nan|-?inf); lower lr"
    ):
        train(parse_recipe(table | {"pretrain": diverging}), tmp_path, seen.append)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_no_checkpoint_is_written_of_what_has_diverged(ahead, tmp_path, table):
    diverging = table | {"pretrain": {"epochs": 1, "lr": 1e30, "batch": 100, "optimizer": "sgd"}}
    seen = []
    with pytest.raises(TrainingError, match="pretrain steps 1 to 4: the loss is"):
        train(parse_recipe(diverging), tmp_path, seen.append, lambda: len(seen) == 5)
    assert not (tmp_path / "checkpoint.pt").exists()


class Unread(TorchDispatchMode):
    """Refuses what waits for a device: reads of numbers, sizes that hang on values, new numbers."""

    ATEN = torch.ops.aten
    WAITS = (
        *(ATEN._local_scalar_dense, ATEN.nonzero, ATEN.masked_select, ATEN.equal),
        *(ATEN.is_nonzero, ATEN._unique2, ATEN.lift_fresh, ATEN.bincount),
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        masks = args[1] if func.overloadpacket is self.ATEN.index else ()
        masked = any(mask is not None and mask.dtype == torch.bool for mask in masks)
        assert func.overloadpacket not in self.WAITS, f"{func} waits for the device"
        assert not masked, f"{func} waits for the device"
        return func(*args, **(kwargs or {}))


def test_it_is_seen_when_a_step_waits():
    values = torch.ones(3)
    for wait in (
        lambda: values.sum().item(),
        lambda: bool(values.any()),
        lambda: values[values > 0],
        lambda: values.nonzero(),
        lambda: torch.tensor([1.0]),
    ):
        with pytest.raises(AssertionError, match="waits for the device"), Unread():
            wait()


def test_no_step_waits_for_a_device_that_runs_ahead(ahead, finished, tmp_path, monkeypatch, table):
    plain, checked = training._Run._step, []

    def step(self, batch, progress):
        # levels are counted on the host, every so many steps
        if isinstance(self.stage, training.ConstrainStage) and not self.state.step:
            plain(self, batch, progress)
            return
        with Unread():
            plain(self, batch, progress)
        checked.append(self.state.stage)

    monkeypatch.setattr(training._Run, "_step", step)
    # which read numbers on the processor alone
    monkeypatch.setattr("ectorch.constrain.kernels.native.serves", lambda *_: False)
    monkeypatch.setattr("ectorch.constrain.rate._constants", layout.constants)  # once, as elsewhere
    monkeypatch.setattr("ectorch.workflow._refuse_divergence", lambda *_: None)
    monkeypatch.setattr("ectorch.workflow.watch", lambda *_: None)
    stages = {
        name: table[name] | {"optimizer": "sgd", "lr": 0.01, "epochs": 1, "label_smoothing": 0.1}
        for name in ("pretrain", "constrain", "finetune")
    }
    stages["constrain"]["refresh"] = 10_000
    changes = {
        "augment": {"rotate": 5.0, "scale": 0.1, "shift": 1.0, "crop": 2, "flip": True, "cutout": 4}
    }
    changes["distill"] = {"teacher": str(finished[0] / "model.ect"), "network": table["network"]}
    train(parse_recipe(table | stages | changes), tmp_path)
    assert [checked.count(stage) for stage in (0, 2, 3)] == [15, 14, 15]


def test_one_kernel_updates_all_parameters_on_cuda():
    model = torch.nn.Linear(3, 2)
    for name in ("adam", "sgd"):
        stage = Stage(epochs=1, optimizer=name)
        fused = make_optimizer(model, stage, Device(torch.device("cuda", 0)))
        assert {group["fused"] for group in fused.param_groups} == {True}
        plain = make_optimizer(model, stage)
        assert {group["fused"] for group in plain.param_groups} == {None}
        restore_optimizer(plain, fused.state_dict())
        assert {group["fused"] for group in plain.param_groups} == {None}


def test_a_run_that_goes_on_elsewhere_says_so_once_and_keeps_where_it_was(
    tmp_path, monkeypatch, table
):
    recipe, steps = parse_recipe(table), []
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, steps.append, lambda: len(steps) == 20)
    other = parse_recipe(table | {"device": "auto"})
    monkeypatch.setattr(training, "find_device", lambda name: AHEAD)
    said = (
        r"trained on cpu, 1 threads up to here, and goes on on cpu \(a card\), 1 threads: .* diff"
    )
    with pytest.warns(UserWarning, match=said), pytest.raises(Interrupted):
        train(other, tmp_path, steps.append, lambda: len(steps) == 50)
    result = train(other, tmp_path, steps.append)
    assert len(steps) == 90
    assert result["devices"] == ["cpu, 1 threads", PLACE]
    assert json.loads((tmp_path / "result.json").read_text())["devices"] == result["devices"]


def test_a_run_goes_on_with_another_number_of_threads(tmp_path, table):
    with pytest.raises(Interrupted):
        train(parse_recipe(table), tmp_path, should_stop=lambda: True)
    threads = torch.get_num_threads()
    try:
        with pytest.warns(
            UserWarning, match="cpu, 1 threads up to here, and goes on on cpu, 2 thr"
        ):
            result = train(parse_recipe(table | {"threads": 2}), tmp_path)
    finally:
        torch.set_num_threads(threads)
    assert result["devices"] == ["cpu, 1 threads", "cpu, 2 threads"]
    assert result["machine"]["threads"] == 2


def test_a_run_that_ended_elsewhere_is_not_trained_again_and_that_is_said(
    finished, tmp_path, table
):
    out, result = finished
    assert train(parse_recipe(table | {"device": "auto"}), out) == result
    with pytest.warns(UserWarning, match=r"ended on cpu, 1 threads, and is not .* on cuda, 1 thr"):
        assert train(parse_recipe(table | {"device": "cuda"}), out) == result
    with pytest.warns(
        UserWarning, match=r"is not trained again on cpu, 3 threads, .* another --out"
    ):
        assert train(parse_recipe(table | {"threads": 3}), out) == result
    stored = {key: value for key, value in result.items() if key not in ("machine", "devices")}
    (tmp_path / "result.json").write_text(json.dumps(stored))
    assert train(parse_recipe(table | {"device": "cuda"}), tmp_path) == stored


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no card")


@pytest.fixture(scope="module")
def on_cuda(table, tmp_path_factory):
    """The folder of a run on CUDA that has ended, and its result."""
    out = tmp_path_factory.mktemp("cuda")
    return out, train(parse_recipe(table | {"device": "cuda"}), out)


@needs_cuda
def test_a_recipe_runs_on_cuda(on_cuda, finished):
    out, result = on_cuda
    assert result["machine"]["device"] == "cuda"
    assert result["machine"]["card"] == torch.cuda.get_device_name()
    assert result["file_bytes"] == (out / "model.ect").stat().st_size
    assert abs(result["decoded_error_percent"] - finished[1]["decoded_error_percent"]) < 5
    assert abs(result["file_bytes"] / finished[1]["file_bytes"] - 1) < 0.1


@needs_cuda
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_on_cuda_resumes_to_the_same_bytes(tmp_path, table, train_in_parts, precision):
    changes = {"device": "cuda", "precision": precision, "augment": {"rotate": 5.0, "crop": 2}}
    recipe = parse_recipe(table | changes)
    train(recipe, tmp_path / "whole")
    whole = (tmp_path / "whole/model.ect").read_bytes()
    assert whole == train_in_parts(recipe, tmp_path / "parts", (5, 46, 80))


@needs_cuda
@pytest.mark.parametrize("way", [("cuda", "cpu"), ("cpu", "cuda")], ids=" to ".join)
@pytest.mark.parametrize("stop", [20, 50, 80])
def test_a_run_goes_on_on_the_other_device(way, stop, tmp_path, table):
    first, second = (parse_recipe(table | {"device": name}) for name in way)
    seen = []
    with pytest.raises(Interrupted):
        train(first, tmp_path, seen.append, lambda: len(seen) == stop)
    with pytest.warns(UserWarning, match="and goes on on"):
        result = train(second, tmp_path, seen.append)
    assert len(seen) == 90
    assert [place.partition(",")[0].partition(" ")[0] for place in result["devices"]] == [*way]
    assert result["decoded_error_percent"] < 20


@needs_cuda
@pytest.mark.slow  # sizes are measured all along a training
def test_a_size_is_met_on_cuda(tmp_path, sized):
    result = train(parse_recipe(sized | {"device": "cuda", "target_bytes": 2000}), tmp_path)
    assert 1980 <= result["file_bytes"] <= 2000


@needs_cuda
def test_no_step_synchronizes_on_cuda(tmp_path, monkeypatch, table):
    plain = training._Run._step

    def step(self, batch, progress):
        torch.cuda.set_sync_debug_mode("error")
        try:
            plain(self, batch, progress)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(training._Run, "_step", step)
    train(parse_recipe(table | {"device": "cuda"}), tmp_path)
