"""What a file takes while its tensors change: coders run, the search for layouts rests."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ectorch.bitstream.codings.choose import Preset, layout_of
from ectorch.bitstream.codings.context import Layout
from ectorch.bitstream.file.writer import encode_tensors
from ectorch.bitstream.tensor import RawTensor

_CHANGED_SHARE = 0.1  # of the nonzeros, since the layout of a tensor was searched for


class FileMeter:
    """Measures one file after another whose tensors have the same names and shapes."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, Layout]] = {}
        """Nonzeros of each tensor when its layout was searched for, and the layout."""

    def measure(
        self, tensors: Mapping[str, RawTensor], threads: int | None = None
    ) -> tuple[int, dict[str, int]]:
        """Bytes of the file and of each tensor's payload: those of preset "small", or just above.

        Layouts are the ones that an earlier file was coded with, as long as a tensor has nearly as
        many nonzeros as then.
        """
        nonzeros = {name: int(np.count_nonzero(t.bits)) for name, t in tensors.items()}
        layouts = {
            name: layout
            for name, (count, layout) in self.found.items()
            if abs(nonzeros[name] - count) <= _CHANGED_SHARE * count
        }
        file = encode_tensors(tensors, {}, Preset.SMALL, threads, layouts)
        for entry, payload in file.coded:
            if entry.name not in layouts and entry.alias_of is None:
                layout = layout_of(entry.coding, payload, entry.dtype, entry.shape, entry.name)
                # where the context coder lost, one try of it will do from now on
                self.found[entry.name] = nonzeros[entry.name], layout or Layout()
        return file.size_bytes, {entry.name: entry.size_bytes for entry, _ in file.coded}
