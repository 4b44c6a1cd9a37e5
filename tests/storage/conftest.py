"""What the tests of storage share: how tensors are compared, and two small networks."""

import pytest
import torch
from torch import nn

from ectorch.bitstream.codings import context, rans

CARRIERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(CARRIERS[tensor.element_size()])


def is_same(ours, theirs):
    alike = (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    return alike and torch.equal(_bits(ours), _bits(theirs))


def are_same(ours, theirs):
    return ours.keys() == theirs.keys() and all(is_same(ours[name], theirs[name]) for name in ours)


def make_small_network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
    )


def draw_sparse(*shape, seed=0, share=0.1):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(shape, generator=generator) < share
    return (drawn * torch.randint(-4, 5, shape, generator=generator)).float() * 0.125


@pytest.fixture(scope="session")
def same():
    """Whether two tensors have one dtype, shape and bit pattern."""
    return is_same


@pytest.fixture(scope="session")
def all_same():
    """The same of two dicts of tensors."""
    return are_same


@pytest.fixture(scope="session")
def small_network():
    """Makes a convolution, a batch norm and a linear layer, from one seed."""
    return make_small_network


@pytest.fixture(scope="session")
def sparse():
    """Makes a sparse tensor of few levels."""
    return draw_sparse


@pytest.fixture(scope="session")
def network():
    """Tensors of two layers of which the second has no use for the dead units of the first."""
    generator = torch.Generator().manual_seed(2)
    first, second = draw_sparse(200, 300), draw_sparse(120, 200, seed=1, share=0.4)
    dead = torch.arange(200) % 2 == 0
    first[dead], second[:, dead] = 0, 0
    bias = torch.randn(120, generator=generator)
    return {"1.weight": first, "2.weight": second, "2.bias": bias}


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of a sixteenth: tensors of several need not be large."""
    monkeypatch.setattr(context, "_CHUNK_ITEMS", context._CHUNK_ITEMS >> 4)
    monkeypatch.setattr(rans, "_CHUNK_BITS", rans._CHUNK_BITS - 4)
    monkeypatch.setattr(rans, "_SMALL_CHUNK_BITS", rans._SMALL_CHUNK_BITS >> 4)
