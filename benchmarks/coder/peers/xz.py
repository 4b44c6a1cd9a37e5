"""xz -9e: python's own lzma, nothing to install.

The input is the bytes of the integers, int8 where they fit, else int16; the stream their shape,
width, and one .xz container.
"""

from __future__ import annotations

import platform

from coder.peers.packed_bytes import byte_side
from coder.peers.side import Side

NAMES = ("xz -9e",)
INSTALL = "a python that is built with lzma"


def load() -> dict[str, Side]:
    import lzma

    def compress(data: bytes) -> bytes:
        return lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)

    version = f"lzma of python {platform.python_version()}"
    return {NAMES[0]: byte_side(compress, lzma.decompress, version)}
