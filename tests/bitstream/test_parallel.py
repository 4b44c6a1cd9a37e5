"""Threads: what they share, what they wait for, what stops them."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ectorch.bitstream.parallel import Workers


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=30), st.integers(1, 5))
def test_a_map_is_in_order(items, threads):
    with Workers(threads) as workers:
        assert workers.map(str, items) == [*map(str, items)]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_workers_may_map_while_all_are_busy(threads):
    with Workers(threads) as workers:

        def square_all(start):
            return workers.map(lambda n: n * n, range(start, start + 20))

        tasks = [workers.submit(lambda start=start: square_all(start)) for start in range(8)]
        for start, task in enumerate(tasks):
            assert task.result(60) == [n * n for n in range(start, start + 20)]


def test_idle_threads_take_their_part():
    met = threading.Barrier(3)  # no item ends before three threads have one
    with Workers(3) as workers:
        assert sorted(workers.map(lambda _: met.wait(60), range(3))) == [0, 1, 2]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("wrong", [0, 7, 19])
def test_an_error_reaches_the_caller_and_ends_the_others(threads, wrong):
    done = []

    def work(item):
        if item == wrong:
            raise ValueError(f"item {item}")
        done.append(item)

    with Workers(threads) as workers:
        with pytest.raises(ValueError, match=f"item {wrong}"):
            workers.map(work, range(20))
        assert workers.map(str, [1, 2]) == ["1", "2"]
    assert wrong not in done
