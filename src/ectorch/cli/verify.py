"""``ectorch verify``."""

from __future__ import annotations

from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES, Reader
from ectorch.cli.terminal import EctFile, MaxDecoded, say


def verify(source: EctFile, max_decoded_bytes: MaxDecoded = DEFAULT_MAX_DECODED_BYTES) -> None:
    """Check header, checksums and that every tensor decodes."""
    with Reader(source, max_decoded_bytes) as reader:
        reader.verify()
        for entry in reader:
            reader.read(entry.name)
        count = len(reader.entries)
    say(f"{source}: {count} tensors, {source.stat().st_size:,} bytes, intact")
