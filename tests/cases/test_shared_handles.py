"""One handle for threads, for processes after a fork, and pickled: each gets its own bytes."""

import asyncio
import multiprocessing
import os
import pickle
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import ectorch as ec
from ectorch.bitstream import RawTensor, Reader, encode_file, source, write_file
from ectorch.errors import FormatError


def tensors():
    """Small ones that share blocks, some coded with hints, and ones that have their own block."""
    rng = np.random.default_rng(7)
    arrays = {}
    for at in range(4):  # a unit that hears much is heard much
        heard = rng.choice([0.0, 0.0, 0.9], 256)
        live = [rng.random((256, 16)) < heard[:, None], rng.random((3, 256)) < heard]
        for part, of in zip(["in", "out"], live, strict=True):
            arrays[f"layer{at}.{part}"] = of * rng.choice(np.float32([-1, 1]), of.shape)
    arrays |= {f"layer{at}.bias": rng.standard_normal(24).astype(np.float32) for at in range(6)}
    arrays |= {f"noise{at}": rng.standard_normal((16, 200)).astype(np.float32) for at in range(6)}
    return {
        name: RawTensor("float32", array.shape, array.reshape(-1).view(np.uint32))
        for name, array in arrays.items()
    }


TENSORS = tensors()


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("shared") / "model.ect"
    write_file(path, TENSORS)
    with Reader(path) as reader:
        assert any(reader._hint(entry, reader.payload(entry.name)) for entry in reader)
    return path


@pytest.fixture
def hurried():
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def is_right(file, name):
    """Whether a `safe_open` gives the whole tensor and a part of it."""
    expected = torch.from_numpy(TENSORS[name].bits.view(np.float32).reshape(TENSORS[name].shape))
    rows = file.get_slice(name)[1:9]
    return torch.equal(file.get_tensor(name), expected) and torch.equal(rows, expected[1:9])


@pytest.mark.parametrize("without_pread", [False, True])
def test_threads_that_share_a_handle_get_what_they_ask_for(
    path, hurried, without_pread, monkeypatch
):
    if without_pread:
        monkeypatch.delattr(os, "pread")
    with ec.safe_open(path) as file, ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda name: is_right(file, name), [*TENSORS] * 8))


def test_threads_that_share_a_reader_get_payloads_tensors_and_whole_files(path, hurried):
    with Reader(path, threads=2) as alone:
        payloads = {name: alone.payload(name) for name in TENSORS}

    def work(reader, name):
        if name == "noise0":
            reader.verify()
            assert all(
                np.array_equal(t.bits, TENSORS[n].bits) for n, t in reader.read_all().items()
            )
        assert reader.payload(name) == payloads[name]
        assert np.array_equal(reader.read(name).bits, TENSORS[name].bits)

    with Reader(path, threads=2) as reader, ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [reader] * 4 * len(TENSORS), [*TENSORS] * 4))


def test_slices_are_shared_too(path, hurried):
    with ec.safe_open(path) as file, ThreadPoolExecutor(16) as pool:
        part = file.get_slice("noise3")
        expected = file.get_tensor("noise3")
        rows = list(pool.map(lambda at: (at, part[at]), [*range(16)] * 20))
    assert all(torch.equal(row, expected[at]) for at, row in rows)


def test_the_executor_of_asyncio_may_read(path):
    async def read(file):
        loop = asyncio.get_running_loop()
        tasks = [loop.run_in_executor(None, is_right, file, name) for name in TENSORS]
        return await asyncio.gather(*tasks)

    with ec.safe_open(path) as file:
        assert all(asyncio.run(read(file)))


class Stored(Dataset):
    def __init__(self, file):
        self.file, self.names = file, list(TENSORS)

    def __len__(self):
        return len(self.names)

    def __getitem__(self, at):
        return int(is_right(self.file, self.names[at]))


