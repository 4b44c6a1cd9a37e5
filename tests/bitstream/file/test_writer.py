import errno
import re
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ectorch.bitstream import DTYPES, RawTensor, Reader, encode_file, write_atomic
from ectorch.bitstream.codings.choose import Preset
from ectorch.bitstream.codings.decode import Coding
from ectorch.bitstream.file.index import Entry, encode_header, place
from ectorch.bitstream.file.reader import DEFAULT_MAX_DECODED_BYTES
from ectorch.bitstream.file.writer import encode_tensors, estimate_file_bits, write_file
from ectorch.errors import ConfigError, FormatError, UnsupportedTensorError

PINNED = bytes.fromhex(
    "454354 01 34"
    " 01 01 6b 01 76"
    " 06"
    " 03 666302     80 01 02 08"
    " 21 01         40 02 04 08 0e"
    " 04 68616c66   20 01 02 04"
    " 01 6e         09 00 08"
    " 13 6f6e65     0e 02 00 03 00"
    " 05 7469656401 30 01"
    " 36a4bf14"
    " 0000003f cdcccc3d"
    " 04 02 3e80 01 1a1084426c11c92e5b"
    " 003e00c0"
    " 2c01000000000000"
    " a4e01447"
)


@pytest.fixture(scope="module")
def pinned(ect):
    ternary = ect.float32(np.array([-1, 0, 0, 1, 0, 0, 0, 2] * 4) * np.float32(0.25), (4, 8))
    return {
        "fc.bias": ect.float32([0.5, 0.1]),
        "fc.weight": ternary,
        "half": ect.float32([1.5, -2.0]),
        "n": ect.raw("int64", [300], ()),
        "none": ect.raw("bool", [], (0, 3)),
        "tied.weight": ternary,
    }


def test_a_pinned_file_is_written_byte_for_byte(pinned):
    assert encode_file(pinned, {"k": "v"}, "fast") == PINNED


def test_a_pinned_file_is_read_bit_for_bit(pinned, ect):
    decoded = ect.read_all(PINNED)
    assert list(decoded) == list(pinned)
    assert all(ect.same(decoded[name], pinned[name]) for name in pinned)
    with Reader(PINNED) as reader:
        assert reader.metadata == {"k": "v"}
        codings = [entry.coding for entry in reader]
    raw, static, half, alias = Coding.RAW, Coding.STATIC, Coding.HALF, Coding.ALIAS
    assert codings == [raw, static, half, raw, raw, alias]


SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(list(DTYPES)))
    shape = draw(SHAPES)
    count = int(np.prod(shape, dtype=int))
    items = st.integers(0, (1 << 8 * DTYPES[dtype]) - 1)
    bits = draw(st.lists(items, min_size=count, max_size=count))
    return RawTensor(dtype, shape, np.array(bits, f"u{DTYPES[dtype]}"))


FILES = st.dictionaries(st.text(max_size=6), tensors(), max_size=6)


@given(file=FILES, metadata=st.dictionaries(st.text(), st.text(), max_size=3))
def test_files_round_trip_whatever_they_hold(file, metadata, ect):
    data = encode_file(file, metadata)
    with Reader(data) as reader:
        assert reader.metadata == metadata
        assert list(reader.entries) == sorted(file, key=str.encode)
        assert all(ect.same(reader.read(name), tensor) for name, tensor in file.items())


@given(FILES, st.randoms())
def test_files_do_not_depend_on_the_order_of_tensors_and_metadata(file, order):
    names = list(file)
    order.shuffle(names)
    shuffled = encode_file({name: file[name] for name in names}, {"b": "1", "a": "2"})
    assert shuffled == encode_file(file, {"a": "2", "b": "1"})


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_no_and_one_item(dtype, ect):
    top = (1 << 8 * DTYPES[dtype]) - 1
    file = {
        "empty": ect.raw(dtype, [], (3, 0, 2)),
        "flat": ect.raw(dtype, [0, top, 1, top]),
        "scalar": ect.raw(dtype, [top], ()),
    }
    decoded = ect.read_all(encode_file(file))
    assert all(ect.same(decoded[name], file[name]) for name in file)


@pytest.mark.parametrize("empty", ["a", "b", "c"])
def test_an_empty_tensor_may_stand_anywhere(empty, ect):
    file = {name: ect.raw("uint8", range(200), (200,)) for name in "abc" if name != empty}
    file[empty] = ect.raw("float32", [], (0,))
    decoded = ect.read_all(encode_file(file))
    assert all(ect.same(decoded[name], file[name]) for name in file)


