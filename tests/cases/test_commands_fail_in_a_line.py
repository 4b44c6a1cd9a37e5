"""Whatever a command is given: it works, or it ends with one line and exit code 2."""

import errno
import io
import json
import os
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import ectorch as ec
from ectorch import cli

RECIPE = """
name = "tiny"
network = "lenet-300-100"
data = "digits"
threads = 1
[pretrain]
epochs = 1
[constrain]
epochs = 1
"""
HEADER = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
CONTENTS = {
    "empty": b"",
    "text": b"hello\n" * 10,
    "junk": bytes(range(256)) * 8,
    "zeros": bytes(4096),
    "zip": b"PK\x03\x04" + bytes(100),
    "zip end": b"PK\x05\x06" + bytes(18),
    "pickle of None": b"\x80\x02N.",
    "pickle of a call": b"cos\nsystem\n(S'true'\ntR.",
    "magic": b"ECT\x01",
    "newer": b"ECT\x07" + bytes(40),
    "brackets": b"[" * 100_000,
    "cut header": len(HEADER).to_bytes(8, "little") + HEADER,
    "huge header": b"\xff" * 8 + HEADER,
    "number of 5,000 digits": b"seed = " + b"9" * 5000,
}
PLACES = ("missing", "folder", "fifo", "device", "circle", "forbidden", "long")
COMMANDS = {
    "compress .pt": (".pt", ("compress", ..., "out.ect")),
    "compress .safetensors": (".safetensors", ("compress", ..., "out.ect")),
    "decompress": (".ect", ("decompress", ..., "out.safetensors")),
    "inspect": (".ect", ("inspect", ...)),
    "compare": (".ect", ("compare", ...)),
    "compare .pt": (".pt", ("compare", ...)),
    "verify": (".ect", ("verify", ...)),
    "eval": (".ect", ("eval", ..., "--data", "digits")),
    "eval .safetensors": (".safetensors", ("eval", ..., "--data", "digits")),
    "train": (".toml", ("train", ..., "--out", "run")),
    "sweep": (".toml", ("sweep", ..., "--out", "run")),
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def recipe(folder):
    (folder / "recipe.toml").write_text(RECIPE)
    return "recipe.toml"


def put(name, what):
    """A file of that kind under that name."""
    if what in CONTENTS:
        Path(name).write_bytes(CONTENTS[what])
    elif what == "folder":
        Path(name).mkdir()
    elif what == "fifo":
        os.mkfifo(name)
    elif what == "device":
        Path(name).symlink_to("/dev/zero")
    elif what == "circle":
        Path(name).symlink_to(name)
    elif what == "forbidden":
        Path(name).touch(mode=0)
        if os.access(name, os.R_OK):
            pytest.skip("root may read everything")


@pytest.mark.parametrize("what", [*CONTENTS, *PLACES])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_no_such_file_is_named(refusal, command, what):
    ending, arguments = COMMANDS[command]
    if ending == ".toml" and what in ("fifo", "device"):
        pytest.skip("a recipe may come through a pipe")
    name = ("n" * 300 if what == "long" else "näme") + ending
    put(name, what)
    if (command, what) == ("compress .pt", "pickle") or (command, what) == (
        "compare .pt",
        "pickle",
    ):
        pytest.skip("an empty dict is a state dict")
    assert name in refusal(*(name if part is ... else part for part in arguments)), what
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize(
    "arguments",
    [
        ("compress", "a.safetensors", "."),
        ("compress", "a.safetensors", "-"),
        ("compress", "a.safetensors", "a.pt"),
        ("compress", "a.safetensors", "no/such/folder/a.ect"),
        ("compress", "a.safetensors", "folder.ect"),
        ("compress", "a.safetensors", "a.safetensors/b.ect"),
        ("compress", "a.safetensors", "a.ect", "--preset", "tiny[/b]"),
        ("compress", "a.safetensors", "a.ect", "--threads", "0"),
        ("compress", "a.safetensors", "a.ect", "--threads", "-3"),
        ("compress", "a.safetensors", "a.ect", "--threads", "1e3"),
        ("compress", "a.ect", "b.ect"),
        ("compress", "a.safetensors"),
        ("decompress", "a.ect", "a.pt"),
        ("decompress", "a.ect", "."),
        ("decompress", "reserved.ect", "b.safetensors"),
        ("decompress", "a.ect", "b.safetensors", "--max-decoded-bytes", "3"),
        ("inspect", "a.ect", "--max-decoded-bytes", "-1"),
        ("inspect", "a.ect", "--max-decoded-bytes", "nan"),
        ("inspect", "a.ect", "b.ect"),
        ("compare",),
        ("verify", "-"),
        ("eval", "a.ect", "--data", "digits"),
        ("eval", "a.ect", "--data", "[red]\x1b[2J"),
        ("eval", "a.ect"),
        ("report", "a.ect"),
        ("report", "."),
        ("report", "missing", "--out", "r.pdf"),
        ("report", ".", "--format", "pdf"),
        ("train", "recipe.toml", "--seed", "9" * 20),
        ("train", "recipe.toml", "--seed", "-1"),
        ("train", "recipe.toml", "--alpha", "nan"),
        ("train", "recipe.toml", "--alpha", "inf"),
        ("train", "recipe.toml", "--alpha", "-1"),
        ("train", "recipe.toml", "--holdout", "-5"),
        ("train", "recipe.toml", "--data", "imagenet"),
        ("train", "recipe.toml", "--start", "missing.ect"),
        ("train", "recipe.toml", "--start", "folder.ect"),
        ("train", "recipe.toml", "--target-bytes", "-7"),
        ("train", "recipe.toml", "--target-bytes", "1e99"),
        ("train", "recipe.toml", "--target-ratio", "nan"),
        ("train", "recipe.toml", "--target-bits-per-weight", "0"),
        ("train", "recipe.toml", "--target-error", "inf", "--holdout", "9"),
        ("train", "recipe.toml", "--out", "a.ect"),
        ("sweep", "recipe.toml", "--points", "1"),
        ("sweep", "recipe.toml", "--span", "nan"),
        ("sweep", "recipe.toml", "--span", "inf"),
        ("sweep", "recipe.toml", "--span", "1"),
        ("no\x1b[2Jsuch",),
        ("--no-such",),
    ],
    ids=" ".join,
)
def test_wrong_arguments_are_one_line(refusal, recipe, arguments):
    ec.save_file({"a": torch.ones(3)}, "a.ect")
    ec.save_file({"__metadata__": torch.ones(3)}, "reserved.ect")
    safetensors.torch.save_file({"a": torch.ones(3)}, "a.safetensors")
    Path("folder.ect").mkdir()
    refusal(*arguments)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("seed = 1", "seed = 99999999999999999999"), "seed"),
        (("threads = 1", "threads = 100000"), "threads"),
        (('name = "tiny"', 'name = "a\\u0000b"'), "name"),
        (("[pretrain]", 'start = "a\\u0000b"\n[pretrain]'), "start"),
        (("[pretrain]", '[distill]\nteacher = "a\\u0000b"\n[pretrain]'), "distill.teacher"),
        (("[constrain]\nepochs = 1", "[constrain]\nepochs = 1\nlr = nan"), "constrain.lr"),
        (("[constrain]\nepochs = 1", "[constrain]\nepochs = 1\nalpha = inf"), "constrain.alpha"),
        (("[pretrain]", "norm_levels = 99999999999\n[pretrain]"), "norm_levels"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[1].replace("\n", " "),
)
def test_a_recipe_of_impossible_values_is_refused_by_key(refusal, folder, change, said):
    text = RECIPE.replace("threads = 1", "seed = 1\nthreads = 1").replace(*change)
    (folder / "recipe.toml").write_text(text)
    assert f"{said}: " in refusal("train", "recipe.toml", "--out", "run")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--out", "r.pdf"), "r.pdf: expected a name that ends in .html or .md or .png or .svg"),
        (("--out", "r"), "r: expected a name that ends in .html"),
        (("--format", "pdf"), "--format pdf: expected one of html, md, png, svg"),
        (("--out", "r.html", "--format", ""), "--format : expected one of html"),
    ],
    ids=str,
)
def test_a_report_of_no_known_format_blames_what_was_given(refusal, arguments, said):
    assert refusal("report", ".", *arguments).startswith(f"ectorch: {said}")


