"""No rewriting of a network changes what it computes: random networks, by their seeds."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NETWORKS = 60


@pytest.fixture(scope="module")
def rewrites():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("rewrites")


@pytest.mark.slow  # every rewrite of sixty networks
def test_no_output_changes(rewrites):
    changes = rewrites.change_all(range(NETWORKS))
    assert not [change for change in changes if not change.same]
    for name in rewrites.REWRITES:  # it would be easy to change nothing at all
        touched = sum(change.touched for change in changes if change.rewrite == name)
        assert touched > (0.1 if name == "finalize" else 0.25) * NETWORKS


def test_a_change_is_seen(rewrites, monkeypatch):
    def spoil(model, inputs):
        next(model.parameters()).data.mul_(2)

    monkeypatch.setitem(rewrites.REWRITES, "spoil", spoil)
    changes = rewrites.change_all(range(8))
    assert sum(not change.same for change in changes if change.rewrite == "spoil") > 4
