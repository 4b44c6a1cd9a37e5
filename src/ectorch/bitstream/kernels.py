"""The kernels of the codings: the compiled module where it was built, else its plain twin."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from ectorch.bitstream import native, plain
from ectorch.bitstream.native import DamagedStream, Kernels
from ectorch.errors import FormatError

_MANY_SYMBOLS = 1 << 14  # fewer take plain Python no time worth a warning


def kernels_for(count: int) -> Kernels:
    """What codes ``count`` symbols: warns once, where these will take long."""
    if native.module is not None:
        return native.module
    if count >= _MANY_SYMBOLS:
        _warn()
    return plain


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn the damage that a kernel finds into a `FormatError` that names the tensor."""
    try:
        yield
    except DamagedStream as error:
        raise FormatError(f"{what}: {error}") from error


@cache
def _warn() -> None:
    warnings.warn(
        "ectorch was built without a C++ compiler and Python's headers: its coders run in plain "
        "Python, some hundred times slower; install both (Debian: g++, python3-dev), then "
        "pip install --force-reinstall --no-deps --no-cache-dir ectorch",
        RuntimeWarning,
        stacklevel=3,
    )
