"""What the bitstream's tests share: tensors from bit patterns, and files put together by hand."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

from ectorch.bitstream import DTYPES, RawTensor, Reader, encode_file, native, plain
from ectorch.bitstream.wire import Cursor, varint

settings.register_profile("ectorch", deadline=None, max_examples=60)
settings.load_profile("ectorch")


def make_raw(dtype: str, bits, shape: tuple[int, ...] | None = None) -> RawTensor:
    array = np.array(bits, f"u{DTYPES[dtype]}").reshape(-1)
    return RawTensor(dtype, (len(array),) if shape is None else shape, array)


def make_float32(values, shape: tuple[int, ...] | None = None) -> RawTensor:
    array = np.array(values, np.float32)
    return RawTensor("float32", array.shape if shape is None else shape, _bits(array))


def assemble(header: bytes, blocks: Sequence[bytes], version: int = 1) -> bytes:
    """A file with right lengths and checksums around any header and payloads."""
    head = b"ECT" + bytes([version]) + varint(len(header)) + header
    return b"".join(part + zlib.crc32(part).to_bytes(4, "little") for part in (head, *blocks))


def take_apart(data: bytes) -> tuple[bytes, list[bytes]]:
    """Inverse of `assemble` for a good file."""
    cursor = Cursor(data, "test")
    cursor.take(4)
    header = cursor.take(cursor.varint())
    cursor.take(4)
    sizes: dict[int, int] = {}
    with Reader(data) as reader:
        for entry in reader:
            if entry.alias_of is None:
                sizes[entry.block] = sizes.get(entry.block, 0) + entry.size_bytes
    blocks = []
    for size in sizes.values():
        blocks.append(cursor.take(size))
        cursor.take(4)
    assert not cursor.remaining
    return header, blocks


def read_all(data: bytes, max_decoded_bytes: int = 1 << 20) -> dict[str, RawTensor]:
    with Reader(data, max_decoded_bytes) as reader:
        return {entry.name: reader.read(entry.name) for entry in reader}


def same(ours: RawTensor, theirs: RawTensor) -> bool:
    return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape) and np.array_equal(
        ours.bits, theirs.bits
    )


def lenet(scale: float = 1.0) -> dict[str, RawTensor]:
    """Sparse ternary weights and float biases in the shapes of LeNet-5, or smaller ones."""
    rng = np.random.default_rng(5)
    channels = [max(2, math.ceil(scale * width)) for width in (20, 50, 800, 500)]
    one, two, flat, hidden = channels
    shapes = {
        "conv1": (one, 1, 5, 5),
        "conv2": (two, one, 5, 5),
        "fc1": (hidden, flat),
        "fc2": (10, hidden),
    }
    tensors = {}
    for name, shape in shapes.items():
        symbols = rng.choice([-1, 0, 1], shape, p=[0.05, 0.91, 0.04])
        tensors[f"{name}.weight"] = make_float32(symbols * np.float32(0.125))
        tensors[f"{name}.bias"] = make_float32(rng.standard_normal(shape[0]))
    return tensors


BUILT = native.module
TWINS = {"plain": plain} | ({"compiled": BUILT} if BUILT else {})


def use(patch: pytest.MonkeyPatch, twin: object) -> None:
    patch.setattr(native, "module", None if twin is plain else twin)


@pytest.fixture(params=TWINS)
def twin(request, monkeypatch):
    """Either module of kernels, by which the codings code meanwhile."""
    use(monkeypatch, TWINS[request.param])
    return TWINS[request.param]


@pytest.fixture(scope="session")
def twins() -> list[native.Kernels]:
    """All modules of kernels, the plain one first."""
    return [*TWINS.values()]


@pytest.fixture(scope="session")
def with_each_twin() -> Callable[[Callable[[], object]], list[object]]:
    """Results of a function that codes by each twin, the plain one first."""

    def results(code):
        found = []
        for twin in TWINS.values():
            with pytest.MonkeyPatch.context() as patch:
                use(patch, twin)
                found.append(code())
        return found

    return results


@pytest.fixture(scope="session")
def ect() -> SimpleNamespace:
    """The helpers of this module: tests cannot import a conftest."""
    return SimpleNamespace(
        raw=make_raw,
        float32=make_float32,
        assemble=assemble,
        take_apart=take_apart,
        read_all=read_all,
        same=same,
        lenet=lenet,
    )


@pytest.fixture(scope="session")
def lenet_file() -> bytes:
    """A small realistic file: every coding, shared blocks and blocks of their own."""
    rng = np.random.default_rng(6)
    tensors = lenet(0.04)
    tensors["fc1.weight_copy"] = tensors["fc1.weight"]
    tensors["half"] = make_float32(rng.standard_normal(40).astype(np.float16))
    tensors["text"] = make_raw("uint8", np.tile(rng.permutation(256), 3))
    tensors["large"] = make_raw("float32", rng.integers(0, 1 << 32, 1024))
    tensors["norm.num_batches_tracked"] = make_raw("int64", [7], ())
    tensors["odd"] = make_float32(rng.choice([0.1, 0.25, -1.7], 200))
    return encode_file(tensors, {"network": "lenet", "seed": "5"})


@pytest.fixture(scope="session")
def mutations() -> dict[str, Callable[[np.random.Generator, bytes], bytes]]:
    """Ways to damage bytes by name; each changes one byte at least."""
    return {"flip": _flip, "cut": _cut, "grow": _grow, "noise": _noise, "swap": _swap}


def _bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(f"u{array.itemsize}")


def _flip(rng: np.random.Generator, data: bytes) -> bytes:
    at = int(rng.integers(len(data)))
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


def _cut(rng: np.random.Generator, data: bytes) -> bytes:
    start = int(rng.integers(len(data)))
    end = len(data) if rng.random() < 0.5 else start + 1 + int(rng.integers(len(data) - start))
    return data[:start] + data[end:]


def _grow(rng: np.random.Generator, data: bytes) -> bytes:
    at = len(data) if rng.random() < 0.5 else int(rng.integers(len(data)))
    return data[:at] + rng.bytes(1 + int(rng.integers(40))) + data[at:]


def _noise(rng: np.random.Generator, data: bytes) -> bytes:
    start = int(rng.integers(len(data)))
    noise = rng.bytes(min(1 + int(rng.integers(16)), len(data) - start))
    noisy = data[:start] + noise + data[start + len(noise) :]
    return noisy if noisy != data else _noise(rng, data)


def _swap(rng: np.random.Generator, data: bytes) -> bytes:
    a, b, c, d = sorted(rng.integers(0, len(data) + 1, 4).tolist())
    swapped = data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]
    return swapped if swapped != data else _swap(rng, data)