@pytest.mark.parametrize("count", [251, 999_999])
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_more_images_than_can_be_held_out_are_refused(refusal, recipe, command, count):
    line = refusal(command, recipe, "--holdout", count, "--out", "run")
    assert f"holdout = {count:,}: digits has 1,500 training images" in line
    assert "expected 250 at most" in line
    assert not list(Path().glob("run/*"))


def test_a_table_that_is_a_number_is_refused(refusal, folder):
    (folder / "recipe.toml").write_text('name = "a"\nconstrain = 3\n')
    assert "constrain: expected a table" in refusal("train", "recipe.toml", "--alpha", "1")


@pytest.mark.parametrize("ending", [".ect", ".safetensors"])
@pytest.mark.parametrize(
    ("key", "content"),
    [("start", None), ("start", "other"), ("distill.teacher", None), ("distill.teacher", "other")],
)
def test_a_file_that_a_recipe_names_is_said_once(refusal, folder, ending, key, content):
    name = f"net{ending}"
    table, _, field = key.rpartition(".")
    line = f'{field} = "{name}"\n'
    text = RECIPE + f"[{table}]\n{line}" if table else line + RECIPE
    (folder / "recipe.toml").write_text(text)
    if content:
        save = ec.save_file if ending == ".ect" else safetensors.torch.save_file
        save({"other.weight": torch.ones(3, 3)}, name)
    said = refusal("train", "recipe.toml", "--out", "run")
    assert said.startswith(f"ectorch: {key}: {name}: ")
    assert said.count(name) == 1
    assert "Path(" not in said
    assert "Errno" not in said
    assert ("other.weight" if content else "No such file or directory\n") in said


