"""Ctrl-C ends a long encode or decode, and what its threads do."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from ectorch.bitstream import native

if native.module is None:
    pytest.skip("the coders are not compiled", allow_module_level=True)

SOON = 5.0  # seconds: a busy machine's; the work itself takes many times as long
START = """
import os, signal, sys, threading, time
import numpy as np
from ectorch.bitstream import RawTensor, Reader, encode_file, native

rng = np.random.default_rng(0)
def interrupt():
    started[:] = [time.monotonic()]
    os.kill(os.getpid(), signal.SIGINT)
started = []
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let background jobs ignore it
def after(seconds):
    threading.Timer(seconds, interrupt).start()
def tensor(items, levels):
    values = np.resize(rng.integers(0, levels, 10**6, np.uint8), items)
    return RawTensor("uint8", (items // 1000, 1000), values)
symbols, table = np.zeros(1 << 29, np.uint16), np.array([1, 1], np.uint32)
table_alone = native.module.static_encode(symbols[:0], table, 1)
"""
END = """
except KeyboardInterrupt:
    late = time.monotonic() - started[0]
    sys.exit(f"{late} s late" if late > 5 else 0)
sys.exit("was not interrupted")
"""
LONG = {
    "static encode": "native.module.static_encode(symbols, table, 1)",
    "static decode": "native.module.static_decode(table_alone, symbols, 2)",
    "many calls": "[native.module.count_symbols(symbols[:1 << 22], np.zeros(2, np.uint64))"
    " for _ in range(10**6)]",
    "context decode": "native.module.context_decode("
    "b'', symbols[: 1 << 26], (1 << 14, 1 << 12, 1, 1), 0, False, False, 5, 2, table[:0])",
    "one thread": "encode_file({str(i): tensor(10**7, 9) for i in range(9)}, threads=1)",
    "threads, chunks": "encode_file({'a': tensor(10**8, 9)}, threads=2)",
    "threads, tensors": "encode_file({str(i): tensor(8 * 10**6, 9) for i in range(9)}, threads=2)",
}


@pytest.mark.parametrize("work", LONG.values(), ids=LONG)
def test_long_work_ends_soon(work):
    script = f"{START}after(0.7)\ntry:\n    {work}{END}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_thread_ends_when_what_it_watches_is_set():
    stop, found = native.module.Stop(), []
    symbols, table = np.zeros(1 << 29, np.uint16), np.array([1, 1], np.uint32)

    def work():
        stop.watch()
        try:
            native.module.static_encode(symbols, table, 1)
        except native.module.Stopped as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    started = time.monotonic()
    stop.set()
    thread.join()
    assert found
    assert time.monotonic() - started < SOON
