"""A report of whatever lies in a folder: a page, or one line that names file and key."""

import json
import warnings

import pytest
import safetensors.torch
import torch

import ectorch as ec
from ectorch.report import figures
from ectorch.report.gather import gather
from ectorch.report.page import WRITERS

RESULT = {
    "name": "x",
    "network": "n",
    "data": "digits",
    "seed": 0,
    "evaluated_on": "test",
    "float_bytes": 1000,
    "file_bytes": 100,
    "float_error_percent": 1.0,
    "decoded_error_percent": 2.0,
    "seconds": 60,
    "recipe": {"constrain": {"alpha": 1.0}},
}
EPOCH = {"stage": "constrain", "epoch": 1, "loss": 0.5, "alpha": 1.0}
MATRIX = torch.eye(4)
HOSTILE = "<script>alert(1)</script>[a](javascript:b)\x1b[2J$\\frac{a$|`x`\n模" + "n" * 300


@pytest.fixture
def report(tmp_path, run):
    """Write a run's folder, report on it; give exit code, error and page."""

    def call(tensors, log="", form="html", **changes):
        folder = tmp_path / "run"
        folder.mkdir()
        ec.save_file(tensors, folder / "model.ect", preset="fast")
        (folder / "result.json").write_text(json.dumps(RESULT | changes))
        if log:
            (folder / "log.jsonl").write_text(log)
        out = folder / f"report.{form}"
        code, _, err = run("report", folder, "--out", out)
        return code, err, out.read_text() if form in ("html", "md") and out.exists() else ""

    return call


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"a": torch.randn(4)},
        {"a": torch.zeros(0, 4), "b": MATRIX},
        {"a": torch.zeros(4, 0)},
        {"a": torch.tensor(3.0)},
        {"a": torch.zeros(4, 4)},
        {"a": torch.full((4, 4), float("nan"))},
        {"a": torch.tensor([[float("inf"), 1.0], [-float("inf"), float("nan")]])},
        {"a": torch.full((2, 2), 1.7e308, dtype=torch.float64)},
        {"a": torch.full((2, 2), -(2**63))},
        {"a": torch.ones(2, 2, dtype=torch.bool)},
        {"a": torch.full((2, 2), 1j)},
        {"a": MATRIX.bfloat16(), "b": MATRIX.to(torch.float8_e4m3fn)},
        {"a": torch.randn(1, 1, 1, 1, 1, 1)},
        {"$\\frac{a$": MATRIX, "$$": MATRIX + 1},
        {"names, index, checksums": MATRIX, "others": torch.randn(3, 3)},
        {HOSTILE: MATRIX, HOSTILE + "2": torch.randn(3, 3)},
        {f"a{at}": torch.full((2, 2), float(at)) for at in range(1000)},
    ],
    ids=range(18),
)
def test_any_tensors_have_a_page(report, tensors):
    code, err, text = report(tensors)
    assert (code, err) == (0, "")
    assert text.count("<tr>") > len(tensors)


def test_values_of_any_dtype_are_drawn_as_they_are(report):
    _, _, text = report({"a": (MATRIX * 2).to(torch.float8_e4m3fn)})
    assert 'data-tip="a: 2, 4 weights (25.00%)"' in text


@pytest.mark.parametrize("form", ["html", "md"])
def test_words_of_results_are_no_markup(report, form):
    words = {"name": HOSTILE, "network": HOSTILE, "evaluated_on": HOSTILE}
    machine = {"processor": HOSTILE, "threads": 1, "device": HOSTILE, "card": HOSTILE}
    versions = {"versions": {"a": HOSTILE}, "machine": machine, "devices": [HOSTILE, HOSTILE]}
    code, _, text = report({HOSTILE: MATRIX}, form=form, **words, **versions)
    assert code == 0
    assert "<script>alert" not in text
    assert "[a](javascript" not in text or form == "html"
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("form", ["png", "svg"])
def test_words_of_results_are_drawn(report, form):
    assert report({}, form=form, name=HOSTILE, evaluated_on=HOSTILE)[0] == 0


def test_long_names_that_look_alike_are_numbered(report):
    sizes = {"n" * 100 + str(at) + "n" * 100: torch.randn(9, 9) for at in range(3)}
    with warnings.catch_warnings(record=True) as said:
        text = report(sizes)[2]
    assert not said
    assert all(f">{at}. nnn" in text for at in (1, 2, 3))
    assert all(name in text for name in sizes)


