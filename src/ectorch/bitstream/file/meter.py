"""What a file takes while its tensors change: coders run, the search for how to code rests."""

from __future__ import annotations

from collections.abc import Mapping

from ectorch.bitstream.codings.choose import Choice, Preset
from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file.writer import encode_tensors
from ectorch.bitstream.tensor import RawTensor


class FileMeter:
    """Measures one file after another whose tensors have the same names and shapes."""

    def __init__(self) -> None:
        self.found: dict[str, Choice] = {}
        """How each tensor is coded, since it was last searched for that."""

    def measure(
        self, tensors: Mapping[str, RawTensor], threads: int | None = None
    ) -> tuple[int, dict[str, int]]:
        """Bytes of the file and of each tensor's payload: those of preset "small", or just above.

        A tensor is coded as in an earlier file, as long as it is nearly as compressible as then:
        rarely that is a byte or two better than what a search, which does not try all, would find.
        """
        file = encode_tensors(tensors, {}, Preset.SMALL, threads, self.found)
        # an alias may be a tensor of its own next time, of which what was found still holds
        own = {name for name, each in file.choices.items() if each.coding is not Coding.ALIAS}
        self.found |= {name: file.choices[name] for name in own}
        return file.size_bytes, {entry.name: entry.size_bytes for entry in file.entries}
