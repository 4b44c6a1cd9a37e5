"""What samples of a large tensor decide."""

import numpy as np
import pytest

from ectorch.bitstream import Reader, encode_file
from ectorch.bitstream.codings import choose, context, floats, rans, sample, static
from ectorch.bitstream.codings.choose import Surroundings, encode_tensor
from ectorch.bitstream.codings.context import Alphabet, Layout
from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.tensor import RawTensor

SHAPE = (640, 1200)


def tensor_of(symbols):
    values = symbols.astype(np.float32) * np.float32(1 / 16)
    return RawTensor("float32", symbols.shape, values.reshape(-1).view(np.uint32))


def noise(rng):
    return np.rint(rng.normal(0, 4, SHAPE))


def rows_differ(rng):
    return np.rint(rng.normal(0, 1, SHAPE) * np.exp2(rng.uniform(-1, 3, (SHAPE[0], 1))))


def columns_differ(rng):
    return np.rint(rng.normal(0, 1, SHAPE) * np.exp2(rng.uniform(-1, 3, SHAPE[1])))


def rows_resemble(rng):
    return np.rint(np.cumsum(rng.normal(0, 0.5, SHAPE), 0)).clip(-60, 60)


def sparse(rng):
    return (rng.random(SHAPE) < 0.06) * rng.integers(-3, 4, SHAPE)


def sparse_with_empty_lines(rng):
    symbols = sparse(rng)
    symbols[rng.random(SHAPE[0]) < 0.4] = 0
    symbols[:, rng.random(SHAPE[1]) < 0.4] = 0
    return symbols


def one_dense_corner(rng):
    symbols = sparse(rng)
    symbols[:160, :300] = rng.integers(-9, 10, (160, 300))
    return symbols


KINDS = [
    noise,
    rows_differ,
    columns_differ,
    rows_resemble,
    sparse,
    sparse_with_empty_lines,
    one_dense_corner,
]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_samples_cost_few_bytes(kind, monkeypatch):
    """Not more than a few thousandths over a search that codes the whole tensor in each layout."""
    tensor = tensor_of(kind(np.random.default_rng(1)))
    quick = len(encode_tensor(tensor)[1])
    monkeypatch.setattr(choose, "_SMALL_ITEMS", 1 << 40)
    monkeypatch.setattr(choose, "_SMALL_SYMBOLS_BYTES", 1 << 40)
    assert len(encode_tensor(tensor)[1]) <= quick <= 1.002 * len(encode_tensor(tensor)[1])


def test_small_tensors_are_searched_as_a_whole(monkeypatch):
    def refuse(*_):
        raise AssertionError("sampled")

    monkeypatch.setattr(sample, "find_layout", refuse)
    few = sparse(np.random.default_rng(2))[:40]
    assert encode_tensor(tensor_of(few))[0] in (Coding.CONTEXT, Coding.STATIC, Coding.RANS)
    with pytest.raises(AssertionError, match="sampled"):
        encode_tensor(tensor_of(noise(np.random.default_rng(2))))


def find(symbols, hints=None):
    zero = int(-symbols.min())
    flat = (symbols + zero).astype(np.uint16).reshape(-1)
    alphabet = Alphabet(int(flat.max()) + 1, zero)
    counts = rans.count_symbols(flat, alphabet.levels)
    size = len(static.encode(flat, alphabet.levels))
    return sample.find_layout(flat, symbols.shape, alphabet, hints or {}, counts, size)


def test_noise_has_no_layout():
    assert find(noise(np.random.default_rng(3))) is None


def test_rows_that_resemble_each_other_have_one():
    assert find(rows_resemble(np.random.default_rng(4))) is not None


def test_empty_lines_are_said():
    assert find(sparse_with_empty_lines(np.random.default_rng(5))).live


def test_a_sample_is_whole_rows_from_everywhere():
    table = np.arange(1000 * 50).reshape(1000, 50) // 50
    rows = sample._rows_of(table, 0.04)
    assert (rows == rows[:, :1]).all()
    first = rows[:, 0]
    assert 40 <= len(first) <= 48
    assert len(np.unique(first)) == len(first)
    assert first[0] < 80
    assert first[-1] > 920
    assert np.array_equal(sample._rows_of(table, 0.7), table)


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_long_rows_are_coded(rows):
    symbols = noise(np.random.default_rng(6)).reshape(rows, -1)[:, : 200_000 // rows * rows]
    tensor = tensor_of(symbols[:, :200_000])
    data = encode_file({"w": tensor})
    with Reader(data) as reader:
        assert np.array_equal(reader.read("w").bits, tensor.bits)


def test_files_of_large_tensors_do_not_depend_on_threads():
    rng = np.random.default_rng(7)
    file = {kind.__name__: tensor_of(kind(rng)) for kind in (noise, rows_differ, sparse)}
    file["floats"] = RawTensor(
        "float32", (200_000,), rng.normal(0, 1, 200_000).astype("f4").view("u4")
    )
    one = encode_file(file, threads=1)
    assert all(encode_file(file, threads=threads) == one for threads in (2, 3, 8))


def test_what_is_repeated_gets_the_high_level_and_noise_does_not(monkeypatch):
    levels = []
    frame = floats._frame
    monkeypatch.setattr(
        floats,
        "_frame",
        lambda data, level: levels.append((len(data), level)) or frame(data, level),
    )
    rng = np.random.default_rng(8)
    random = rng.integers(0, 256, 300_000, np.uint8)
    floats.compress(random.data, thorough=False)
    assert (300_000, 19) not in levels
    repeated = np.tile(random[:50_000], 6)
    assert len(floats.compress(repeated.data, thorough=False)) < 60_000
    assert (300_000, 19) in levels


def test_a_choice_is_kept_while_a_tensor_changes_little():
    rng = np.random.default_rng(9)
    first = choose.code_tensor(tensor_of(sparse_with_empty_lines(rng)), Surroundings())
    assert first.choice.layout is not None
    around = Surroundings(earlier=first.choice)
    again = choose.code_tensor(tensor_of(sparse_with_empty_lines(rng)), around)
    assert again.choice is first.choice
    other = choose.code_tensor(tensor_of(noise(rng)), around)
    assert other.choice.coding is not Coding.CONTEXT
    assert choose.Choice.from_dict(first.choice.as_dict()) == first.choice
    assert context.Layout(**first.choice.as_dict()["layout"]) == first.choice.layout
    assert Layout() == Layout(**choose.asdict(Layout()))
