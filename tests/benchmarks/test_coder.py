"""The coder benchmark: streams are whole, what comes back is compared, failures are reported."""

import importlib
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TENSORS = {
    "single": np.full(1, 3, np.int8),
    "zeros": np.zeros((3, 4, 5), np.int8),
    "negative": np.full((2, 300), -7, np.int8),
    "wide": np.arange(-300, 300, dtype=np.int16).reshape(2, 3, 100),
    "sparse": np.random.default_rng(0).choice([-1, 0, 2], (40, 50), p=[0.1, 0.8, 0.1]),
}


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize("module", ["constriction", "zstd", "xz"])
@pytest.mark.parametrize("tensor", TENSORS)
def test_a_stream_is_whole(module, tensor):
    symbols = TENSORS[tensor]
    for side in importlib.import_module(f"coder.peers.{module}").load().values():
        stream = side.encode(side.prepare(symbols), 1)
        decoded = side.restore(side.decode(stream, 1))
        assert decoded.shape == symbols.shape
        assert np.array_equal(decoded, symbols)


def test_a_network_is_the_grid_indices_of_its_file():
    network = importlib.import_module("coder.sets").symbol_sets()["lenet-300-100"]()
    assert (300, 784) in [tensor.shape for tensor in network.tensors]
    assert network.trained
    assert network.sparse
    assert 0 < network.order0_bytes < (BENCHMARKS / "nets/lenet-300-100.ect").stat().st_size


def test_a_side_that_gives_other_integers_back_fails_with_its_reason():
    coder, sets = importlib.import_module("coder.measure"), importlib.import_module("coder.sets")
    side = importlib.import_module("coder.peers.side").Side
    liar = side(np.copy, lambda a, _: a.tobytes(), lambda b, _: b, lambda _: np.zeros(1), "0")
    row = coder.measure(sets.SymbolSet("ones", (np.ones(9, np.int8),)), {"small": liar}, 1)
    assert row["sides"] == {"small": {"failed": "ValueError: other integers came back"}}
    verdicts = importlib.import_module("coder.report").judge([row])
    assert {v["met"] for target in verdicts for v in target["sets"]} == {False, None}
