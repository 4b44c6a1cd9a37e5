"""Damaged files: a FormatError or the tensors, never another exception, hang or flood."""

import tracemalloc

import numpy as np
import pytest

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
