"""zstd at level 19: ``pip install zstandard==0.25.0``.

The input is the bytes of the integers, int8 where they fit, else int16; the stream their shape,
width, and one frame. On one thread: its jobs are larger than these tensors.
"""

from __future__ import annotations

from coder.peers.packed_bytes import byte_side
from coder.peers.side import Side

NAMES = ("zstd -19",)
INSTALL = "pip install zstandard==0.25.0"


def load() -> dict[str, Side]:
    import zstandard

    version = (
        f"zstandard {zstandard.__version__}, zstd {'.'.join(map(str, zstandard.ZSTD_VERSION))}"
    )
    coder, decoder = zstandard.ZstdCompressor(level=19), zstandard.ZstdDecompressor()
    return {NAMES[0]: byte_side(coder.compress, decoder.decompress, version)}
