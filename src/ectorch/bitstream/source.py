"""A file, or its bytes, read by position: threads and forked processes may share one."""

from __future__ import annotations

import io
import os
from pathlib import Path

from ectorch.errors import ConfigError, FormatError

Identity = tuple[int, int, int]  # inode, bytes, time of the last change in nanoseconds


class Source:
    """Bytes at any place of a file that does not change; holds no place of its own, and no lock.

    Args:
        what: a path, or the bytes.

    Attributes:
        name: for errors.
        size_bytes: of all.
        identity: of the file, see `Identity`; None for bytes.

    Raises:
        ConfigError: from a read once this is closed.
        FormatError: from a read when the file was written to, or cut, after it was opened.
    """

    def __init__(self, what: str | os.PathLike[str] | bytes) -> None:
        self.identity: Identity | None = None
        if isinstance(what, bytes):
            self.name, self.size_bytes = "ect bytes", len(what)
            self._origin: str | bytes = what
            self._open: bytes | _Handle | None = what
        else:
            self.name = os.fspath(what)
            self._origin = str(Path(what).absolute())  # whoever unpickles may be elsewhere
            handle = _Handle(open(what, "rb", buffering=0), self._origin)  # noqa: SIM115
            self.size_bytes = handle.file.seek(0, os.SEEK_END)  # an OSError on a pipe
            self.identity = _identify(handle.file)
            self._open = handle

    @property
    def origin(self) -> str | bytes:
        """What opens it anew: the absolute path, or the bytes."""
        self._opened()
        return self._origin

    def close(self) -> None:
        self._open = None

    def read(self, offset: int, count: int) -> bytes:
        """``count`` bytes, or as many as there are from ``offset`` to the end."""
        opened = self._opened()
        count = min(count, self.size_bytes - offset)
        if isinstance(opened, bytes):
            return opened[offset : offset + count]
        data = opened.read(offset, count)
        if len(data) < count or _identify(opened.file) != self.identity:
            raise FormatError(f"{self.name}: changed since it was opened: open it anew")
        return data

    def _opened(self) -> bytes | _Handle:
        opened = self._open
        if opened is None:
            raise ConfigError(f"{self.name} is closed")
        return opened


class _Handle:
    """Closes its file once the last read is done that uses it: no read meets another's number."""

    def __init__(self, file: io.FileIO, path: str) -> None:
        self.file, self._path = file, path

    def __del__(self) -> None:
        self.file.close()

    def read(self, offset: int, count: int) -> bytes:
        """Less than ``count`` bytes where the file ends before."""
        parts = []
        while count and (part := self._read_some(offset, count)):
            parts.append(part)
            offset, count = offset + len(part), count - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_some(self, offset: int, count: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.file.fileno(), count, offset)
        with open(self._path, "rb", buffering=0) as own:  # Windows
            if _identify(own) != _identify(self.file):
                return b""
            own.seek(offset)
            return own.read(count)


def _identify(file: io.FileIO) -> Identity:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns
