"""One handle for threads, forked and spawned workers, and copies: every read is its own."""

import asyncio
import copy
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import ectorch as ec
from ectorch.bitstream import Reader
from ectorch.errors import ConfigError, FormatError

TENSORS = 24


def state(seed=0):
    """Blocks of their own, shared ones, a coded grid that is cut into chunks, and hints."""
    rng = torch.Generator().manual_seed(seed)
    tensors = {}
    for at in range(0, TENSORS, 4):
        mask = torch.rand(64, 1, generator=rng) < 0.5  # rows that feed the columns of the next
        tensors[f"{at:02}"] = torch.randint(0, 256, (5000,), dtype=torch.uint8, generator=rng)
        tensors[f"{at + 1:02}"] = torch.randn(30, 3, generator=rng)
        tensors[f"{at + 2:02}"] = mask * torch.randint(-1, 2, (64, 64), generator=rng) / 4
        tensors[f"{at + 3:02}"] = mask.T * torch.randint(-1, 2, (64, 64), generator=rng) / 4
    return tensors


STATE = state()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "m.ect"
    ec.save_file(STATE, path)
    return path


@pytest.fixture
def switching():
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def read_wrong(file, name):
    """Whether any way to read one tensor gives other bits."""
    whole, want = file.get_tensor(name), STATE[name]
    part = file.get_slice(name)[3:9]
    return not (whole.equal(want) and part.equal(want[3:9]))


def test_the_file_has_hints(path):
    with Reader(path) as reader:
        assert any(reader._hint_of(entry) is not None for entry in reader)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("positional", [True, False])
@pytest.mark.usefixtures("switching")
def test_sixteen_threads_read_what_was_written(threads, positional, path, monkeypatch):
    if not positional:  # as on Windows
        monkeypatch.delattr(os, "pread")
    with ec.safe_open(path, threads=threads) as file, ThreadPoolExecutor(16) as pool:
        assert not any(pool.map(partial(read_wrong, file), list(STATE) * 8))


@pytest.mark.usefixtures("switching")
def test_threads_hammer_one_reader(path):
    """Payloads, rows, hints, whole files and checks at once; nothing waits for anything."""
    stored = path.read_bytes()
    with Reader(path) as reader:
        payloads = {name: reader.payload(name) for name in STATE}
        whole = {name: tensor.bits for name, tensor in reader.read_all().items()}
    assert all(payload in stored for payload in payloads.values())

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(40):
            name = f"{rng.integers(TENSORS):02}"
            rows = range(2, 2 + int(rng.integers(1, 20)))
            row = STATE[name][0].numel()
            assert reader.payload(name) == payloads[name]
            assert np.array_equal(
                reader.read(name, rows).bits, whole[name][2 * row : rows.stop * row]
            )
        reader.verify()
        assert all(np.array_equal(t.bits, whole[n]) for n, t in reader.read_all().items())

    with Reader(path, threads=2) as reader, ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work, seed) for seed in range(16)]:
            done.result()


def test_the_executor_of_asyncio_reads_what_was_written(path):
    async def read_all(file):
        loop = asyncio.get_running_loop()
        work = [loop.run_in_executor(None, read_wrong, file, name) for name in list(STATE) * 4]
        return await asyncio.gather(*work)

    with ec.safe_open(path) as file:
        assert not any(asyncio.run(read_all(file)))


class Tensors(Dataset):
    def __init__(self, file):
        self.file, self.names = file, list(STATE) * 4

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        return read_wrong(self.file, self.names[index])


@pytest.mark.parametrize(("start", "workers"), [("fork", 2), ("spawn", 1)])
def test_workers_of_a_data_loader_share_a_handle(start, workers, path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2])  # where a spawned worker finds Tensors
    with ec.safe_open(path, threads=1) as file:
        file.get_tensor("02")
        loader = DataLoader(Tensors(file), num_workers=workers, multiprocessing_context=start)
        seen = [bool(wrong) for wrong in loader]
        assert len(seen) == 4 * TENSORS
        assert not any(seen)
        assert not read_wrong(file, "05")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.usefixtures("switching")
