"""Train PyTorch networks under an entropy constraint; store them as small entropy-coded files.

Names load on first use: ``import ectorch`` imports no torch, and ``ectorch.bitstream`` decodes a
file without it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any
from warnings import warn

from ectorch.extras import missing

if TYPE_CHECKING:
    from ectorch.constrain.config import Config
    from ectorch.errors import EctorchError
    from ectorch.posttrain.quantize import quantize
    from ectorch.size.control import SizeControl, ramp
    from ectorch.size.coverage import coverage
    from ectorch.size.fit import fit_size
    from ectorch.size.measure import SizeMeter
    from ectorch.storage.files import load_file, load_model, save_file, save_model
    from ectorch.storage.opening import safe_open
    from ectorch.workflow import convert, finalize, param_groups, penalty, prepare, snapshot

__version__ = "0.1.0"

_ROOMS = {
    "constrain.config": ("Config",),
    "errors": ("EctorchError",),
    "posttrain.quantize": ("quantize",),
    "size.control": ("SizeControl", "ramp"),
    "size.coverage": ("coverage",),
    "size.fit": ("fit_size",),
    "size.measure": ("SizeMeter",),
    "storage.files": ("load_file", "load_model", "save_file", "save_model"),
    "storage.opening": ("safe_open",),
    "workflow": ("convert", "finalize", "param_groups", "penalty", "prepare", "snapshot"),
}
_WITHDRAWN = {  # names of before: found with a warning that says where they are
    "errors": ("FormatError",),
    "rewrite.norms": ("discretize_norms", "restore_norms"),
    "rewrite.units": ("remove_dead_units", "restore_shapes", "sort_units"),
    "size.measure": ("FileSize", "rate_bits"),
    "storage.files": ("load", "save"),
    "workflow": ("freeze_symbols",),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
_WITHDRAWN_TO = {name: room for room, names in _WITHDRAWN.items() for name in names}

__all__ = [
    "Config",
    "EctorchError",
    "SizeControl",
    "SizeMeter",
    "convert",
    "coverage",
    "finalize",
    "fit_size",
    "load_file",
    "load_model",
    "param_groups",
    "penalty",
    "prepare",
    "quantize",
    "ramp",
    "safe_open",
    "save_file",
    "save_model",
    "snapshot",
]


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name) or _WITHDRAWN_TO.get(name)
    if room is None:
        now = "; it is ectorch.SizeControl.for_model now" if name == "size_control" else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{now}")
    if name in _WITHDRAWN_TO:
        there = f"from ectorch.{room} import {name}"
        warn(f"ectorch.{name} is no public name any more: {there}", DeprecationWarning, 2)
    try:
        return getattr(import_module(f"{__name__}.{room}"), name)
    except ModuleNotFoundError as error:
        raise missing(f"{__name__}.{name}", error) from None


def __dir__() -> list[str]:
    return [*globals(), *__all__]