@pytest.mark.parametrize("ending", [".ect", ".safetensors"])
def test_a_network_that_is_not_known_is_named_by_its_file_and_some_tensors(refusal, ending):
    name = f"net{ending}"
    save = ec.save_file if ending == ".ect" else safetensors.torch.save_file
    save({f"layer{at:02}.weight": torch.ones(3) for at in range(32)}, name)
    line = refusal("eval", name, "--data", "digits")
    listed = "layer00.weight, layer01.weight, layer02.weight and 29 more are no known network"
    assert f"{name}: tensors {listed}" in line
    assert "layer03" not in line


def test_a_recipe_may_begin_with_a_byte_order_mark(refusal, folder):
    (folder / "recipe.toml").write_bytes(b"\xef\xbb\xbf" + RECIPE.encode())
    assert "seed:" in refusal("train", "recipe.toml", "--seed", "-1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"name": "r", "netw', "EOF"),
        ("[]", "object"),
        ("{}", "seed"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_result_that_is_none_is_named(refusal, recipe, text, said):
    Path("run").mkdir()
    Path("run/result.json").write_text(text)
    for line in (refusal("train", recipe, "--out", "run"), refusal("report", "run")):
        assert "run/result.json: " in line
        assert said in line


@pytest.mark.parametrize("content", [b"", b"junk" * 99], ids=["empty", "junk"])
def test_a_checkpoint_that_is_none_is_named(refusal, recipe, content):
    Path("run").mkdir()
    Path("run/checkpoint.pt").write_bytes(content)
    line = refusal("train", recipe, "--out", "run")
    assert "run/checkpoint.pt: " in line
    assert "delete it" in line


@pytest.mark.parametrize(
    ("checkpoint", "said"),
    [
        ([torch.ones(2)], "a list"),
        (torch.ones(2), "a Tensor"),
        ({0: torch.ones(2)}, "keys 0"),
        ({"epoch": 3, "loss": 0.5}, "keys epoch, loss"),
        ({"model": {"a": 3}, "optimizer": {}}, "keys model, optimizer"),
        (
            {"model": {"a": torch.ones(2)}, "net": {"a": torch.ones(2)}},
            "2 state dicts (model, net)",
        ),
        (
            {"model": {"a": torch.ones(2)}, "ema": {"a": torch.ones(2)}, "epoch": 3},
            "2 state dicts (model, ema)",
        ),
        ({7: {"a": torch.ones(2)}, "m": {"a": torch.ones(2)}}, "2 state dicts (7, m)"),
        ({"random": {"cpu": torch.get_rng_state()}}, "keys random"),
        ({"best": {"loss": torch.tensor(0.5)}, "m": {}}, "keys best, m"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_checkpoint_without_one_state_dict_says_what_it_holds(refusal, checkpoint, said):
    torch.save(checkpoint, "a.pt")
    for command in (("compress", "a.pt", "a.ect"), ("compare", "a.pt")):
        line = refusal(*command)
        assert "a.pt" in line
        assert said in line


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "module", "m", 7])
def test_the_state_dict_of_a_training_is_found(run, key):
    model = torch.nn.Linear(3, 2)
    rest = {
        "optimizer": torch.optim.Adam(model.parameters()).state_dict(),
        "random": {"cpu": torch.get_rng_state()},
        "best": {"loss": torch.tensor(0.5)},
    }
    torch.save({key: model.state_dict()} | rest, "a.ckpt")
    code, text, _ = run("compress", "a.ckpt", "a.ect")
    assert code == 0
    assert f"{key!r} of a.ckpt; left out: optimizer, random, best" in text
    assert ec.load_file("a.ect").keys() == {"weight", "bias"}


def test_a_pickle_of_code_is_refused_and_not_run(refusal, folder):
    (folder / "a.pt").write_bytes(b"cbuiltins\nopen\n(S'ran'\nS'w'\ntR.")
    assert "a.pt: no checkpoint" in refusal("compress", "a.pt", "a.ect")
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("saved", [torch.nn.Linear(3, 2), [torch.ones(2)]], ids=["module", "list"])
def test_what_is_no_state_dict_says_how_to_save_one(refusal, saved):
    torch.save(saved, "a.pt")
    for command in (("compress", "a.pt", "a.ect"), ("compare", "a.pt")):
        assert "a.pt: " in (line := refusal(*command))
        assert "expected one state dict: torch.save(model.state_dict(), path)" in line


def test_letters_that_a_terminal_lacks_are_escaped(monkeypatch, folder):
    ec.save_file({"été": torch.ones(3)}, "u.ect", {"ключ": "值"})
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    monkeypatch.setattr(sys, "argv", ["ectorch", "inspect", "u.ect"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    sys.stdout.flush()
    assert stop.value.code == 0
    assert rb"\xe9t\xe9" in raw.getvalue()
    assert rb"\u043a\u043b\u044e\u0447 = \u503c" in raw.getvalue()


def test_a_full_disk_is_one_line_and_leaves_no_half_file(refusal, monkeypatch, folder):
    safetensors.torch.save_file({"a": torch.ones(3)}, "a.safetensors")
    ec.save_file({"a": torch.ones(3)}, "a.ect")
    before = sorted(folder.iterdir())

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for command in (
        ("compress", "a.safetensors", "b.ect"),
        ("decompress", "a.ect", "b.safetensors"),
    ):
        assert f"{command[2]}: No space left" in refusal(*command)
    assert sorted(folder.iterdir()) == before


def test_the_record_of_an_evaluation_stays_json(run, folder):
    from ectorch.experiments.networks import LeNet300100

    name = "[red]\x1b[2J.ect"
    ec.save_file(LeNet300100(), name)
    _, text, _ = run("eval", name, "--data", "digits", "--json")
    assert json.loads(text)["file"] == name
    assert "\x1b" not in text