def test_equal_tensors_are_stored_once(ect):
    noise = np.random.default_rng(0).integers(0, 1 << 32, 2000)
    one = {"a": ect.raw("float32", noise)}
    three = one | {"b": ect.raw("float32", noise), "c": ect.raw("float32", noise)}
    data = encode_file(three)
    assert len(data) <= len(encode_file(one)) + 2 * 4
    assert all(ect.same(tensor, one["a"]) for tensor in ect.read_all(data).values())


def test_equal_bits_of_another_shape_or_dtype_are_no_alias(ect):
    file = {
        "a": ect.raw("float32", [1, 2, 3, 4]),
        "b": ect.raw("float32", [1, 2, 3, 4], (2, 2)),
        "c": ect.raw("int32", [1, 2, 3, 4]),
    }
    decoded = ect.read_all(encode_file(file))
    assert all(ect.same(decoded[name], file[name]) for name in file)


def test_names_index_and_checksums_of_lenet5_take_110_bytes_at_most(ect):
    data = encode_file(ect.lenet())
    with Reader(data) as reader:
        assert len(reader.entries) == 8
        assert reader.overhead_bytes <= 110
        payloads = sum(len(reader.payload(name)) for name in reader.entries)
        assert reader.overhead_bytes == len(data) - payloads


def test_estimate_is_near_the_file_where_nothing_shrinks_the_floats(ect):
    rng = np.random.default_rng(4)
    lenet = {
        name: ect.raw("float32", rng.integers(0, 1 << 32, tensor.shape))
        if "bias" in name
        else tensor
        for name, tensor in ect.lenet(0.2).items()
    }
    for file in (lenet, {}, {"a": ect.raw("int8", [])}):
        bits = 8 * len(encode_file(file))
        assert abs(estimate_file_bits(file) - bits) <= 0.01 * bits + 64


@pytest.fixture
def three_blocks(ect, tmp_path):
    """Two large tensors around two small ones, as a path and the file's parts."""
    rng = np.random.default_rng(3)
    file = {
        "a": ect.raw("float32", rng.integers(0, 1 << 32, 2000)),
        "b": ect.raw("float32", rng.integers(0, 1 << 32, 100)),
        "c": ect.raw("float32", rng.integers(0, 1 << 32, 100)),
        "d": ect.raw("float32", rng.integers(0, 1 << 32, 2000)),
    }
    path = tmp_path / "model.ect"
    write_atomic(path, encode_file(file))
    return path, file


@pytest.mark.parametrize(("block", "lost"), [(0, {"a"}), (1, {"b", "c"}), (2, {"d"})])
def test_damage_to_a_block_reaches_its_own_tensors_only(three_blocks, block, lost, ect):
    path, file = three_blocks
    data = bytearray(path.read_bytes())
    header, blocks = ect.take_apart(bytes(data))
    start = 3 + 1 + 1 + len(header) + 4 + sum(len(b) + 4 for b in blocks[:block])
    data[start + 17] ^= 1
    path.write_bytes(data)
    with Reader(path) as reader:
        for name in file:
            if name in lost:
                with pytest.raises(FormatError, match=f"block {block}: checksum"):
                    reader.read(name)
            else:
                assert ect.same(reader.read(name), file[name])
        with pytest.raises(FormatError, match="checksum"):
            reader.verify()


def test_one_tensor_is_read_without_the_bytes_of_the_others(three_blocks):
    path, _ = three_blocks
    with Reader(path) as reader:
        asked = []
        read = reader._source.read
        reader._source.read = lambda offset, size: asked.append(size) or read(offset, size)
        reader.read("b")
    assert sum(asked) <= 2 * 400 + 4


def test_unknown_names_are_key_errors():
    with Reader(PINNED) as reader, pytest.raises(KeyError):
        reader.read("nothing")


def test_a_newer_version_is_named(ect):
    header, blocks = ect.take_apart(PINNED)
    with pytest.raises(FormatError, match="version 2, this reader knows 1: upgrade"):
        Reader(ect.assemble(header, blocks, version=2))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"E",
        b"ECT",
        b"ECT\1",
        b"ECT\1\x80",
        b"PK\3\4" * 9,
        b"ECT\1" + b"\xff" * 9,
        b"ECT\1" + b"\xff" * 8 + b"\x7f" + bytes(40),
        b"ECT\1" + b"\x80\x80\x80\x08" + bytes(40),
        PINNED[:-1],
        PINNED[:57],
        PINNED[:61],
        PINNED + b"\0",
    ],
)
def test_files_that_are_none_are_refused(data, tmp_path):
    with pytest.raises(FormatError, match="ect bytes: "):
        Reader(data)
    path = tmp_path / "bad.ect"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"bad\.ect: "):
        Reader(path)


