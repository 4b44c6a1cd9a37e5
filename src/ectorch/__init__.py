"""Train PyTorch networks under an entropy constraint; store them as small entropy-coded files.

Names load on first use: ``import ectorch`` imports no torch, and ``ectorch.bitstream`` decodes a
file without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ectorch.constrain.config import Config
    from ectorch.errors import EctorchError, FormatError
    from ectorch.finalizing import finalize, snapshot
    from ectorch.rewrite.norms import discretize_norms, restore_norms
    from ectorch.rewrite.units import remove_dead_units, restore_shapes, sort_units
    from ectorch.size.control import SizeControl, ramp
    from ectorch.size.coverage import coverage
    from ectorch.size.fit import fit_size
    from ectorch.size.measure import FileSize, SizeMeter, rate_bits
    from ectorch.size.targets import size_control
    from ectorch.storage.files import load, load_file, load_model, safe_open, save, save_file
    from ectorch.workflow import (
        convert,
        freeze_symbols,
        param_groups,
        penalty,
        prepare,
    )

__version__ = "0.1.0"

_ROOMS = {
    "constrain.config": ("Config",),
    "errors": ("EctorchError", "FormatError"),
    "finalizing": ("finalize", "snapshot"),
    "rewrite.norms": ("discretize_norms", "restore_norms"),
    "rewrite.units": ("remove_dead_units", "restore_shapes", "sort_units"),
    "size.control": ("SizeControl", "ramp"),
    "size.coverage": ("coverage",),
    "size.fit": ("fit_size",),
    "size.measure": ("FileSize", "SizeMeter", "rate_bits"),
    "size.targets": ("size_control",),
    "storage.files": ("load", "load_file", "load_model", "safe_open", "save", "save_file"),
    "workflow": ("convert", "freeze_symbols", "param_groups", "penalty", "prepare"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "Config",
    "EctorchError",
    "FileSize",
    "FormatError",
    "SizeControl",
    "SizeMeter",
    "convert",
    "coverage",
    "discretize_norms",
    "finalize",
    "fit_size",
    "freeze_symbols",
    "load",
    "load_file",
    "load_model",
    "param_groups",
    "penalty",
    "prepare",
    "ramp",
    "rate_bits",
    "remove_dead_units",
    "restore_norms",
    "restore_shapes",
    "safe_open",
    "save",
    "save_file",
    "size_control",
    "snapshot",
    "sort_units",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
