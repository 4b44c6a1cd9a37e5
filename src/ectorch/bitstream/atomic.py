"""Writing a file so that it appears whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import secrets
import stat
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# What the process was given: names of it may lead to a file, whose name is not what was asked for.
_STREAMS = ("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/")
_SUFFIX = ".part"
_CANNOT_SYNC = {errno.EACCES, errno.EINVAL, errno.ENOTSUP}  # a folder of this right or file system
_Data = bytes | memoryview


def write_atomic(path: str | os.PathLike[str], data: bytes | Iterable[_Data]) -> int:
    """Write beside ``path``, then rename: a reader sees the old file or the whole new one.

    A file that exists keeps its mode, and its owner and group where the process may give them away;
    a new one has what the umask leaves. Of a symbolic link the target is written; other hard links
    of a file keep the old content; extended attributes are lost. What is no regular file (a pipe, a
    device, standard output) is written to directly. A file without write permission is refused.
    What writers on this machine that were killed left in the folder is removed (not on Windows).

    Args:
        data: the file's bytes, or parts of them.

    Returns:
        the file's size in bytes.

    Raises:
        OSError: that names ``path``, which is then as it was.
    """
    parts: Iterable[_Data] = [data] if isinstance(data, bytes) else data
    try:
        before = _stat(path)
        if before is not None and not _is_replaceable(path, before):
            with open(path, "wb") as file:
                return sum(map(file.write, parts))
        target = Path(os.path.realpath(path))
        _remove_orphans(target.parent)
        with _temporary(target.parent, before) as (file, temporary):
            size = sum(map(file.write, parts))
            file.flush()
            os.fsync(file.fileno())
            if before is not None:
                _take_over(file.fileno(), before)
            if fcntl is None:  # Windows renames nothing that is open
                file.close()
            temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:  # name the file that was asked for
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error
    return size


def _stat(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except FileNotFoundError:
        return None


def _is_replaceable(path: str | os.PathLike[str], before: os.stat_result) -> bool:
    """Whether it is a file that may be written, and that has its own name."""
    given = str(Path(path).absolute()).startswith(_STREAMS)
    return stat.S_ISREG(before.st_mode) and not given and os.access(path, os.W_OK)


@contextlib.contextmanager
def _temporary(folder: Path, before: os.stat_result | None) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file that is locked, for `_remove_orphans` to know that it is in use."""
    mode = 0o666 if before is None else before.st_mode & 0o600
    while True:
        path = folder / f"{_prefix()}{secrets.token_hex(8)}{_SUFFIX}"
        with open(path, "xb", opener=partial(_open, mode=mode)) as file:
            try:
                if _lock(file.fileno()) is False or not path.exists():
                    continue  # another writer was faster, and takes it for an orphan
                yield file, path
                return
            finally:
                path.unlink(missing_ok=True)


def _open(path: str, flags: int, mode: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), mode)


def _prefix() -> str:
    """Of this machine: others that share the folder may not see its locks."""
    return f".ectorch-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"


def _remove_orphans(folder: Path) -> None:
    """Remove the temporary files of writers that are no more; what cannot be removed stays."""
    if fcntl is None:
        return
    prefix = _prefix()
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            if path.name.startswith(prefix):
                with contextlib.suppress(OSError), open(path, "r+b", opener=_no_wait) as file:
                    if _lock(file.fileno()):
                        path.unlink()


def _no_wait(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _lock(descriptor: int) -> bool | None:
    """False where somebody else holds the lock, None where there is no such thing."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _take_over(descriptor: int, before: os.stat_result) -> None:
    """Mode, owner and group of the file that will be replaced."""
    mode = stat.S_IMODE(before.st_mode) & 0o777
    if not hasattr(os, "fchown"):
        return
    now = os.fstat(descriptor)
    if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
        try:
            os.fchown(descriptor, before.st_uid, before.st_gid)
        except PermissionError:  # what was allowed to its group is not for ours
            mode &= 0o707
    os.fchmod(descriptor, mode)


def _sync_folder(folder: Path) -> None:
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
