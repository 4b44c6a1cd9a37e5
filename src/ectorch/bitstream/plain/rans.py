"""Interleaved rANS on integer frequencies: the compiled kernels in plain Python, same bytes.

rANS (J. Duda, 2013) keeps what was coded in one integer a lane. A symbol of frequency f that
starts at s among ``2**bits`` takes x to ``(x // f << bits) + s + x % f``; a decoder undoes that
from the low bits of x. States lie in [2**16, 2**32): a 16-bit word moves out or in at the bounds.
Eight lanes take turns, so that a processor works on eight symbols at once.
"""

from __future__ import annotations

import numpy as np

from ectorch.bitstream.native import MAX_RANS_SCALE_BITS, RUN_CLASSES, DamagedStream
from ectorch.bitstream.plain.static_coder import check_coded, check_frequencies

_LANES = 8
_LOWEST = 1 << 16  # of a state; an encoder's lanes start here
_STATE_BYTES = 4 * _LANES
_EXACT_RUNS = 16  # shorter runs have a class each, longer ones four an octave
_MAX_RAW_BITS = 16  # that one step codes


class _Encoder:
    """Codes back to front, as states are last in, first out."""

    def __init__(self) -> None:
        self._states = [_LOWEST] * _LANES
        self._words: list[int] = []

    def put(self, lane: int, step: tuple[int, int], bits: int) -> None:
        frequency, start = step
        x = self._states[lane]
        if x >> (32 - bits) >= frequency:
            self._words.append(x & 0xFFFF)
            x >>= 16
        self._states[lane] = (x // frequency << bits) + start + x % frequency

    def finish(self) -> bytes:
        states = np.array(self._states, "<u4").tobytes()
        return states + np.array(self._words[::-1], "<u2").tobytes()


class _Decoder:
    def __init__(self, data: bytes | memoryview) -> None:
        if len(data) < _STATE_BYTES or len(data) % 2:
            raise DamagedStream("chunk of states and half words")
        self._states: list[int] = np.frombuffer(data[:_STATE_BYTES], "<u4").tolist()
        if min(self._states) < _LOWEST:
            raise DamagedStream("rANS state below 2**16")
        self._words = iter(np.frombuffer(data, "<u2", offset=_STATE_BYTES).tolist())

    def take(self, lane: int, slots: list[int], bits: int) -> int:
        x = self._states[lane]
        entry = slots[x & (1 << bits) - 1]
        self._refill(lane, (entry >> 32) * (x >> bits) + (entry >> 16 & 0xFFFF))
        return entry & 0xFFFF

    def take_raw(self, lane: int, bits: int) -> int:
        x = self._states[lane]
        self._refill(lane, x >> bits)
        return x & (1 << bits) - 1

    def check_end(self) -> None:
        if any(x != _LOWEST for x in self._states):
            raise DamagedStream("rANS state other than 2**16 at the end")
        if next(self._words, None) is not None:
            raise DamagedStream("bytes left after the last symbol")

    def _refill(self, lane: int, x: int) -> None:
        if x < _LOWEST:
            word = next(self._words, None)
            if word is None:
                raise DamagedStream("chunk ends before its last symbol")
            x = x << 16 | word
        self._states[lane] = x


def rans_encode_dense(symbols: np.ndarray, frequencies: np.ndarray, scale_bits: int) -> bytes:
    """Code (n,) symbols with (levels,) frequencies that sum to ``2**scale_bits``."""
    steps = _steps(frequencies, scale_bits)
    check_coded(symbols, frequencies)
    coder = _Encoder()
    for i, symbol in reversed(list(enumerate(symbols.tolist()))):
        coder.put(i % _LANES, steps[symbol], scale_bits)
    return coder.finish()


def rans_decode_dense(data: bytes | memoryview, slots: np.ndarray, symbols: np.ndarray) -> None:
    """Fill (n,) ``symbols``; ``slots`` (2**bits,) are frequency, place and symbol, packed."""
    table, bits = _unpacked(slots)
    coder = _Decoder(data)
    for i in range(len(symbols)):
        symbols[i] = coder.take(i % _LANES, table, bits)
    coder.check_end()


def rans_encode_runs(
    symbols: np.ndarray,
    zero: int,
    run_frequencies: np.ndarray,
    run_scale_bits: int,
    symbol_frequencies: np.ndarray,
    symbol_scale_bits: int,
) -> tuple[int, bytes]:
    """How many (n,) symbols are not ``zero``, and these coded, each after the run before it."""
    run_steps = _steps(run_frequencies, run_scale_bits)
    symbol_steps = _steps(symbol_frequencies, symbol_scale_bits)
    if len(symbols) and symbols.max() >= len(symbol_frequencies):
        raise ValueError("symbol beyond the last level")
    places = np.flatnonzero(symbols != zero)
    if not len(places):
        return 0, b""
    runs = (np.diff(places, prepend=-1) - 1).tolist()
    check_coded(symbols[places], symbol_frequencies)
    check_coded(np.array([*map(_run_class, runs)]), run_frequencies)
    coder = _Encoder()
    for token in reversed(range(len(places))):
        lane = 2 * token % _LANES
        kind = _run_class(runs[token])
        base, raw_bits = _run_of(kind)
        raw = runs[token] - base
        coder.put(lane + 1, symbol_steps[int(symbols[places[token]])], symbol_scale_bits)
        for shift in reversed(range(0, raw_bits, _MAX_RAW_BITS)):
            bits = min(raw_bits - shift, _MAX_RAW_BITS)
            coder.put(lane, (1, raw >> shift & (1 << bits) - 1), bits)
        coder.put(lane, run_steps[kind], run_scale_bits)
    return len(places), coder.finish()


def rans_decode_runs(
    data: bytes | memoryview,
    tokens: int,
    zero: int,
    run_slots: np.ndarray,
    symbol_slots: np.ndarray,
    symbols: np.ndarray,
) -> None:
    """Fill (n,) ``symbols`` with ``zero``, then with ``tokens`` others."""
    run_table, symbol_table = _unpacked(run_slots), _unpacked(symbol_slots)
    symbols[:] = zero
    if not tokens:
        if data:
            raise DamagedStream("bytes left after the last symbol")
        return
    coder = _Decoder(data)
    at = 0
    for token in range(tokens):
        lane = 2 * token % _LANES
        run, raw_bits = _run_of(coder.take(lane, *run_table))
        for shift in range(0, raw_bits, _MAX_RAW_BITS):
            run += coder.take_raw(lane, min(raw_bits - shift, _MAX_RAW_BITS)) << shift
        at += run
        if at >= len(symbols):
            raise DamagedStream("run beyond the end of its chunk")
        symbols[at] = coder.take(lane + 1, *symbol_table)
        at += 1
    coder.check_end()


def count_symbols(symbols: np.ndarray, counts: np.ndarray) -> None:
    """Add to (levels,) ``counts`` how often each level occurs among (n,) ``symbols``."""
    found = np.bincount(symbols, minlength=len(counts))
    if len(found) > len(counts):
        raise ValueError("symbol beyond the last level")
    counts += found.astype(np.uint64)


def count_runs(symbols: np.ndarray, zero: int, counts: np.ndarray) -> None:
    """Add to (128,) ``counts``, one a class, how often a run of it ends in another symbol."""
    if len(counts) != RUN_CLASSES:
        raise ValueError("run classes")
    runs = np.diff(np.flatnonzero(symbols != zero), prepend=-1) - 1
    for run, count in zip(*np.unique(runs, return_counts=True), strict=True):
        counts[_run_class(int(run))] += np.uint64(count)


def _steps(frequencies: np.ndarray, scale_bits: int) -> list[tuple[int, int]]:
    """Frequency and start of each level."""
    check_frequencies(frequencies, scale_bits, MAX_RANS_SCALE_BITS)
    starts = np.cumsum(frequencies) - frequencies
    return list(zip(frequencies.tolist(), starts.tolist(), strict=True))


def _unpacked(slots: np.ndarray) -> tuple[list[int], int]:
    bits = len(slots).bit_length() - 1
    if not 1 <= bits <= MAX_RANS_SCALE_BITS or len(slots) != 1 << bits:
        raise ValueError("rANS slots")
    return slots.tolist(), bits


def _run_class(run: int) -> int:
    if run < _EXACT_RUNS:
        return run
    raw_bits = run.bit_length() - 3
    return 4 * (raw_bits + 1) + (run >> raw_bits)


def _run_of(kind: int) -> tuple[int, int]:
    """The shortest run of a class, and how many raw bits say by how much one is longer."""
    if kind < _EXACT_RUNS:
        return kind, 0
    raw_bits = kind // 4 - 2
    return 4 + kind % 4 << raw_bits, raw_bits
