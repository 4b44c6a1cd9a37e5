import json
from pathlib import Path

import pytest

from ectorch.bitstream import Reader
from ectorch.bitstream.codings.decode import Coding

FILES = sorted(Path(__file__).parent.glob("*.ect"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden_files_decode_forever(path):
    expected = json.loads(path.with_suffix(".json").read_text())
    with Reader(path) as reader:
        assert reader.metadata == expected["metadata"]
        decoded = {}
        for entry in reader:
            tensor = reader.read(entry.name)
            decoded[entry.name] = {
                "coding": entry.coding.name.lower(),
                "dtype": tensor.dtype,
                "shape": list(tensor.shape),
                "bits": tensor.little_endian().hex(),
            }
    assert decoded == expected["tensors"]


def test_golden_files_cover_every_coding():
    codings = set()
    for path in FILES:
        with Reader(path) as reader:
            codings |= {entry.coding for entry in reader}
    assert codings == set(Coding)
