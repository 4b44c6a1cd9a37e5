"""Damaged files: a FormatError or the tensors, never another exception, hang or flood."""

import tracemalloc

import numpy as np
import pytest

from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file.index import Entry, encode_header, place
from ectorch.errors import FormatError

KINDS = ["flip", "cut", "grow", "noise", "swap"]
LIMIT = 1 << 15


@pytest.fixture
def peak_memory():
    """Bytes of Python and NumPy at their highest, from the test's start."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_checksums_catch_every_mutation(kind, mutations, lenet_file, ect, peak_memory):
    rng = np.random.default_rng(KINDS.index(kind))
    for _ in range(200):
        damaged = mutations[kind](rng, lenet_file)
        assert damaged != lenet_file
        with pytest.raises(FormatError):
            ect.read_all(damaged)
    assert peak_memory() < 1 << 20


@pytest.mark.parametrize("kind", KINDS)
def test_parsers_stand_what_a_right_checksum_lets_through(
    kind, mutations, lenet_file, ect, peak_memory
):
    rng = np.random.default_rng(100 + KINDS.index(kind))
    header, blocks = ect.take_apart(lenet_file)
    refused = 0
    for _ in range(400):
        parts = [header, *blocks]
        target = 0 if rng.random() < 0.5 else int(rng.integers(len(parts)))
        parts[target] = mutations[kind](rng, parts[target])
        try:
            ect.read_all(ect.assemble(parts[0], parts[1:]), LIMIT)
        except FormatError:
            refused += 1
    assert refused > 100
    assert peak_memory() < 16 * LIMIT


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_a_tensor_without_items_gives_no_hints(shape, ect):
    two_levels = bytes([2, 0, 0, 1])
    hinted = two_levels + bytes([32, 0])  # the layout: with the counts of tensor 0
    entries = [
        Entry("a", "int8", shape, Coding.RAW, 0),
        Entry("b", "int8", (2, 6), Coding.CONTEXT, len(hinted)),
    ]
    data = ect.assemble(encode_header(place(entries), {}), [hinted])
    with pytest.raises(FormatError, match="0 rows of another tensor"):
        ect.read_all(data)
