import pytest
import torch

from ectorch.errors import ConfigError, MismatchError, UnsupportedLayerError
from ectorch.posttrain.tensors import round_tensors
from ectorch.storage.files import save


def checkpoint(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return {
        "embed.weight": torch.randn(400, 32, generator=draw).to(dtype),
        "layer.weight": (torch.randn(64, 32, generator=draw) / 50).to(dtype),
        "layer.bias": torch.randn(64, generator=draw).to(dtype),
        "norm.weight": torch.ones(32, dtype=dtype),
        "norm.running_var": torch.rand(32, generator=draw),
        "steps": torch.tensor(7),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_file_has_the_size(dtype):
    source = checkpoint(dtype)
    rounded = round_tensors(source, lambda tensors: len(save(tensors)), 6000)
    assert 5900 <= len(save(rounded)) <= 6000
    assert [*rounded] == [*source]
    for name, tensor in rounded.items():
        assert (tensor.dtype, tensor.shape) == (source[name].dtype, source[name].shape)
    for name in ("norm.weight", "norm.running_var", "steps"):
        assert torch.equal(rounded[name], source[name])
    errors = {
        name: float((rounded[name] - source[name]).float().square().mean())
        / float(source[name].float().square().mean())
        for name in ("embed.weight", "layer.weight", "layer.bias")
    }
    assert errors["embed.weight"] > errors["layer.weight"] > errors["layer.bias"]


def test_names_may_be_kept():
    source = checkpoint()
    rounded = round_tensors(source, lambda tensors: len(save(tensors)), 60_000, ["embed.*"])
    assert torch.equal(rounded["embed.weight"], source["embed.weight"])
    assert not torch.equal(rounded["layer.weight"], source["layer.weight"])
    with pytest.raises(ConfigError, match="no tensor matches 'head'"):
        round_tensors(source, lambda tensors: 0, 6000, ["head"])


def test_bad_numbers_and_sizes_are_said():
    source = checkpoint()
    with pytest.raises(MismatchError, match="smallest file"):
        round_tensors(source, lambda tensors: len(save(tensors)), 100)
    source["layer.bias"][3] = torch.nan
    with pytest.raises(UnsupportedLayerError, match=r"^layer\.bias holds NaN"):
        round_tensors(source, lambda tensors: len(save(tensors)), 6000)
