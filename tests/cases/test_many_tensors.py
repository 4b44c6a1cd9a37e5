"""Files of many small tensors: time by their number, the same bytes as ever."""

import math
import time

import numpy as np
import pytest

from ectorch.bitstream import RawTensor
from ectorch.bitstream.codings.context import can_hint
from ectorch.bitstream.codings.decode import count_nonzeros
from ectorch.bitstream.file.hints import Hints

SHAPES = [(4, 6), (6, 4), (3, 2, 2), (12, 1), (2, 12), (12, 2, 6), (5,), (), (0, 3), (3, 0), (1, 4)]


def tensor(rng, shape):
    return RawTensor("uint8", shape, rng.integers(0, 3, math.prod(shape), np.uint8))


def walked_hints(before, shape):
    """What `Hints` gives, by a walk over all earlier tensors."""
    found = {}
    for index, earlier in reversed(list(enumerate(before))):
        takes = len(shape) > 1 and len(earlier.shape) > 1 and len(found) < 4
        if takes and can_hint(earlier.shape[0], math.prod(shape[1:])):
            found[index] = count_nonzeros(earlier.bits, earlier.shape).tolist()
    return found


@pytest.mark.parametrize("seed", range(5))
def test_hints_are_the_nearest_that_fit(seed):
    rng = np.random.default_rng(seed)
    before, hints = [], Hints()
    for at in range(100):
        now = tensor(rng, SHAPES[rng.integers(len(SHAPES))])
        given = {index: counts.tolist() for index, counts in hints.give(at, now).items()}
        assert list(given.items()) == list(walked_hints(before, now.shape).items())
        before.append(now)


@pytest.mark.parametrize("shape", [(4, 3), (3, 6), (8, 1)])
def test_hints_take_time_by_the_number_of_tensors(shape):
    one = tensor(np.random.default_rng(0), shape)

    def seconds(count):
        hints, start = Hints(), time.process_time()
        for at in range(count):
            hints.give(at, one)
        return time.process_time() - start

    assert min(seconds(8000) for _ in range(3)) < 12 * min(seconds(2000) for _ in range(3))
