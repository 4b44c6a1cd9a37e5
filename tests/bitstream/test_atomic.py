"""A file is there whole or as it was, whatever stands at its path and whoever was killed before."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ectorch.bitstream import atomic, write_atomic

posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and locks of POSIX")
KILLED = """
import sys, time
from ectorch.bitstream import write_atomic

def parts():
    yield b"half"
    print("begun", flush=True)
    time.sleep(60)

write_atomic(sys.argv[1], parts())
"""


def test_a_write_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "model.ect"
    assert write_atomic(path, b"old!") == 4
    assert write_atomic(str(path), iter([b"ne", memoryview(b"w")])) == 3
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_write_changes_nothing(failing, existed, tmp_path, monkeypatch):
    path = tmp_path / "model.ect"
    if existed:
        path.write_bytes(b"old")

    def fail(*_):
        assert not existed or path.read_bytes() == b"old"
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match=f"disk full.*{path}"):
        write_atomic(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"old"] if existed else [])


def test_an_error_of_what_makes_the_parts_changes_nothing(tmp_path):
    path = tmp_path / "model.ect"
    path.write_bytes(b"old")

    def parts():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomic(path, parts())
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("length", [1, 243, 244, 255])
def test_names_of_every_length_can_be_written(length, tmp_path):
    path = tmp_path / ("m" * length)
    write_atomic(path, b"data")
    assert path.read_bytes() == b"data"


@pytest.mark.parametrize("name", ["m" * 256, "nowhere/model.ect"])
def test_what_cannot_be_written_is_named(name, tmp_path):
    with pytest.raises(OSError, match=name) as raised:
        write_atomic(tmp_path / name, b"data")
    assert raised.value.filename == str(tmp_path / name)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", b"data")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o755])
def test_the_mode_of_a_file_is_kept(mode, tmp_path):
    path = tmp_path / "model.ect"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomic(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_new_file_has_what_the_umask_leaves(mask, tmp_path):
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "model.ect", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "model.ect").stat().st_mode) == 0o666 & ~mask


@posix
@pytest.mark.parametrize("mode", [None, 0o600, 0o644])
def test_the_temporary_file_is_never_more_open_than_the_final_one(mode, tmp_path):
    path, seen = tmp_path / "model.ect", []
    if mode is not None:
        path.write_bytes(b"old")
        path.chmod(mode)

    def parts():
        (temporary,) = (p for p in tmp_path.iterdir() if p != path)
        seen.append(stat.S_IMODE(temporary.stat().st_mode))
        yield b"new"

    write_atomic(path, parts())
    assert not seen[0] & ~stat.S_IMODE(path.stat().st_mode)


@posix
def test_a_file_of_another_group_stays_closed_to_ours(tmp_path, monkeypatch):
    path = tmp_path / "model.ect"
    path.write_bytes(b"old")
    path.chmod(0o660)
    other = os.stat_result([*path.stat()[:5], path.stat().st_gid + 1, *path.stat()[6:]])
    monkeypatch.setattr(atomic, "_stat", lambda _: other)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    write_atomic(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@posix
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path):
    path = tmp_path / "model.ect"
    path.write_bytes(b"old")
    path.chmod(0o400)
    with pytest.raises(PermissionError, match="model"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


@posix
@pytest.mark.parametrize("exists", [True, False])
def test_the_target_of_a_link_is_written(exists, tmp_path):
    (tmp_path / "other").mkdir()
    target, link = tmp_path / "other/real.ect", tmp_path / "latest.ect"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to("other/real.ect")
    write_atomic(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert {p.name for p in tmp_path.iterdir()} == {"other", "latest.ect"}


@posix
def test_links_in_a_circle_are_an_os_error(tmp_path):
    link = tmp_path / "circle"
    link.symlink_to(link)
    with pytest.raises(OSError, match="circle"):
        write_atomic(link, b"new")
    assert link.is_symlink()


@posix
def test_a_pipe_gets_the_bytes_and_stays_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit(path.read_bytes)
        assert write_atomic(path, iter([b"a", b"b"])) == 2
        assert read.result() == b"ab"
    assert stat.S_ISFIFO(path.stat().st_mode)


@posix
@pytest.mark.parametrize("redirected", [True, False])
def test_standard_output_gets_the_bytes(redirected, tmp_path):
    code = "from ectorch.bitstream import write_atomic; write_atomic('/dev/stdout', b'data')"
    out = tmp_path / "out"
    with out.open("wb") as file:
        target = file if redirected else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", code], stdout=target, check=True)
    assert (out.read_bytes() if redirected else done.stdout) == b"data"
    assert list(tmp_path.iterdir()) == [out]


@posix
@pytest.mark.parametrize("device", ["/dev/null", "link"])
def test_a_device_stays_a_device(device, tmp_path):
    (tmp_path / "link").symlink_to("/dev/null")
    write_atomic(tmp_path / device, b"data")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert (tmp_path / "link").is_symlink()


@posix
def test_other_hard_links_keep_the_old_content(tmp_path):
    path, other = tmp_path / "model.ect", tmp_path / "backup.ect"
    path.write_bytes(b"old")
    other.hardlink_to(path)
    write_atomic(path, b"new")
    assert (path.read_bytes(), other.read_bytes()) == (b"new", b"old")


@posix
def test_a_link_planted_where_the_temporary_file_goes_is_not_followed(tmp_path, monkeypatch):
    victim, tokens = tmp_path / "victim", iter(["first", "second"])
    victim.write_bytes(b"precious")
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda _: next(tokens))
    monkeypatch.setattr(atomic, "_remove_orphans", lambda _: None)
    (tmp_path / f"{atomic._prefix()}first.part").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "model.ect", b"new")
    assert victim.read_bytes() == b"precious"


def kill_a_writer(path):
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"begun\n"
        yield writer
        writer.send_signal(signal.SIGKILL)


@posix
def test_what_a_killed_writer_left_is_removed_by_the_next(tmp_path):
    path, other = tmp_path / "model.ect", tmp_path / "other.ect"
    path.write_bytes(b"old")
    for _ in kill_a_writer(path):
        write_atomic(other, b"fine")
        assert len(list(tmp_path.iterdir())) == 3  # that of a writer who lives is left alone
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 3
    write_atomic(path, b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.ect", "other.ect"]
    assert path.read_bytes() == b"new"


@posix
def test_files_that_only_look_like_temporary_ones_stay(tmp_path):
    names = [".ectorch-00000000-0.part", f"{atomic._prefix()}folder", f"{atomic._prefix()}link"]
    (tmp_path / names[0]).write_bytes(b"of another machine")
    (tmp_path / names[1]).mkdir()
    (tmp_path / names[2]).symlink_to(names[0])
    write_atomic(tmp_path / "model.ect", b"new")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*names, "model.ect"])


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    path, start = tmp_path / "model.ect", threading.Barrier(8)

    def write(at):
        start.wait()
        for _ in range(20):
            write_atomic(path, [bytes([at]) * 5000, bytes([at]) * 5000])
            assert len(set(path.read_bytes())) == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_system_without_locks_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "fcntl", None)
    write_atomic(tmp_path / "model.ect", b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"new"]
