"""The compiled coders where they were built; else plain Python codes the same bytes, slower."""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType

try:
    import ectorch.bitstream._native as _built
except ImportError:
    _built = None  # type: ignore[assignment]

module: ModuleType | None = _built
_MANY_SYMBOLS = 1 << 14  # fewer take plain Python no time worth a warning


def compiled(count: int) -> ModuleType | None:
    """`ectorch.bitstream._native`, or None: warns once, where ``count`` symbols will take long."""
    if module is None and count >= _MANY_SYMBOLS:
        _warn()
    return module


@cache
def _warn() -> None:
    warnings.warn(
        "ectorch was built without a C++ compiler and Python's headers: its coders run in plain "
        "Python, some hundred times slower; install both (Debian: g++, python3-dev), then "
        "pip install --force-reinstall --no-deps --no-cache-dir ectorch",
        RuntimeWarning,
        stacklevel=3,
    )