def test_letters_stay_readable():
    sizes = [value for key, value in figures.STYLE.items() if "size" in key]
    assert min(sizes) * 358 / (72 * figures._WIDTH) > 10  # pixels of a phone's column


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"file_bytes": "abc"}, "file_bytes"),
        ({"file_bytes": 0}, "file_bytes"),
        ({"file_bytes": 10**400}, "file_bytes"),
        ({"float_bytes": -4}, "float_bytes"),
        ({"float_error_percent": None}, "float_error_percent"),
        ({"decoded_error_percent": float("nan")}, "decoded_error_percent"),
        ({"decoded_error_percent": True}, "decoded_error_percent"),
        ({"seconds": float("inf")}, "seconds"),
        ({"name": ["x"]}, "name"),
        ({"network": {}}, "network"),
        ({"seed": 1.5}, "seed"),
        ({"recipe": {}}, "recipe.constrain"),
        ({"recipe": {"constrain": {"alpha": "1"}}}, "recipe.constrain.alpha"),
        ({"versions": ["a"]}, "versions"),
        ({"machine": {"threads": 2}}, "machine.processor"),
        ({"machine": {"processor": "x", "threads": 2, "card": 1}}, "machine.card"),
        ({"devices": "cpu"}, "devices"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_value_is_named(report, changes, key):
    code, err, _ = report({"a": MATRIX}, **changes)
    assert code == 2
    assert f"result.json: {key}: " in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"epoch": 1', "Invalid JSON"),
        ("7", "object"),
        (json.dumps(EPOCH | {"loss": "x"}), "loss: "),
        (json.dumps(EPOCH | {"size_bytes": float("nan")}), "size_bytes: "),
        (json.dumps(EPOCH | {"epoch": -1}), "epoch: "),
        (json.dumps(EPOCH | {"loss": 1e308}), "loss: "),
    ],
    ids=range(6),
)
def test_a_torn_line_of_a_log_is_named(report, line, said):
    code, err, _ = report({"a": MATRIX}, log=f"{json.dumps(EPOCH)}\n{line}\n")
    assert code == 2
    assert "log.jsonl: line 2: " in err
    assert said in err


def test_a_log_of_a_float_training_has_a_page(report):
    lines = {"stage": "pretrain", "epoch": 1, "alpha": None}, {"epoch": 2}, {"evaluation_of": "m"}
    assert report({"a": MATRIX}, log="".join(json.dumps(line) + "\n" for line in lines))[0] == 0


@pytest.mark.parametrize("content", ["{", "[{}]", '{"a": 1}'])
def test_baselines_that_are_none_are_named(refusal, run_folder, content):
    (run_folder / "baselines.json").write_text(content)
    assert "baselines.json: " in refusal("report", run_folder, "--out", run_folder / "r.html")


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "runs"
    folder.mkdir()
    ec.save_file({"a": MATRIX}, folder / "model.ect")
    (folder / "result.json").write_text(json.dumps(RESULT))
    return folder


@pytest.mark.parametrize("network", ["n", "lenet-300-100"])
def test_a_float_network_that_is_another_is_named(refusal, run_folder, network):
    (run_folder / "result.json").write_text(json.dumps(RESULT | {"network": network}))
    safetensors.torch.save_file({"a": MATRIX}, run_folder / "float.safetensors")
    assert "float.safetensors: " in refusal("report", run_folder, "--out", run_folder / "r.html")


@pytest.mark.parametrize("content", [b"", b"junk"])
@pytest.mark.parametrize("name", ["model.ect", "float.safetensors", "result.json"])
def test_a_damaged_file_is_named(refusal, run_folder, name, content):
    (run_folder / "baselines.json").write_text(
        json.dumps([{"name": "float32", "file_bytes": 9, "error_percent": 1.0} | TASK])
    )
    (run_folder / name).write_bytes(content)
    assert name in refusal("report", run_folder, "--out", run_folder / "r.html")


TASK = {"network": "n", "data": "digits", "on": "test"}


@pytest.mark.parametrize(
    ("curve", "said"),
    [
        ("../secret", "leads out"),
        ("/etc/secret", "leads out"),
        ("a\0b", "null"),
        ("a" * 300, "long"),
    ],
    ids=["up", "root", "null", "long"],
)
def test_a_table_reads_nothing_outside_its_folder(refusal, tmp_path, curve, said):
    folder = tmp_path / "kept"
    folder.mkdir()
    ec.save_file({"a": MATRIX}, tmp_path / "secret-p-seed-0.ect")
    point = {"curve": curve, "name": "p", "network": "n", "data": "d", "float_bytes": 9, "alpha": 1}
    (folder / "results.json").write_text(json.dumps({"points": [point | {"runs": [RESULT]}]}))
    assert said in refusal("report", folder, "--out", tmp_path / "r.html")


@pytest.mark.parametrize(
    "name", ["model.ect", "float.safetensors", "result.json", "log.jsonl", "baselines.json"]
)
def test_a_link_out_of_the_folder_is_refused(refusal, run_folder, name):
    outside = run_folder.parent / "outside"
    outside.write_text("secret")
    (run_folder / name).unlink(missing_ok=True)
    (run_folder / name).symlink_to(outside)
    line = refusal("report", run_folder, "--out", run_folder / "r.html")
    assert f"{name}: leads out of" in line
    assert outside.read_text() == "secret"


def test_a_link_within_the_folder_is_followed(run_folder):
    (run_folder / "model.ect").rename(run_folder / "kept.ect")
    (run_folder / "model.ect").symlink_to("kept.ect")
    WRITERS["html"](gather(run_folder), run_folder / "r.html")
    assert (run_folder / "r.html").exists()


def test_a_picture_has_the_form_that_is_asked_for(run, run_folder):
    out = run_folder / "curve.html"
    assert run("report", run_folder, "--out", out, "--format", "png")[0] == 0
    assert out.read_bytes().startswith(b"\x89PNG")
