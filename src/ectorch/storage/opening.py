"""`safe_open`: single tensors, and rows of them, from a file."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch

from ectorch.bitstream.file.index import Entry
from ectorch.bitstream.file.numpy_io import to_array
from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.errors import ConfigError, UnknownTensorError
from ectorch.storage.tensors import Device, check_is_there, parse_device, to_torch

_FRAMEWORKS = {"pt": torch, "torch": torch, "pytorch": torch, "np": np, "numpy": np}


class safe_open:  # noqa: N801 - the name that safetensors' users know
    """Open an ``.ect`` file and decode single tensors; blocks of the others are not read.

    A small tensor may have been coded with what an earlier one tells of it: then that is read too.

    Threads, and processes over a fork, may share it. It is pickled as its path, and what comes back
    reads the very same file or raises `FormatError`, as reading does once the file has changed.

    Args:
        framework: "pt" gives tensors; "numpy" gives arrays, as `ectorch.bitstream.load_file` does.
        device: where tensors go.
        max_decoded_bytes, threads: as `load_file`.

    Raises:
        ConfigError: for another framework or device, or when it is read after it was closed, or to
            a device that is not there.
        FormatError: when the header is damaged, or a tensor that is asked for is.
        UnknownTensorError: when there is no tensor of a name that is asked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        framework: str = "pt",
        device: Device = "cpu",
        *,
        max_decoded_bytes: int = DEFAULT_MAX_DECODED_BYTES,
        threads: int | None = None,
    ) -> None:
        if framework not in _FRAMEWORKS:
            known = ", ".join(_FRAMEWORKS)
            raise ConfigError(f"framework {framework!r} is unknown, known: {known}")
        self._device = parse_device(device)
        self._numpy = _FRAMEWORKS[framework] is np
        if self._numpy and self._device.type != "cpu":
            raise ConfigError(f"device {device!r}: arrays of NumPy are on the CPU")
        self._path, self._closed = os.fspath(path), False
        self._reader = Reader(path, max_decoded_bytes, threads)

    def __enter__(self) -> safe_open:
        return self

    def __exit__(self, *error: object) -> None:
        self._closed = True
        self._reader.__exit__(*error)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """Names in the order of the file."""
        return list(self._open().entries)

    def offset_keys(self) -> list[str]:
        """As `keys`."""
        return self.keys()

    def metadata(self) -> dict[str, str]:
        return dict(self._open().metadata)

    def get_entry(self, name: str) -> Entry:
        """Shape, dtype, coding and stored bytes of one tensor, from the header alone."""
        entries = self._open().entries
        if name not in entries:
            near = get_close_matches(str(name), entries, 3)
            hint = f", near: {', '.join(near)}" if near else ""
            raise UnknownTensorError(f"{self._path}: no tensor {name!r}{hint}")
        return entries[name]

    def get_tensor(self, name: str) -> Any:
        """Decode one tensor."""
        return self._read(self.get_entry(name))

    def get_slice(self, name: str) -> TensorSlice:
        """One tensor to index: ``file.get_slice(name)[10:20]`` decodes the chunks of those rows."""
        return TensorSlice(self, name)

    def _read(self, entry: Entry, rows: range | None = None) -> Any:
        reader = self._open()
        check_is_there(self._device)
        raw = reader.read(entry.name, rows)
        return to_array(raw) if self._numpy else to_torch(raw).to(self._device)

    def _open(self) -> Reader:
        if self._closed:
            raise ConfigError(f"{self._path} is closed: read it before its with block ends")
        return self._reader


class TensorSlice:
    """A tensor of a file that is decoded as far as it is indexed, as safetensors has it."""

    def __init__(self, file: safe_open, name: str) -> None:
        self._file, self._entry = file, file.get_entry(name)

    def get_shape(self) -> list[int]:
        return list(self._entry.shape)

    def get_dtype(self) -> str:
        """A key of `ectorch.bitstream.DTYPES`."""
        return self._entry.dtype

    def __getitem__(self, index: object) -> Any:
        """What ``get_tensor(name)[index]`` is; rows outside of a first integer or slice stay coded.

        Raises:
            IndexError, ValueError: as a tensor does.
        """
        places = index if isinstance(index, tuple) else (index,)
        shape, first = self._entry.shape, places[0] if places else None
        by_rows = isinstance(first, (int, np.integer, slice)) and not isinstance(first, bool)
        if not shape or not by_rows:
            return self._file._read(self._entry)[index]
        if isinstance(first, slice):
            wanted = range(shape[0])[first]
            if wanted.step < 1:
                raise ValueError(f"{self._entry.name}: slices go forward, step is {wanted.step}")
        else:
            at = operator.index(first)  # type: ignore[arg-type]
            if not -shape[0] <= at < shape[0]:
                raise IndexError(f"{self._entry.name}: row {at} of {shape[0]}")
            wanted = range(shape[0])[at:][:1]
        rows = range(wanted.start, wanted[-1] + 1) if wanted else range(0)
        part = self._file._read(self._entry, rows)
        own = slice(None, None, wanted.step) if isinstance(first, slice) else 0
        return part[(own, *places[1:])]
