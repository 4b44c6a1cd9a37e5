"""Code blocks of README and docs run as tests, in a folder that has what they read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

_ROOT = Path(__file__).parent

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def documents_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a reader has after `make demo`; blank images stand in for MNIST's test set."""
    folder = tmp_path_factory.mktemp("documents")
    (folder / "runs/demo").mkdir(parents=True)
    shutil.copy(
        _ROOT / "results/mnist/lenet-300-100-alpha-0.3-seed-0.ect", folder / "runs/demo/model.ect"
    )
    np.zeros(16 + 20 * 784, np.uint8).tofile(folder / "t10k-images-idx3-ubyte")
    np.zeros(8 + 20, np.uint8).tofile(folder / "t10k-labels-idx1-ubyte")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        yield


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    fixtures=["documents_folder"],
).pytest()
