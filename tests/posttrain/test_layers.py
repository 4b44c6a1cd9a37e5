import pytest
import torch
from torch import nn

from ectorch.posttrain.layers import reading

CASES = {
    "linear": (nn.Linear(6, 5), (4, 3, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
    "conv2d": (nn.Conv2d(3, 5, (3, 2), padding="same", dilation=2), (2, 3, 7, 6)),
    "conv3d": (nn.Conv3d(2, 3, 2, padding=1), (2, 2, 4, 3, 5)),
    "grouped": (nn.Conv2d(6, 9, 3, groups=3), (2, 6, 5, 5)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, padding=1, padding_mode="circular"), (2, 4, 5, 5)),
    "reflecting": (nn.Conv2d(2, 3, 3, padding=2, padding_mode="reflect"), (3, 2, 6, 5)),
    "no batch": (nn.Conv2d(2, 3, 3), (2, 6, 5)),
}


@pytest.mark.parametrize("case", CASES)
def test_inputs_times_matrices_are_the_outputs(case):
    module, shape = CASES[case]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    read = reading(module, "weight")
    output = module(x)
    matrices = read.to_matrices(module.weight)
    inputs = read.inputs((x,), {}, output)
    found = torch.cat([i @ m.T for i, m in zip(inputs, matrices, strict=True)], 1) + module.bias
    expected = output.movedim(read.axis, -1).reshape(-1, found.shape[1])
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.equal(read.from_matrices(matrices, module.weight.shape), module.weight)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_has_a_row_a_tap(groups):
    module = nn.ConvTranspose2d(4, 6, 3, stride=3, groups=groups, bias=False)
    x = torch.randn(2, 4, 5, 4, generator=torch.Generator().manual_seed(0))
    read = reading(module, "weight")
    matrices = read.to_matrices(module.weight)
    inputs = read.inputs((x,), {}, None)
    # with a stride of the kernel's size no two taps meet
    with torch.no_grad():
        expected = float(module(x).square().sum())
        products = [i @ m.T for i, m in zip(inputs, matrices, strict=True)]
    assert sum(float(each.square().sum()) for each in products) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(read.from_matrices(matrices, module.weight.shape), module.weight)


def test_an_embedding_is_looked_up():
    module = nn.Embedding(10, 4)
    read = reading(module, "weight")
    assert read.looks_up
    assert read.inputs((torch.tensor([[1, 2], [2, 3]]),), {}, None)[0].tolist() == [1, 2, 2, 3]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_read_inputs_and_states(bidirectional):
    module = nn.GRU(5, 7, num_layers=2, bidirectional=bidirectional, batch_first=True)
    x = torch.randn(3, 4, 5)
    output = module(x)
    assert torch.equal(
        reading(module, "weight_ih_l0").inputs((x,), {}, output)[0], x.reshape(-1, 5)
    )
    states = reading(module, "weight_hh_l1").inputs((x,), {}, output)[0]
    assert torch.equal(states, output[0][..., :7].reshape(-1, 7))
    assert reading(module, "weight_hh_l0") is None
    assert reading(module, "weight_ih_l1") is None


def test_packed_sequences_have_no_padding():
    module = nn.LSTM(5, 7)
    packed = nn.utils.rnn.pack_sequence([torch.randn(4, 5), torch.randn(2, 5)])
    output = module(packed)
    assert reading(module, "weight_ih_l0").inputs((packed,), {}, output)[0].shape == (6, 5)
    assert reading(module, "weight_hh_l0").inputs((packed,), {}, output)[0].shape == (6, 7)


def test_cells_read_inputs_and_states():
    module, x, h = nn.LSTMCell(5, 7), torch.randn(3, 5), torch.randn(3, 7)
    assert reading(module, "weight_ih").inputs((x,), {}, None)[0] is not None
    assert torch.equal(reading(module, "weight_hh").inputs((x, (h, h)), {}, None)[0], h)
    assert reading(module, "weight_hh").inputs((x,), {}, None) is None


def test_attention_projects_three_inputs():
    module = nn.MultiheadAttention(8, 2, batch_first=True)
    q, k = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    read = reading(module, "in_proj_weight")
    assert read.to_matrices(module.in_proj_weight).shape == (3, 8, 8)
    assert [len(x) for x in read.inputs((q, k, k), {}, None)] == [6, 10, 10]
    assert [len(x) for x in read.inputs((q,), {"key": k, "value": k}, None)] == [6, 10, 10]


def test_what_is_not_known_has_no_reading():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 3))

    assert reading(Own(), "weight") is None
    assert reading(nn.Linear(2, 2), "bias") is None
    assert reading(nn.LayerNorm(3), "weight") is None
