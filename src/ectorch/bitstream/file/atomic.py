"""Writing a file so that a reader sees the old one or the whole new one."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import zlib
from collections.abc import Iterable
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nobody removes a file there that is open
    fcntl = None  # type: ignore[assignment]

_Part = bytes | bytearray | memoryview
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_STREAMS = {"/dev/stdout", "/dev/stderr"}
_STREAM_FOLDERS = {"/dev/fd", "/proc/self/fd"}
_RANDOM_BYTES = 4
_SUFFIX = ".part"


def write_atomic(path: str | os.PathLike[str], data: _Part | Iterable[_Part]) -> int:
    """Write beside ``path``, then rename: a reader sees the old file or the whole new one.

    The mode of a file that exists is kept, its owner and group where that is allowed; a link stays
    one, and its target is written; hard links are cut. What is no regular file (a FIFO, a device,
    a standard stream) is written to directly. Folder and file are synced. What a writer that was
    killed left behind for this ``path`` is removed.

    Args:
        data: at once, or parts of it.

    Returns:
        the bytes written.

    Raises:
        OSError: naming ``path``; then nothing has changed.
    """
    parts = [data] if isinstance(data, (bytes, bytearray, memoryview)) else data
    try:
        if _is_stream(path):
            with open(path, "wb") as file:
                return sum(map(file.write, parts))
        return _replace(Path(os.path.realpath(path)), parts)
    except OSError as error:  # name the file that was asked for
        raise OSError(error.errno, error.strerror, os.fspath(path)) from error


def _is_stream(path: str | os.PathLike[str]) -> bool:
    plain = Path(path).absolute()
    if str(plain) in _STREAMS or str(plain.parent) in _STREAM_FOLDERS:
        return True  # even where it is sent to a regular file: others write there, too
    status = _status(path)
    return status is not None and not stat.S_ISREG(status.st_mode)


def _status(path: str | os.PathLike[str]) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except FileNotFoundError:
        return None


def _replace(target: Path, parts: Iterable[_Part]) -> int:
    # Short names, whatever the target's; the same for one target, so that leftovers are found.
    prefix = f".ect-{zlib.crc32(os.fsencode(target.name)):08x}-"
    _remove_leftovers(target.parent, prefix)
    old = _status(target)
    descriptor, partial = _create(target.parent, prefix, old)
    try:
        with open(descriptor, "wb") as file:
            size = sum(map(file.write, parts))
            file.flush()
            if old is not None and hasattr(os, "fchmod"):
                _take_over(descriptor, old)
            os.fsync(descriptor)
            if fcntl is None:
                file.close()  # Windows renames nothing that is open
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return size


def _create(folder: Path, prefix: str, old: os.stat_result | None) -> tuple[int, Path]:
    """A file that is new and locked, as long as its writer lives, and no more open than ``old``."""
    mode = 0o666 if old is None else old.st_mode & 0o700
    while True:
        partial = folder / f"{prefix}{secrets.token_hex(_RANDOM_BYTES)}{_SUFFIX}"
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, mode)
        except FileExistsError:
            continue
        if fcntl is not None:
            with contextlib.suppress(OSError):  # file systems without locks: nobody will have one
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, partial
        os.close(descriptor)  # another writer took it for a leftover, before the lock


def _take_over(descriptor: int, old: os.stat_result) -> None:
    """Group, owner and mode of ``old``; what only others may do is left."""
    for owner, group in ((-1, old.st_gid), (old.st_uid, -1)):
        with contextlib.suppress(PermissionError):
            os.fchown(descriptor, owner, group)
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if os.fstat(descriptor).st_gid != old.st_gid:  # another group may do what anyone may
        mode &= ~0o070 | (mode & 0o007) << 3
    os.fchmod(descriptor, mode)


def _remove_leftovers(folder: Path, prefix: str) -> None:
    """Those of writers that were killed: a lock ends with its process."""
    try:
        with os.scandir(folder) as entries:
            found = [folder / entry.name for entry in entries if entry.name.startswith(prefix)]
    except PermissionError:  # a folder may be written to and not listed
        return
    for path in found:
        with contextlib.suppress(OSError):  # another user's, or a live writer's, or just gone
            _remove_leftover(path)


def _remove_leftover(path: Path) -> None:
    if fcntl is None:
        path.unlink()
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | _NO_LINK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()  # while it is locked: its writer may just be about to
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # opens no folders
        return
    with contextlib.suppress(PermissionError):  # a folder may be written to and not read
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
