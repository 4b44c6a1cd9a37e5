"""``threads`` is a whole number from 1 on or None, for files of every size."""

import numpy as np
import pytest
import torch

import ectorch as ec
from ectorch.bitstream import Reader, encode_file
from ectorch.bitstream.file.meter import FileMeter
from ectorch.bitstream.file.writer import write_file
from ectorch.errors import ConfigError
from ectorch.size.measure import SizeMeter
from ectorch.storage.files import load, save
from ectorch.storage.tensors import raw_tensors

SIZES = [0, 10, 100_000]
WRONG = [0, -1, 1.5, "2", True, torch.tensor(0.5)]


def calls(size, path):
    model = torch.nn.Linear(size, 1)
    data = save(model, preset="fast")
    path.write_bytes(data)
    raw = raw_tensors(model)
    return {
        "save": lambda n: save(model, preset="fast", threads=n),
        "save_file": lambda n: ec.save_file(model, path, preset="fast", threads=n),
        "encode_file": lambda n: encode_file(raw, preset="fast", threads=n),
        "write_file": lambda n: write_file(path, raw, preset="fast", threads=n),
        "load": lambda n: load(data, threads=n),
        "load_file": lambda n: ec.load_file(path, threads=n),
        "load_model": lambda n: ec.load_model(model, path, threads=n),
        "safe_open": lambda n: ec.safe_open(path, threads=n).__exit__(),
        "Reader": lambda n: Reader(data, threads=n),
        "FileMeter": lambda n: FileMeter().measure(raw, n),
        "SizeMeter": lambda n: SizeMeter(threads=n)(model),
    }


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("size", SIZES)
def test_other_threads_are_refused_before_anything_is_done(size, tmp_path):
    path = tmp_path / "m.ect"
    for call, act in calls(size, path).items():
        before = path.read_bytes()
        for threads in WRONG:
            with pytest.raises(ConfigError, match=r"threads is .*, expected a whole number"):
                act(threads)
        assert path.read_bytes() == before, call


@pytest.mark.parametrize("threads", [1, 3, np.int64(2), None])
def test_whole_numbers_of_any_kind_are_taken(threads, tmp_path):
    for act in calls(10, tmp_path / "m.ect").values():
        act(threads)