def test_pieces_are_put_back_together(ect, lenet_file):
    assert ect.assemble(*ect.take_apart(lenet_file)) == lenet_file


def huge(count):
    """A header that declares ``count`` zeros, and their payload of six bytes."""
    payload = b"\1\0" + bytes(4)
    entry = Entry("huge", "float32", (count,), Coding.STATIC, len(payload))
    return encode_header(place([entry]), {}), [payload]


def test_a_tiny_file_of_a_huge_tensor_is_refused_without_allocating(ect):
    data = ect.assemble(*huge(1 << 40))
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(FormatError, match=f"max_decoded_bytes={DEFAULT_MAX_DECODED_BYTES}"):
        Reader(data)
    assert time.process_time() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_what_does_not_fit_memory_is_a_format_error(ect):
    data = ect.assemble(*huge(1 << 56))
    with (
        Reader(data, max_decoded_bytes=1 << 80) as reader,
        pytest.raises(FormatError, match="do not fit memory"),
    ):
        reader.read("huge")


def test_the_limit_is_the_readers_choice(ect):
    data = ect.assemble(*huge(1000))
    assert not ect.read_all(data, 4004)["huge"].bits.any()
    with pytest.raises(FormatError, match="max_decoded_bytes=3999"):
        Reader(data, 3999)


@pytest.mark.parametrize("size", [0, 5, 7, 1 << 30])
def test_blocks_have_to_fill_the_file(size, ect):
    _, blocks = huge(10)
    entry = Entry("huge", "float32", (10,), Coding.STATIC, size)
    with pytest.raises(FormatError, match="the index asks for"):
        Reader(ect.assemble(encode_header(place([entry]), {}), blocks))


@pytest.mark.parametrize("name", ["\ud800", 3, None, ("a",), b"a"], ids=repr)
def test_what_is_no_name_is_not_written(name, ect):
    with pytest.raises(
        UnsupportedTensorError, match=f"^{re.escape(repr(name))} is no Unicode text"
    ):
        encode_file({"fine": ect.raw("int8", [1]), name: ect.raw("int8", [2])})


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"epoch": 3}, r"metadata\['epoch'\]: 3 is a int"),
        ({"a": "b", "k": "\udfff"}, r"metadata\['k'\]: '\\udfff' is a str"),
        ({"\ud800": "v"}, r"metadata\['\\ud800'\]"),
        ({b"k": "v"}, r"metadata\[b'k'\]: b'k' is a bytes"),
        ([("k", "v")], "metadata are a list"),
    ],
)
def test_metadata_that_are_no_text_are_not_written(metadata, message):
    with pytest.raises(ConfigError, match=message):
        encode_file({}, metadata)


@pytest.mark.parametrize("preset", ["small", "fast"])
def test_a_file_in_parts_is_the_file(preset, tmp_path, ect):
    tensors = ect.lenet(0.2)
    tensors |= {"tied": tensors["fc1.weight"], "empty": ect.raw("int8", [])}
    data = encode_file(tensors, {"k": "v"}, preset)
    encoded = encode_tensors(tensors, {"k": "v"}, Preset(preset), 2)
    assert b"".join(encoded.parts()) == data
    assert encoded.size_bytes == len(data)
    assert write_file(tmp_path / "m.ect", tensors, {"k": "v"}, preset) == len(data)
    assert (tmp_path / "m.ect").read_bytes() == data


def test_a_header_that_no_reader_takes_is_not_written(ect):
    with pytest.raises(FormatError, match="at most"):
        encode_file({}, {"key": "x" * (1 << 24)})


def test_a_write_replaces_the_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "model.ect"
    write_atomic(path, b"old")
    write_atomic(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("existed", [True, False])
def test_a_failed_write_changes_nothing(failing, existed, tmp_path, monkeypatch):
    path = tmp_path / "model.ect"
    if existed:
        path.write_bytes(b"old")

    def fail(*_):
        assert not existed or path.read_bytes() == b"old"
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr(failing, fail)
    with pytest.raises(OSError, match=f"disk full.*{path}"):
        write_atomic(path, b"new")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([b"old"] if existed else [])


def test_a_file_that_is_open_survives_its_replacement(three_blocks, ect):
    path, file = three_blocks
    with Reader(path) as reader:
        write_atomic(path, b"new")
        assert ect.same(reader.read("d"), file["d"])


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        Reader(tmp_path / "none.ect")
