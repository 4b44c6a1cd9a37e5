"""A write keeps what was there until the new file is whole: modes, links, devices, the folder."""

import itertools
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

import ectorch as ec
from ectorch.bitstream import write_atomic
from ectorch.bitstream.file import atomic
from ectorch.storage.files import save

posix = pytest.mark.skipif(os.name == "nt", reason="modes, links and devices")


@pytest.fixture(autouse=True)
def umask():
    old = os.umask(0o027)
    yield
    os.umask(old)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def watched(path, data=b"new"):
    """``data``, and the modes that the files of the folder have while it is written."""
    modes = []

    def parts():
        yield data
        modes.extend(mode_of(file) for file in path.parent.iterdir() if file.suffix == ".part")

    write_atomic(path, parts())
    return modes


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755, 0o400, 0o444])
def test_a_file_keeps_its_mode(mode, tmp_path):
    path = tmp_path / "m.ect"
    path.write_bytes(b"old")
    path.chmod(mode)
    modes = watched(path)
    assert path.read_bytes() == b"new"
    assert mode_of(path) == mode
    assert [partial & ~mode for partial in modes] == [0]


@posix
def test_a_new_file_has_the_mode_that_the_process_gives(tmp_path):
    path = tmp_path / "m.ect"
    assert watched(path) == [0o640]
    assert mode_of(path) == 0o640


@posix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may")
def test_owner_and_group_stay(tmp_path):
    path = tmp_path / "m.ect"
    path.write_bytes(b"old")
    os.chown(path, 12345, 23456)
    path.chmod(0o660)
    write_atomic(path, b"new")
    status = path.stat()
    assert (status.st_uid, status.st_gid, mode_of(path)) == (12345, 23456, 0o660)


@posix
def test_another_group_may_do_what_anyone_may(tmp_path, monkeypatch):
    path = tmp_path / "m.ect"
    path.write_bytes(b"old")
    path.chmod(0o664)
    group = path.stat().st_gid

    def deny(*_):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", deny)
    status = os.stat_result((*path.stat()[:5], group + 1, *path.stat()[6:]))
    monkeypatch.setattr(atomic, "_status", lambda _: status)
    write_atomic(path, b"new")
    assert mode_of(path) == 0o644


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(exists, tmp_path):
    folder = tmp_path / "there"
    folder.mkdir()
    target, link, second = folder / "target", tmp_path / "link", tmp_path / "second"
    link.symlink_to(Path("there/target"))
    second.symlink_to(link)
    if exists:
        target.write_bytes(b"old")
    ec.save_file({"a": torch.ones(3)}, second)
    assert link.is_symlink()
    assert second.is_symlink()
    assert ec.load_file(target)["a"].tolist() == [1, 1, 1]
    assert sorted(tmp_path.rglob("*")) == sorted([folder, target, link, second])


@posix
def test_a_loop_of_links_is_an_error(tmp_path):
    link = tmp_path / "loop"
    link.symlink_to(link)
    with pytest.raises(OSError, match=str(link)):
        write_atomic(link, b"")
    assert link.is_symlink()


