import json
import subprocess
import sys
import time

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file as load_safetensors
from safetensors.torch import save_file as save_safetensors

import ectorch as ec

RECIPE = """
name = "tiny"
network = "lenet-300-100"
data = "digits"
threads = 1
[pretrain]
epochs = 1
batch = 100
[constrain]
epochs = 1
batch = 100
[constrain.config]
bias = "grid"
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def small_recipe(recipe, small):
    """Gives the same recipe for a small network."""

    def call(epochs):
        text = recipe.read_text().replace("lenet-300-100", small).replace("= 100", "= 50")
        recipe.write_text(text.replace("epochs = 1", f"epochs = {epochs}"))
        return recipe

    return call


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.ect"
    weights = torch.randint(-1, 2, (40, 50)) * 0.25
    ec.save_file({"a.weight": weights, "a.bias": torch.randn(50)}, path)
    return path


def assert_one_clear_line(result, *words):
    code, _, err = result
    assert code == 2
    assert err.startswith("ectorch: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_its_version_is_that_of_the_library(run):
    assert run("--version") == (0, f"ectorch {ec.__version__}\n", "")
    code, text, _ = run("--help")
    assert code == 0
    assert "--version" in text
    assert "Train networks under an entropy constraint" in text


def test_train_writes_file_result_and_picture_and_prints_the_table(run, recipe, tmp_path):
    out = tmp_path / "run"
    code, text, _ = run("train", recipe, "--out", out)
    assert code == 0
    assert {p.name for p in out.iterdir()} == {
        "model.ect",
        "result.json",
        "log.jsonl",
        "float.safetensors",
        "report.png",
    }
    result = json.loads((out / "result.json").read_text())
    assert f"{result['file_bytes']:,}" in text
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    code, text, _ = run("eval", out / "model.ect", "--data", "digits", "--json")
    record = json.loads(text)
    assert record["error_percent"] == result["decoded_error_percent"]
    assert record["predictions_sha256"] == result["predictions_sha256"]
    assert record["file_bytes"] == result["file_bytes"]


def test_a_run_that_had_ended_says_so_and_where_to_start_anew(run, small_recipe, tmp_path):
    recipe = small_recipe(epochs=1)
    out = tmp_path / "run"
    said = f"{out}: this run ended before; to train anew choose another --out or delete it"
    first, again = (run("train", recipe, "--out", out) for _ in range(2))
    assert first[0] == again[0] == 0
    assert said not in first[1]
    assert again[1].splitlines()[0] == said
    assert again[1].splitlines()[1:] == first[1].splitlines()[-len(again[1].splitlines()) + 1 :]


def test_decompress_then_compress_gives_the_same_bytes(run, model, tmp_path):
    plain, again = tmp_path / "plain.safetensors", tmp_path / "again.ect"
    assert run("decompress", model, plain)[0] == 0
    assert run("compress", plain, again)[0] == 0
    assert again.read_bytes() == model.read_bytes()


def test_metadata_survives_the_way_through_safetensors(run, tmp_path):
    first, plain, again = (tmp_path / n for n in ("a.ect", "b.safetensors", "c.ect"))
    ec.save_file({"x": torch.zeros(3)}, first, {"made": "by hand"})
    run("decompress", first, plain)
    run("compress", plain, again)
    assert again.read_bytes() == first.read_bytes()
    assert "made = by hand" in run("inspect", again)[1]


def test_compress_reads_a_checkpoint_of_tensors(run, tmp_path):
    tensors = {"w": torch.randn(5, 5), "n": torch.tensor(3)}
    torch.save(tensors, tmp_path / "a.pt")
    assert run("compress", tmp_path / "a.pt", tmp_path / "a.ect")[0] == 0
    loaded = ec.load_file(tmp_path / "a.ect")
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())


def test_inspect_shows_every_tensor_and_the_whole_size(run, model):
    code, text, _ = run("inspect", model)
    assert code == 0
    assert "a.weight" in text
    assert "40x50" in text
    assert f"{model.stat().st_size:,}" in text


def test_verify_reads_it_all(run, model):
    assert "2 tensors" in run("verify", model)[1]


@pytest.mark.parametrize("command", ["verify", "inspect", "decompress", "eval"])
@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda data: data[:-9], ""),
        (lambda data: data[:8] + bytes([data[8] ^ 4]) + data[9:], "checksum"),
        (lambda data: b"", "no .ect file"),
        (lambda data: b"ECT\x02" + data[4:], "upgrade"),
        (lambda data: b"PK" + data, "no .ect file"),
    ],
    ids=["truncated", "flipped", "empty", "newer", "other"],
)
def test_a_bad_file_is_one_clear_line(run, model, tmp_path, command, damage, word):
    model.write_bytes(damage(model.read_bytes()))
    target = tmp_path / "plain.safetensors"
    options = {"decompress": [target], "eval": ["--data", "digits"]}.get(command, [])
    assert_one_clear_line(run(command, model, *options), "model.ect", word)
    assert not target.exists()


def test_a_file_that_decodes_to_too_much_is_refused(run, model):
    assert_one_clear_line(run("verify", model, "--max-decoded-bytes", 100), "max_decoded_bytes=100")


def test_absent_files_and_unknown_things_are_named(run, model, recipe, tmp_path):
    assert_one_clear_line(run("verify", tmp_path / "absent.ect"), "absent.ect")
    assert_one_clear_line(run("train", tmp_path / "absent.toml"), "absent.toml")
    target = tmp_path / "no" / "folder.safetensors"
    assert_one_clear_line(run("decompress", model, target), f"{target}: No such file")
    assert_one_clear_line(run("eval", model, "--data", "digits"), "a.weight", "no known network")
    out = tmp_path / "run"
    assert_one_clear_line(run("train", recipe, "--data", "nothing", "--out", out), "nothing")
    recipe.write_text(RECIPE + "colour = 'red'\n")
    assert_one_clear_line(run("train", recipe, "--out", out), "colour", "unknown key")
    recipe.write_text(RECIPE + "include = ['fc9.*']\n")
    assert_one_clear_line(run("train", recipe, "--out", out), "fc9.*")
    recipe.write_text(RECIPE.replace("batch = 100", "batch = 100\nlr = 1e30", 1))
    assert_one_clear_line(run("train", recipe, "--out", out), "pretrain step", "loss")
    assert not (out / "model.ect").exists()


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_compress_refuses_what_holds_no_tensors(run, tmp_path, name):
    (tmp_path / name).write_bytes(b"nonsense")
    result = run("compress", tmp_path / name, tmp_path / "a.ect")
    assert_one_clear_line(result, name)
    assert len(result[2]) < 400
    assert not (tmp_path / "a.ect").exists()


def test_eval_takes_safetensors(run, tmp_path):
    from ectorch.experiments.networks import LeNet300100

    path = tmp_path / "net.safetensors"
    safetensors.torch.save_file(LeNet300100().state_dict(), path)
    code, text, _ = run("eval", path, "--data", "digits", "--json")
    assert code == 0
    assert json.loads(text)["network"] == "lenet-300-100"
    path.write_bytes(b"nonsense")
    assert_one_clear_line(run("eval", path, "--data", "digits"), "net.safetensors")


def test_eval_refuses_a_file_of_another_dtype(run, tmp_path):
    from ectorch.experiments.networks import LeNet300100

    path = tmp_path / "half.ect"
    ec.save_file(LeNet300100().half(), path)
    assert_one_clear_line(run("eval", path, "--data", "digits"), "fc1.bias", "float16", "float32")


def test_decompressed_tensors_are_bit_equal(run, model, tmp_path):
    run("decompress", model, tmp_path / "plain.safetensors")
    plain, stored = load_safetensors(tmp_path / "plain.safetensors"), ec.load_file(model)
    assert plain.keys() == stored.keys()
    assert all(torch.equal(plain[name], stored[name]) for name in plain)
    save_safetensors(plain, tmp_path / "copy.safetensors")


def test_a_size_may_be_asked_for(run, small_recipe, tmp_path):
    recipe = small_recipe(epochs=3)
    out = tmp_path / "run"
    assert run("train", recipe, "--out", out, "--target-bytes", "3KB")[0] == 0
    assert 2970 <= (out / "model.ect").stat().st_size <= 3000
    other = tmp_path / "other"
    assert_one_clear_line(
        run("train", recipe, "--out", other, "--target-bytes", "9 parsecs"), "parsecs"
    )
    assert_one_clear_line(
        run("train", recipe, "--out", other, "--target-bytes", "50"), "takes from"
    )


@pytest.mark.slow  # a search is several trainings
def test_an_error_may_be_asked_for_and_tensorboard_told(run, small_recipe, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = small_recipe(epochs=4)
    out, events = tmp_path / "run", tmp_path / "events"
    command = ["train", recipe, "--out", out, "--tensorboard", events]
    assert run(*command, "--target-error", "25", "--holdout", "200")[0] == 0
    assert json.loads((out / "result.json").read_text())["decoded_error_percent"] <= 25
    told = EventAccumulator(str(events)).Reload()
    assert len(told.Scalars("point-1 pretrain/loss")) == 4
    log = (out / "point-1/log.jsonl").read_text().splitlines()
    last = [json.loads(line) for line in log if '"constrain"' in line][-1]
    for name, size in last["tensor_bytes"].items():
        assert told.Scalars(f"point-1 constrain/tensor_bytes/{name}")[-1].value == size
    assert last["size_bytes"] > sum(last["tensor_bytes"].values())


@pytest.mark.slow  # a curve, once more in a process that is killed, and in a third that goes on
def test_sweep_traces_a_curve_and_goes_on_where_it_was_killed(run, recipe, tmp_path):
    recipe.write_text(RECIPE.replace("epochs = 1", "epochs = 4"))
    command = ["sweep", recipe, "--points", "3", "--holdout", "200"]
    code, text, _ = run(*command, "--out", tmp_path / "whole")
    assert code == 0
    results = json.loads((tmp_path / "whole/sweep.json").read_text())
    assert [r["point"] for r in results] == ["point-1", "point-2", "point-3"]
    assert [r["alpha"] for r in results] == pytest.approx([0.25, 1.0, 4.0])
    assert [r["recipe"]["constrain"]["epochs"] for r in results] == [4, 1, 1]
    sizes = [r["file_bytes"] for r in results]
    assert sizes == sorted(sizes, reverse=True)
    assert all(f"{size:,}" in text for size in sizes)
    assert all(r["evaluated_on"] == "held-out" for r in results)
    assert (tmp_path / "whole/curve.png").read_bytes().startswith(b"\x89PNG")

    program = "import sys; from ectorch.cli import main; sys.argv[0] = 'ectorch'; main()"
    arguments = [sys.executable, "-c", program, *map(str, command), "--out", "halves"]
    with subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL) as killed:
        while not (tmp_path / "halves/point-1/result.json").exists():
            time.sleep(0.01)
        killed.kill()
    assert not (tmp_path / "halves/point-3/result.json").exists()
    assert subprocess.run(arguments, cwd=tmp_path, stdout=subprocess.DEVNULL).returncode == 0
    for point in ("point-1", "point-2", "point-3"):
        files = [
            (tmp_path / name / point / "model.ect").read_bytes() for name in ("whole", "halves")
        ]
        assert files[0] == files[1]


@pytest.mark.parametrize(("own", "used"), [(0, 250), (100, 100)])
def test_sweep_says_and_records_how_many_examples_it_holds_out(
    run, small_recipe, tmp_path, own, used
):
    recipe = small_recipe(epochs=1)
    recipe.write_text(f"holdout = {own}\n" + recipe.read_text())
    code, text, _ = run("sweep", recipe, "--points", "2", "--out", tmp_path / "curve")
    assert code == 0
    assert f"holdout {used} training examples of digits" in text
    results = json.loads((tmp_path / "curve/sweep.json").read_text())
    assert [r["recipe"]["holdout"] for r in results] == [used, used]


def test_sweep_refuses_what_is_no_curve(run, recipe, tmp_path):
    out = tmp_path / "out"
    assert_one_clear_line(run("sweep", recipe, "--points", "1", "--out", out), "1 points")
    recipe.write_text("target_bytes = 5000\n" + RECIPE)
    assert_one_clear_line(run("sweep", recipe, "--out", out), "has a target")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_a_device_that_is_not_there_is_one_line(refusal, recipe, tmp_path):
    from ectorch.experiments.networks import LeNet300100

    ec.save_file(LeNet300100(), tmp_path / "net.ect")
    out = tmp_path / "run"
    for command in (
        ("train", recipe, "--out", out),
        ("sweep", recipe, "--out", out),
        ("eval", tmp_path / "net.ect", "--data", "digits"),
    ):
        assert "device: 'cuda': there is none" in refusal(*command, "--device", "cuda")
        assert "device: 'gpu': expected \"auto\"" in refusal(*command, "--device", "gpu")
    assert "--device cpu, or --device auto" in refusal(*command, "--device", "cuda:1")
    recipe.write_text('device = "cuda"\n' + RECIPE)
    assert "device: 'cuda': there is none" in refusal("train", recipe, "--out", out)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_auto_says_which_device_it_is_and_an_option_comes_before_the_recipe(
    run, small_recipe, tmp_path, small
):
    recipe = small_recipe(epochs=1)
    recipe.write_text('device = "cuda"\n' + recipe.read_text())
    command = ("train", recipe, "--out", tmp_path / "run")
    code, text, _ = run(*command, "--device", "auto")
    assert (code, text.splitlines()[0]) == (0, "device  cpu")
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["recipe"]["device"], result["devices"]) == ("auto", ["cpu, 1 threads"])
    arguments = ("eval", tmp_path / "run/model.ect", "--data", "digits", "--network", small)
    assert "device  cpu\n" in run(*arguments, "--device", "auto")[1]
    assert json.loads(run(*arguments, "--json")[1])["device"] == "cpu"
    assert run(*command, "--device", "cpu")[1].startswith(f"{tmp_path / 'run'}: this run ended")


def test_compare_shows_files_side_by_side(run, model, tmp_path):
    other = {"a.weight": torch.zeros(40, 50), "b.weight": torch.ones(3, 3)}
    save_safetensors(other, tmp_path / "other.safetensors")
    code, text, _ = run("compare", model, tmp_path / "other.safetensors")
    assert code == 0
    rows = {
        line.split("│")[1].strip(): line.split("│")[2:-1]
        for line in text.splitlines()
        if "│" in line
    }
    weight = [cell.strip() for cell in rows["a.weight"]]
    with ec.safe_open(model) as stored:
        assert weight[:2] == [str(stored.get_entry("a.weight").size_bytes), "3"]
    assert weight[3:] == ["8,000", "1", "0"]
    assert [cell.strip() for cell in rows["b.weight"]] == ["", "", "", "36", "1", "9"]
    assert rows["file"][0].strip() == f"{model.stat().st_size:,}"
