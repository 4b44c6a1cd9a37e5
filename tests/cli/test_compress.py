import json

import pytest
import torch
from safetensors.torch import save_file as save_safetensors

from ectorch.storage.files import load_file


@pytest.fixture
def checkpoint(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {
        "embed.weight": torch.randn(500, 40, generator=draw),
        "norm.running_var": torch.rand(40, generator=draw),
        "out.weight": torch.randn(40, 40, generator=draw) / 40,
    }
    torch.save(tensors, tmp_path / "a.pt")
    return tmp_path / "a.pt", tensors


@pytest.mark.parametrize("asked", ["8000", "8kB", "8 KB", "7.8125KiB", "0.008MB"])
def test_a_file_of_the_size_that_is_asked_for(run, checkpoint, tmp_path, asked):
    source, tensors = checkpoint
    before = source.read_bytes()
    code, out, err = run("compress", source, tmp_path / "a.ect", "--target-size", asked)
    assert (code, err) == (0, "")
    size = (tmp_path / "a.ect").stat().st_size
    assert 7900 <= size <= 8000
    assert f"{size:,} bytes (x" in out
    assert "norm.running_var stays float: statistics or settings, by its name" in out
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ect", "a.pt"]
    loaded = load_file(tmp_path / "a.ect")
    assert torch.equal(loaded["norm.running_var"], tensors["norm.running_var"])
    assert 0 < (loaded["embed.weight"] - tensors["embed.weight"]).abs().mean() < 0.3


def test_bits_and_names_that_stay(run, checkpoint, tmp_path):
    source, tensors = checkpoint
    code, out, _ = run("compress", source, tmp_path / "a.ect", "--bits", "5", "--keep", "out.*")
    assert code == 0
    assert "out.weight stays float: kept by its name" in out
    assert torch.equal(load_file(tmp_path / "a.ect")["out.weight"], tensors["out.weight"])
    numbers = sum(tensor.numel() for tensor in tensors.values())
    assert (tmp_path / "a.ect").stat().st_size <= 5 * numbers / 8


def test_lossless_is_what_it_does_without_a_size(run, checkpoint, tmp_path):
    source, tensors = checkpoint
    assert run("compress", source, tmp_path / "a.ect")[0] == 0
    assert run("compress", source, tmp_path / "b.ect", "--lossless")[0] == 0
    assert (tmp_path / "a.ect").read_bytes() == (tmp_path / "b.ect").read_bytes()
    loaded = load_file(tmp_path / "a.ect")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--target-size", "8 parsecs"], "--target-size 8 parsecs: expected bytes"),
        (["--target-size", "-3"], "expected bytes"),
        (["--target-size", "0"], "expected bytes"),
        (["--target-size", "40"], "smallest file of this network takes"),
        (["--target-size", "8kB", "--bits", "3"], "one of --target-size, --bits"),
        (["--bits", "3", "--lossless"], "one of --target-size, --bits"),
        (["--target-size", "8kB", "--keep", "head.*"], "no tensor matches 'head.*'"),
        (["--keep", "out.*"], "without --target-size or --bits no number changes"),
    ],
)
def test_what_cannot_be_is_one_line(run, checkpoint, tmp_path, options, words):
    source, _ = checkpoint
    code, _, err = run("compress", source, tmp_path / "a.ect", *options)
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt"]


def test_numbers_that_are_none_are_named(run, tmp_path):
    torch.save(
        {"a.weight": torch.cat([torch.randn(30, 30), torch.full((1, 30), torch.inf)])},
        tmp_path / "b.pt",
    )
    code, _, err = run("compress", tmp_path / "b.pt", tmp_path / "b.ect", "--bits", "4")
    assert code == 2
    assert "a.weight holds NaN or infinity" in err


@pytest.fixture
def shards(tmp_path):
    """Two shards and their index, as Transformers writes them."""
    folder = tmp_path / "sharded"
    folder.mkdir()
    tensors = {f"layer.{at}.weight": torch.randn(30, 20) for at in range(3)}
    parts = {
        "a.safetensors": ["layer.0.weight", "layer.2.weight"],
        "b.safetensors": ["layer.1.weight"],
    }
    for shard, names in parts.items():
        save_safetensors({name: tensors[name] for name in names}, folder / shard, {"format": "pt"})
    weight_map = {name: shard for shard, names in parts.items() for name in names}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 7200}, "weight_map": weight_map}))
    return index, tensors


@pytest.mark.parametrize("given", ["index", "folder"])
def test_shards_are_one_checkpoint(run, shards, tmp_path, given):
    index, tensors = shards
    target = tmp_path / "a.ect"
    code, out, err = run("compress", index if given == "index" else index.parent, target)
    assert (code, err) == (0, "")
    before = sum(path.stat().st_size for path in index.parent.glob("*.safetensors"))
    assert f"{before:,} bytes -> " in out
    loaded = load_file(target)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def broken(index):
    """What may be wrong with shards, and what is said of it."""
    whole = json.loads(index.read_text())["weight_map"]

    def write(**changes):
        index.write_text(json.dumps({"weight_map": whole | changes}))

    return {
        "missing shard": (
            lambda: (index.parent / "b.safetensors").unlink(),
            "b.safetensors: No such",
        ),
        "missing tensor": (lambda: write(new="a.safetensors"), "a.safetensors lacks new"),
        "another shard": (
            lambda: write(**{"layer.1.weight": "a.safetensors"}),
            "a.safetensors lacks layer.1.weight",
        ),
        "elsewhere": (lambda: write(new="../x.safetensors"), "is no name of a file beside it"),
        "no index": (lambda: index.write_text("[1, 2"), "no index of shards"),
        "no names": (
            lambda: index.write_text('{"weight_map": {"a": 3}}'),
            "something else than names",
        ),
        "damaged shard": (
            lambda: (index.parent / "a.safetensors").write_bytes(b"x" * 50),
            "a.safetensors",
        ),
        "two indexes": (
            lambda: (index.parent / f"other{index.name}").write_text("{}"),
            "2 files that end in",
        ),
        "nothing": (lambda: [path.unlink() for path in index.parent.iterdir()], "0 files that end"),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("missing shard", "missing tensor", "another shard", "elsewhere", "no index"),
        *("no names", "damaged shard", "two indexes", "nothing"),
    ],
)
def test_shards_that_do_not_fit_are_one_line(run, shards, tmp_path, case):
    index, _ = shards
    breaks, words = broken(index)[case]
    breaks()
    code, _, err = run("compress", index.parent, tmp_path / "a.ect")
    assert code == 2
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "a.ect").exists()
