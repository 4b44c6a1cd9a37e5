"""What coders take: memory of the order of the tensor, no work for what is not asked for."""

import time
import tracemalloc

import numpy as np
import pytest
import zstandard

from ectorch.bitstream import RawTensor
from ectorch.bitstream.codings.choose import (
    Preset,
    Surroundings,
    encode_tensor,
    planes,
    rans,
    static,
)
from ectorch.bitstream.codings.codebook import Codebook
from ectorch.bitstream.codings.decode import Coding, decode_tensor
from ectorch.bitstream.wire import varint

RNG = np.random.default_rng(0)
ITEMS = 1 << 22
SAMPLES_BYTES = 1 << 23  # of samples and blocks, however large the tensor


def noise(items=ITEMS):
    values = RNG.standard_normal(items).astype(np.float32)
    return RawTensor("float32", (items // 256, 256), values.view(np.uint32))


def bfloat16_noise():
    bits = (noise().bits >> 16).astype(np.uint16)
    return RawTensor("bfloat16", (ITEMS // 256, 256), bits)


def grid(items=ITEMS):
    symbols = np.clip(np.rint(4 * RNG.standard_normal(items)), -16, 16).astype(np.float32)
    values = symbols * np.float32(0.01)
    return RawTensor("float32", (items // 256, 256), values.view(np.uint32))


def peak_of(work):
    tracemalloc.start()
    result = work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return result, peak


@pytest.mark.parametrize(
    ("make", "most_saving", "most_loading"), [(noise, 1.5, 1.3), (grid, 1.5, 1.3)]
)
@pytest.mark.parametrize("preset", ["fast", "small"])
def test_memory_beside_the_tensor_is_bounded(make, most_saving, most_loading, preset):
    tensor = make()
    around = Surroundings(Preset(preset))
    (coding, payload), peak = peak_of(lambda: encode_tensor(tensor, around))
    assert peak < most_saving * tensor.bits.nbytes + SAMPLES_BYTES
    bits, peak = peak_of(lambda: decode_tensor(coding, payload, tensor.dtype, tensor.shape, "t"))
    assert np.array_equal(bits, tensor.bits)
    assert peak < most_loading * tensor.bits.nbytes + SAMPLES_BYTES  # beside the payload


def test_symbols_of_two_bytes_need_no_memory_of_their_own():
    tensor = bfloat16_noise()
    coding, payload = encode_tensor(tensor, Surroundings(Preset.FAST))
    _, peak = peak_of(lambda: decode_tensor(coding, payload, "bfloat16", tensor.shape, "t"))
    assert peak < 1.1 * tensor.bits.nbytes


def test_chunks_without_words_take_no_memory_of_their_own():
    items = 1 << 22
    table, runs = (static.encode_table(static.best_table(np.array(c))) for c in ([0, 5, 1], [3, 1]))
    book = Codebook(np.array([0, 1, 2], np.uint8)).encode("uint8")
    head = bytes([1, 8]) + varint(1) + varint(2)  # runs of symbol 1 in chunks of 256
    tables = b"".join(varint(len(one)) + one for one in (runs, table))
    payload = book + head + tables + bytes(2 * (items >> 8))
    bits, peak = peak_of(
        lambda: decode_tensor(Coding.RANS, payload, "uint8", (items,), "t", map=map)
    )
    assert (bits == 1).all()
    assert peak < 2.5 * items


def test_tiny_chunks_are_decoded_by_few_tasks():
    items = 1 << 22
    symbols = np.zeros(items, np.uint16)
    symbols[::7] = 1
    stream = rans.encode(symbols, 2)
    book = Codebook(np.array([0, 1], np.uint8)).encode("uint8")
    calls = []

    def counting_map(work, tasks):
        calls.extend(tasks)
        return [work(task) for task in tasks]

    bits = decode_tensor(Coding.RANS, book + stream, "uint8", (items,), "t", map=counting_map)
    assert np.array_equal(bits, symbols)
    assert len(calls) <= 4


@pytest.mark.parametrize(
    "values",
    {
        "floats": RNG.standard_normal((4000, 16)).astype(np.float32),
        "differences": np.cumsum(RNG.integers(0, 999, (4000, 16)), axis=0),
        "zstd planes": np.tile(RNG.standard_normal((40, 16)).astype(np.float32), (100, 1)),
    }.values(),
)
def test_a_slice_of_byte_planes_is_the_slice_of_all(values):
    tensor = RawTensor(
        values.dtype.name, values.shape, values.reshape(-1).view(f"u{values.itemsize}")
    )
    payload = planes.encode(tensor, 1 << 30)
    count = len(tensor.bits)
    for items in (range(0, 16), range(160, 480), range(count - 5, count), range(7, 7)):
        part = planes.decode(payload, tensor.dtype, count, "t", items)
        assert np.array_equal(part, tensor.bits[items.start : items.stop])


def test_a_slice_of_raw_planes_takes_the_memory_of_the_slice():
    count = 1 << 21
    plane = bytes([planes.PlaneCoding.RAW]) + RNG.bytes(count)
    payload = b"\0" + 2 * plane
    part, peak = peak_of(lambda: planes.decode(payload, "uint16", count, "t", range(9, 99)))
    assert len(part) == 90
    assert peak < 1 << 16


@pytest.mark.parametrize("columns", [64, 784])
def test_balanced_is_no_larger_than_plain_zstd(columns):
    values = 0.05 * RNG.standard_normal((600, columns)).astype(np.float32)
    values[:, : columns // 3] = values[0, : columns // 3]  # inputs that never change: one row
    bits = (values.view(np.uint32) & 0xFFFFF000).reshape(-1)
    tensor = RawTensor("float32", values.shape, bits)
    _, payload = encode_tensor(tensor, Surroundings(Preset.BALANCED))
    frame = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(bits.tobytes())
    assert len(payload) <= len(frame)


def test_small_does_not_search_where_nothing_is_gained(monkeypatch):
    from ectorch.bitstream.codings import context

    tensor = grid((1 << 21) + 256)
    monkeypatch.setattr(context, "search", lambda *_: pytest.fail("searched"))
    assert encode_tensor(tensor)[0] in (Coding.STATIC, Coding.RANS)


def test_noise_in_frames_decodes_in_large_steps():
    from ectorch.bitstream.codings import floats

    data = np.frombuffer(RNG.bytes(1 << 24), np.uint8)
    frame = floats.compress(data.data)
    started = time.process_time()
    assert np.array_equal(floats.decode_zstd(frame, "uint8", len(data), "t"), data)
    assert time.process_time() - started < 0.3  # steps of 64 bytes took longer