@posix
def test_a_pipe_is_written_to(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    state = {"a": torch.arange(3)}
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(path.read_bytes)
        size = ec.save_file(state, path)
        assert read.result() == save(state)
    assert size == len(save(state))
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert list(tmp_path.iterdir()) == [path]


@posix
def test_a_device_is_written_to(tmp_path):
    before = Path("/dev/null").stat()
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    for path in (link, "/dev/null"):
        assert write_atomic(path, b"gone") == 4
    assert stat.S_ISCHR(before.st_mode)
    assert Path("/dev/null").stat().st_ino == before.st_ino


@posix
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_standard_output_is_written_to(name, kind, tmp_path):
    code = f"from ectorch.bitstream import write_atomic; write_atomic({name!r}, b'whole')"
    out = tmp_path / "out"
    with out.open("wb") as file:
        place = out.stat().st_ino
        stdout = file if kind == "file" else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", code], stdout=stdout, check=True)
    assert (done.stdout or out.read_bytes()) == b"whole"
    assert out.stat().st_ino == place


def test_a_folder_is_no_target(tmp_path):
    with pytest.raises(OSError, match=str(tmp_path)):
        write_atomic(tmp_path, b"")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_atomic(tmp_path / "nowhere/m.ect", b"")


@pytest.mark.parametrize("length", [244, 250, 255])
def test_a_name_may_be_as_long_as_the_folder_takes(length, tmp_path):
    path = tmp_path / ("n" * (length - 4) + ".ect")
    write_atomic(path, b"first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"


@posix
def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    path, victim = tmp_path / "m", tmp_path / "victim"
    victim.write_bytes(b"precious")
    tokens = itertools.count()
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: f"{next(tokens):0{2 * size}}")
    planted = tmp_path / leftover(path, "00000001")  # the next one
    planted.symlink_to(victim)
    write_atomic(path, b"new")
    assert (path.read_bytes(), victim.read_bytes()) == (b"new", b"precious")
    assert not path.is_symlink()


@pytest.mark.parametrize("same", [True, False])
def test_writers_at_once_do_not_collide(same, tmp_path):
    paths = [tmp_path / ("one" if same else str(at)) for at in range(8)]

    def write(at):
        for _ in range(20):
            write_atomic(paths[at], b"%d" % at * 1000)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert sorted(tmp_path.iterdir()) == sorted(set(paths))
    assert all(len(path.read_bytes()) == 1000 for path in paths)


def leftover(path, token="0123abcd"):
    """A name that `write_atomic` gives to what is to be ``path``."""
    names = []
    parts = (names.extend(p.name for p in path.parent.glob(".ect-*")) or b"" for _ in range(1))
    existed = path.exists()
    write_atomic(path, parts)
    if not existed:
        path.unlink()
    return f"{names[0].rpartition('-')[0]}-{token}.part"


WRITER = """
import sys
from ectorch.bitstream import write_atomic
def parts():
    yield b"half"
    print("begun", flush=True)
    sys.stdin.read()
    yield b"whole"
write_atomic(sys.argv[1], parts())
"""


@pytest.fixture
def start_writer():
    started = []

    def start(path):
        """A process amid its write, which it ends when it is told to."""
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", WRITER, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        )
        assert started[-1].stdout.readline() == b"begun\n"
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


@posix
def test_what_a_killed_writer_left_is_removed_by_the_next(start_writer, tmp_path):
    path, other = tmp_path / "m.ect", tmp_path / "n.ect"
    path.write_bytes(b"old")
    killed, live, elsewhere = start_writer(path), start_writer(path), start_writer(other)
    assert len(list(tmp_path.iterdir())) == 4
    for process in (killed, elsewhere):
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert len(list(tmp_path.iterdir())) == 3  # the live writer's, and the one of another name
    assert path.read_bytes() == b"new"
    live.communicate()
    assert live.returncode == 0
    assert path.read_bytes() == b"halfwhole"
    write_atomic(other, b"new")
    assert sorted(tmp_path.iterdir()) == [path, other]


def test_what_is_similar_to_a_leftover_stays(tmp_path):
    path = tmp_path / "m.ect"
    mine, others = tmp_path / leftover(path), tmp_path / leftover(tmp_path / "n.ect")
    for file in (mine, others, tmp_path / ".m.ect.part"):
        file.write_bytes(b"half")
    write_atomic(path, b"new")
    assert not mine.exists()
    assert others.exists()
    assert (tmp_path / ".m.ect.part").exists()


@posix
def test_a_writer_whose_file_is_taken_for_a_leftover_begins_another(tmp_path, monkeypatch):
    """Between the creation of a file and its lock, another writer may remove it."""
    lock, taken = atomic.fcntl.flock, []

    def flock(descriptor, how):
        if how == atomic.fcntl.LOCK_EX and not taken:
            taken.extend(tmp_path.glob(".ect-*"))
            taken[0].unlink()
        lock(descriptor, how)

    monkeypatch.setattr(atomic.fcntl, "flock", flock)
    write_atomic(tmp_path / "m.ect", b"new")
    assert taken
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"new"]


@posix
def test_file_systems_without_locks_are_written_to(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no locks")

    monkeypatch.setattr(atomic.fcntl, "flock", refuse)
    path = tmp_path / "m.ect"
    left = tmp_path / leftover(path)
    left.write_bytes(b"half")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert left.exists()  # it may be a live writer's


@posix
@pytest.mark.parametrize("existed", [True, False])
def test_file_and_folder_are_synced(existed, tmp_path, monkeypatch):
    path, sync, synced = tmp_path / "m.ect", os.fsync, []
    if existed:
        path.write_bytes(b"old")

    def fsync(descriptor):
        synced.append((os.fstat(descriptor).st_ino, path.exists() and path.read_bytes()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(path, b"new")
    before = b"old" if existed else False
    assert synced == [(path.stat().st_ino, before), (tmp_path.stat().st_ino, b"new")]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_write_changes_nothing(error, tmp_path):
    path = tmp_path / "m.ect"
    path.write_bytes(b"old")

    def parts():
        yield b"half"
        raise error

    with pytest.raises(error):
        write_atomic(path, parts())
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]
