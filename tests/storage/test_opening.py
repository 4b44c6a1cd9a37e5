"""Single tensors and slices of a file, without the others."""

import pytest
import torch

import ectorch as ec
from ectorch.bitstream.codings import context, rans
from ectorch.storage.files import save

PRESETS = ("small", "balanced", "fast")


def test_safe_open_reads_single_tensors(tmp_path, small_network, same):
    model, path = small_network(), tmp_path / "m.ect"
    ec.save_file(model, path, {"seed": "0"})
    state = model.state_dict()
    with ec.safe_open(str(path)) as file:
        assert file.keys() == list(file) == sorted(state)
        assert file.metadata() == {"seed": "0"}
        assert same(file.get_tensor("4.weight"), state["4.weight"])
        entry = file.get_entry("0.weight")
        assert (entry.dtype, entry.shape) == ("float32", (6, 1, 3, 3))
        assert 0 < entry.size_bytes <= entry.decoded_bytes == 216
        with pytest.raises(KeyError):
            file.get_tensor("5.weight")


def test_a_tensor_that_was_coded_with_an_earlier_one_can_be_read_alone(network, tmp_path, same):
    ec.save_file(network, tmp_path / "m.ect")
    alone = len(save({"2.weight": network["2.weight"]})) - len(save({}))
    with ec.safe_open(tmp_path / "m.ect") as file:
        assert file.get_entry("2.weight").size_bytes < alone  # dead columns cost nothing
        assert same(file.get_tensor("2.weight"), network["2.weight"])
        assert same(file.get_slice("2.weight")[3:5], network["2.weight"][3:5])


INDICES = [
    0,
    -1,
    119,
    slice(None),
    slice(3, 7),
    slice(-5, None, 2),
    slice(7, 3),
    slice(500, 600),
    (slice(2, 9), slice(10, 90, 7)),
    (4, 5),
    (Ellipsis, 3),
    None,
]


@pytest.fixture(scope="module", params=PRESETS)
def stored(request, network, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "m.ect"
    ec.save_file(network, path, preset=request.param)
    return path


@pytest.mark.parametrize("name", ["1.weight", "2.bias"])
@pytest.mark.parametrize("index", INDICES, ids=str)
def test_a_slice_is_that_of_the_tensor(stored, name, index, network, same):
    tensor = network[name]
    if isinstance(index, tuple) and Ellipsis not in index and tensor.ndim == 1:
        pytest.skip("two indices")
    with ec.safe_open(stored) as file:
        part = file.get_slice(name)
        assert part.get_shape() == list(tensor.shape)
        assert part.get_dtype() == "float32"
        assert same(part[index], tensor[index])


@pytest.mark.parametrize(
    ("index", "error"),
    [(120, IndexError), (-121, IndexError), (slice(None, None, -1), ValueError)],
    ids=str,
)
def test_a_row_that_is_not_there_is_refused(index, error, network, tmp_path):
    ec.save_file(network, tmp_path / "m.ect")
    with ec.safe_open(tmp_path / "m.ect") as file, pytest.raises(error, match=r"2\.bias"):
        file.get_slice("2.bias")[index]
    with pytest.raises(error):
        network["2.bias"][index]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_slice_decodes_its_own_chunks_only(preset, tmp_path, monkeypatch, sparse, same):
    decoded = []
    for stream in (context.ContextStream, rans.RansStream):
        original = stream.decode_into

        def record(self, index, out, original=original):
            decoded.append(index)
            original(self, index, out)

        monkeypatch.setattr(stream, "decode_into", record)
    large = sparse(600, 1000) * (torch.arange(1000) % 7 == 0)
    ec.save_file({"w": large}, tmp_path / "m.ect", preset=preset)
    with ec.safe_open(tmp_path / "m.ect") as file:
        assert same(file.get_slice("w")[550:560], large[550:560])
    assert len(decoded) == 1
    assert decoded[0] > 0