# Python warns of a fork where the test runner has threads.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_data_loader_read_at_once(path, method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(method)
    with ec.safe_open(path) as file:
        assert is_right(file, "noise0")
        loader = DataLoader(Stored(file), num_workers=2, multiprocessing_context=method)
        assert all(bool(batch.all()) for batch in loader)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_in_the_middle_of_reads_of_other_threads_can_read(path, hurried):
    stop = threading.Event()

    def hammer(file):
        while not stop.is_set():
            assert is_right(file, "layer3.out")

    with ec.safe_open(path, threads=1) as file, ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(hammer, file) for _ in range(4)]
        try:
            for _ in range(5):
                child = os.fork()
                if not child:
                    os._exit(0 if all(is_right(file, name) for name in TENSORS) else 1)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        finally:
            stop.set()
        for task in tasks:
            task.result()


@pytest.mark.parametrize("again", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_pickled_handle_reads_the_same_file(path, again, monkeypatch, tmp_path):
    monkeypatch.chdir(path.parent)
    with ec.safe_open(path.name, max_decoded_bytes=1 << 21) as file:
        monkeypatch.chdir(tmp_path)
        with again(file) as other:
            assert is_right(other, "noise1")
        part = again(file.get_slice("noise1"))
        assert torch.equal(part[2], file.get_tensor("noise1")[2])


def test_bytes_pickle_as_they_are():
    with Reader(encode_file(TENSORS), threads=1) as reader:
        other = pickle.loads(pickle.dumps(reader))
        assert np.array_equal(other.read("noise1").bits, TENSORS["noise1"].bits)


def replaced(path):
    shutil.copy2(path, path.with_name("other.ect")).replace(path)


def rewritten(path):
    """With other weights of the very same sizes, as a copy over it leaves it."""
    flipped = {
        n: RawTensor(t.dtype, t.shape, t.bits ^ 1) for n, t in TENSORS.items() if "noise" in n
    }
    path.write_bytes(encode_file(TENSORS | flipped))
    os.utime(path, ns=(0, 0))


def cut(path):
    with path.open("r+b") as file:
        file.truncate(5000)


@pytest.mark.parametrize("change", [replaced, rewritten, cut, os.unlink])
def test_a_pickled_handle_refuses_another_file(change, path, tmp_path):
    copy = shutil.copy2(path, tmp_path / "model.ect")
    with Reader(copy) as reader:
        pickled = pickle.dumps(reader)
    change(copy)
    with pytest.raises((FormatError, FileNotFoundError), match=r"model\.ect"):
        pickle.loads(pickled)


@pytest.mark.parametrize("change", [rewritten, cut])
@pytest.mark.parametrize("without_pread", [False, True])
def test_an_open_handle_refuses_a_file_that_was_written_to(
    change, without_pread, path, tmp_path, monkeypatch
):
    if without_pread:
        monkeypatch.delattr(os, "pread")
    copy = shutil.copy2(path, tmp_path / "model.ect")
    with Reader(copy) as reader:
        change(copy)
        for name in ("noise1", "noise5"):
            with pytest.raises(FormatError, match=r"model\.ect: changed since it was opened"):
                reader.read(name)


def test_an_open_handle_reads_on_where_the_file_was_replaced(path, tmp_path):
    copy = shutil.copy2(path, tmp_path / "model.ect")
    with Reader(copy) as reader:
        replaced(copy)
        assert np.array_equal(reader.read("noise1").bits, TENSORS["noise1"].bits)


@pytest.mark.parametrize("open_it", [lambda path: path, lambda path: path.read_bytes()])
def test_a_closed_handle_says_so(open_it, path):
    with Reader(open_it(path)) as reader:
        pass
    for use in (lambda: reader.read("noise1"), reader.read_all, lambda: pickle.dumps(reader)):
        with pytest.raises(ValueError, match="is closed"):
            use()


def test_a_read_that_has_begun_when_the_handle_is_closed_is_finished(path, monkeypatch):
    begun, closed = threading.Event(), threading.Event()
    whole = source._Handle.read

    def slowly(handle, offset, count):
        begun.set()
        assert closed.wait(10)
        return whole(handle, offset, count)

    with Reader(path) as reader, ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(source._Handle, "read", slowly)
        task = pool.submit(reader._source.read, 0, 3)
        assert begun.wait(10)
        reader.__exit__()
        others = [path.open("rb") for _ in range(3)]  # one of them may get the number
        for other in others:
            other.close()
        closed.set()
        assert task.result() == b"ECT"
