"""Threads for the compiled coders, which release the GIL; bytes never depend on their number."""

from __future__ import annotations

import operator
import os
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ectorch.bitstream import native
from ectorch.errors import ConfigError

Map = Callable[..., Iterable[Any]]  # the builtin, or `Workers.map`
_Result = TypeVar("_Result")


def check_threads(threads: int | None) -> int | None:
    """``threads``, if they are None or a whole number from 1 on.

    Raises:
        ConfigError: for anything else.
    """
    if threads is None:
        return None
    try:
        count = operator.index(threads)
    except TypeError:
        count = 0
    if count < 1 or isinstance(threads, bool):
        raise ConfigError(f"threads is {threads!r}, expected a whole number from 1 on, or None")
    return count


class Workers:
    """``threads`` of them (all cores if None), begun when first needed.

    Tasks start in the order they came, so that one may wait for an earlier one. An exception
    that leaves the block, Ctrl-C's too, stops what the compiled coders do.
    """

    def __init__(self, threads: int | None) -> None:
        self.threads = check_threads(threads) or os.cpu_count() or 1
        self._pool: ThreadPoolExecutor | None = None
        self._stop = native.Stop()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is not None:
            self._stop.set()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, work: Callable[[], _Result]) -> Future[_Result]:
        """Start ``work``; with one thread, do it."""
        if self.threads == 1:
            done: Future[_Result] = Future()
            done.set_result(work())
            return done
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.threads, initializer=self._stop.watch)
        return self._pool.submit(work)

    def map(self, work: Callable[[Any], _Result], items: Iterable[Any]) -> list[_Result]:
        """``work`` of every item, by this thread and by those that have nothing to do.

        A worker may call it: it waits for nothing that has not begun.
        """
        items = list(items)
        results: list[Any] = [None] * len(items)
        left = deque(enumerate(items))

        def take() -> None:
            while True:
                try:
                    at, item = left.popleft()  # of threads that ask at once, each gets its own
                except IndexError:
                    return
                results[at] = work(item)

        others = [] if self.threads == 1 else items[1 : self.threads]
        helpers = [self.submit(take) for _ in others]
        try:
            take()
        finally:
            left.clear()
            begun = [helper for helper in helpers if not helper.cancel()]
        for helper in begun:
            helper.result()
        return results