def test_a_child_forked_amid_reads_of_threads_is_not_stuck(path):
    stop = threading.Event()
    with ec.safe_open(path, threads=1) as file, ThreadPoolExecutor(4) as pool:

        def read_on(name):
            while not stop.is_set():
                assert not read_wrong(file, name)

        readers = [pool.submit(read_on, name) for name in ("00", "02", "03", "07")]
        for _ in range(5):
            child = os.fork()
            if not child:
                os._exit(int(any(read_wrong(file, name) for name in STATE)))
            assert os.waitpid(child, 0)[1] == 0
        stop.set()
        for reader in readers:
            reader.result()


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda f: pickle.loads(pickle.dumps(f))]
)
@pytest.mark.parametrize("source", [os.fspath, lambda path: path.read_bytes()])
def test_copies_read_on_their_own(again, source, path):
    with Reader(source(path), 1 << 20, threads=1) as reader, again(reader) as copied:
        assert copied.read("03").bits.tolist() == reader.read("03").bits.tolist()
        reader.__exit__()
        assert len(copied.read_all()) == TENSORS
        assert (copied._limit, copied._threads) == (1 << 20, 1)


def test_a_pickle_finds_its_file_from_another_folder(path, monkeypatch, tmp_path):
    monkeypatch.chdir(path.parent)
    with ec.safe_open(path.name) as file:
        pickled = pickle.dumps(file)
    monkeypatch.chdir(tmp_path)
    with pickle.loads(pickled) as file:
        assert not read_wrong(file, "01")


def replace_whole(path):
    ec.save_file(state(1), path, preset="fast")


def change_the_header_alone(path):
    status = path.stat()
    ec.save_file(STATE, path, {"epoch": "2"})
    assert path.stat().st_size == status.st_size
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("replace", [replace_whole, change_the_header_alone])
def test_a_pickle_refuses_another_file(replace, tmp_path):
    path = tmp_path / "m.ect"
    ec.save_file(STATE, path, {"epoch": "1"})
    with ec.safe_open(path) as file:
        pickled = pickle.dumps(file)
        replace(path)
        assert not read_wrong(file, "02")  # what was opened is still there
    with pytest.raises(FormatError, match=r"m\.ect: (the file has changed|another file)"):
        pickle.loads(pickled)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickled)


def cut(path):
    os.truncate(path, path.stat().st_size - 1)


def overwrite(path):
    other = path.with_name("other")
    ec.save_file(state(1), other, preset="fast")
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("change", [cut, overwrite])
@pytest.mark.parametrize("positional", [True, False])
def test_a_file_that_changes_under_a_handle_is_refused(change, positional, tmp_path, monkeypatch):
    if not positional:
        monkeypatch.delattr(os, "pread")
    path = tmp_path / "m.ect"
    ec.save_file(STATE, path)
    os.utime(path, ns=(0, 0))
    with ec.safe_open(path) as file:
        assert not read_wrong(file, "00")
        change(path)
        for name in ("04", "05", "07"):
            with pytest.raises(FormatError, match=r"m\.ect: the file has changed since"):
                file.get_tensor(name)


@pytest.mark.parametrize("positional", [True, False])
def test_a_closed_reader_says_so(positional, path, monkeypatch):
    if not positional:
        monkeypatch.delattr(os, "pread")
    with Reader(path) as reader:
        pass
    with pytest.raises(ConfigError, match=r"m\.ect is closed"):
        reader.read("00")
    with pytest.raises(ConfigError, match=r"m\.ect is closed"):
        pickle.dumps(reader)


def test_rows_do_not_hold_their_tensor(path):
    with Reader(path) as reader:
        bits = reader.read("00", range(1, 3)).bits
    assert bits.base is None
    assert bits.tolist() == STATE["00"][1:3].tolist()


def test_equal_tensors_share_no_memory(tmp_path):
    path = tmp_path / "tied.ect"
    ec.save_file({"a": torch.arange(9.0), "b": torch.arange(9.0)}, path)
    for load in (ec.load_file, ec.bitstream.load_file):
        loaded = load(path)
        loaded["a"][:] = 0
        assert loaded["b"].tolist() == list(range(9))
