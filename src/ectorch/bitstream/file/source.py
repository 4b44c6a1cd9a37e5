"""Bytes by position: of a file, or in memory; nothing is shared that threads or forks could move.

A read has no offset of its own and takes no lock, so that a thread, or a process that was forked
in the middle of another's read, never gets bytes from somewhere else, and never waits.
"""

from __future__ import annotations

import os
from io import FileIO
from pathlib import Path
from typing import Protocol

from ectorch.errors import ConfigError, FormatError

_MAX_READ_BYTES = 1 << 22  # what is copied once more is small


class Source(Protocol):
    """What a `Reader` reads.

    Attributes:
        what: names it in errors.
        size_bytes: of all.
    """

    what: str
    size_bytes: int

    def read(self, offset: int, size: int) -> memoryview:
        """``size`` bytes from ``offset`` on, fewer at the end.

        Raises:
            FormatError: when the file is not the one that was opened any more.
            ConfigError: after `close`.
        """

    def close(self) -> None: ...


class BytesSource:
    """A file's bytes in memory."""

    what = "ect bytes"

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self.size_bytes = len(data)

    def read(self, offset: int, size: int) -> memoryview:
        return self._data[offset : offset + size]

    def close(self) -> None:
        """Bytes stay readable."""

    def __reduce__(self) -> tuple[type[BytesSource], tuple[bytes]]:
        return BytesSource, (bytes(self._data),)


class FileSource:
    """A file on disk.

    It is copied and pickled as its path, size and time of change, and opened again by those: what
    comes back reads the same file or raises.

    Args:
        stamp: size in bytes and time of change in nanoseconds that the file has to have.

    Raises:
        FormatError: for a file of another ``stamp``.
        OSError: when it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], stamp: tuple[int, int] | None = None) -> None:
        self.what = os.fspath(path)
        self._path = str(Path(path).absolute())  # a process may change its folder
        self._file = FileIO(path)
        try:
            self._stamp = stamp or self._stamp_of(self._file)
            self.size_bytes = self._stamp[0]
            self._check(self._file)
        except BaseException:
            self._file.close()
            raise

    def read(self, offset: int, size: int) -> memoryview:
        if not hasattr(os, "pread") and not self._file.closed:
            with FileIO(self._path) as file:  # has an offset of its own
                return self._read(file, offset, size)
        try:
            return self._read(self._file, offset, size)
        except ValueError as error:
            if not self._file.closed:
                raise
            raise ConfigError(
                f"{self.what} is closed: read it before its with block ends"
            ) from error

    def close(self) -> None:
        self._file.close()

    def __reduce__(self) -> tuple[type[FileSource], tuple[str, tuple[int, int]]]:
        if self._file.closed:
            raise ConfigError(f"{self.what} is closed: pickle it before its with block ends")
        return FileSource, (self._path, self._stamp)

    def _read(self, file: FileIO, offset: int, size: int) -> memoryview:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            part = _read_at(file, offset + done, min(size - done, _MAX_READ_BYTES))
            if not part:
                break
            view[done : done + len(part)] = part
            done += len(part)
        self._check(file)
        return view[:done]

    def _check(self, file: FileIO) -> None:
        """Bytes may have been read while they changed, so this comes after a read."""
        if self._stamp_of(file) != self._stamp:
            raise FormatError(
                f"{self.what}: the file has changed since it was opened: open it anew"
            )

    @staticmethod
    def _stamp_of(file: FileIO) -> tuple[int, int]:
        status = os.fstat(file.fileno())
        return status.st_size, status.st_mtime_ns


def _read_at(file: FileIO, offset: int, size: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    file.seek(offset)
    return file.read(size)
