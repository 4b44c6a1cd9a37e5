"""A full disk costs a training nothing but time; a network that died is said to have."""

import errno
import json
import os
import re
import stat

import pytest
import torch

from ectorch.experiments.collapse import collapse
from ectorch.experiments.recipe import parse_recipe
from ectorch.experiments.sweep import sweep
from ectorch.experiments.training import Interrupted, train

pytestmark = pytest.mark.usefixtures("small")
TABLE = {
    "name": "small",
    "network": "small",
    "data": "digits",
    "threads": 1,
    "pretrain": {"epochs": 1, "batch": 100},
    "constrain": {"epochs": 1, "batch": 100, "alpha": 0.05, "config": {"bias": "grid"}},
}
DEADLY = TABLE | {"constrain": TABLE["constrain"] | {"alpha": 1e5, "rise": 0.0, "lr": 0.02}}


class Disk:
    """Is full at the first file from now on, after so many."""

    def __init__(self, monkeypatch):
        self.room, self._sync = None, os.fsync
        monkeypatch.setattr(os, "fsync", self)

    def __call__(self, descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            return
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self.room:
            self.room -= 1
        self._sync(descriptor)


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    train(parse_recipe(TABLE), folder)
    return (folder / "model.ect").read_bytes()


@pytest.mark.parametrize("stop", [5, 20])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, disk, whole, stop):
    recipe, steps = parse_recipe(TABLE), []
    with pytest.raises(Interrupted):
        train(recipe, tmp_path, steps.append, lambda: len(steps) == stop)
    last = (tmp_path / "checkpoint.pt").read_bytes()
    disk.room = 0
    with pytest.raises(OSError, match="No space left") as failure:
        train(recipe, tmp_path, steps.append, lambda: len(steps) == stop + 3)
    assert str(failure.value.filename) == str(tmp_path / "checkpoint.pt")
    assert (tmp_path / "checkpoint.pt").read_bytes() == last
    disk.room = None
    train(recipe, tmp_path)
    assert (tmp_path / "model.ect").read_bytes() == whole


def test_a_disk_that_is_full_at_the_end_leaves_nothing_half(tmp_path, disk, whole):
    recipe = parse_recipe(TABLE)
    disk.room = room = 1
    names = "float.safetensors", "model.ect", "log.jsonl", "result.json"
    with pytest.raises(OSError, match="No space left") as failure:
        train(recipe, tmp_path)
    assert str(failure.value.filename) == str(tmp_path / names[room])
    assert {path.name for path in tmp_path.iterdir()} == {*names[:room]}
    disk.room = None
    train(recipe, tmp_path)
    assert (tmp_path / "model.ect").read_bytes() == whole


def test_a_command_says_where_the_disk_is_full(refusal, tmp_path, disk):
    (tmp_path / "r.toml").write_text(
        'name = "r"\nnetwork = "small"\ndata = "digits"\nthreads = 1\n'
        "[pretrain]\nepochs = 1\n[constrain]\nepochs = 1\n"
    )
    disk.room = 4
    out = tmp_path / "run"
    assert f"{out / 'report.png'}: No space" in refusal("train", tmp_path / "r.toml", "--out", out)
    assert not list(out.glob(".*"))


def test_points_of_a_sweep_are_compared_with_the_float_network(tmp_path):
    results = sweep(parse_recipe(TABLE | {"holdout": 200}), tmp_path, 3)
    assert len({result["float_error_percent"] for result in results}) == 1
    floats = [(tmp_path / f"point-{at}/float.safetensors").read_bytes() for at in (1, 2, 3)]
    assert floats[0] == floats[1] == floats[2]
    start = (tmp_path / "point-1/model.ect").read_bytes()
    assert results[0]["decoded_error_percent"] != results[0]["float_error_percent"]
    assert start != (tmp_path / "point-2/model.ect").read_bytes()


@pytest.mark.filterwarnings("ignore:.*nonzero.*")
def test_a_network_that_died_is_said_to_have(tmp_path):
    seen = []
    result = train(parse_recipe(DEADLY), tmp_path, seen.append)
    assert re.match(r"every weight of fc\d.weight is zero: a lower alpha", result["warning"])
    assert seen[-1].warning == result["warning"]
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line.get("warning") for line in lines if line.get("stage") == "pretrain"] == [None]
    assert lines[-2]["warning"] == result["warning"]


@pytest.mark.filterwarnings("ignore:.*nonzero.*")
def test_a_command_says_once_a_stage_that_a_network_died(tmp_path, run):
    (tmp_path / "r.toml").write_text(
        'name = "r"\nnetwork = "small"\ndata = "digits"\nthreads = 1\n'
        "[pretrain]\nepochs = 1\n[constrain]\nepochs = 3\nalpha = 1e5\nrise = 0.0\nlr = 0.02\n"
    )
    code, text, _ = run("train", tmp_path / "r.toml", "--out", tmp_path / "run")
    assert code == 0
    assert text.count("warning constrain: every weight of") == 1
    assert text.count("\nwarning every weight of") == 1


def test_a_network_that_lives_is_not_warned_of(tmp_path):
    assert train(parse_recipe(TABLE), tmp_path)["warning"] is None


@pytest.mark.parametrize(
    ("tensors", "error", "said"),
    [
        ({"a": torch.eye(2), "b": torch.zeros(2, 2), "c": torch.zeros(2, 2)}, 0.0, "of b is zero"),
        ({"a": torch.zeros(0, 3)}, 0.0, "of a is zero"),
        ({"a": torch.eye(2), "bias": torch.zeros(2)}, 89.9, "89.90 % is that of chance"),
        ({"a": torch.eye(2), "bias": torch.zeros(2)}, 50.0, None),
    ],
)
def test_the_first_dead_layer_is_named(tensors, error, said):
    warning = collapse(tensors, error, classes=10)
    assert warning is None if said is None else said in warning
