"""What a discretized batch norm computes, and from which statistics."""

from __future__ import annotations

import copy

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ectorch.rewrite.norms import discretize_norms, restore_norms
from ectorch.storage.files import load, save


def network(seed=0):
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 36, 4),
        nn.BatchNorm1d(4),
    )
    for module in net:
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            module.num_batches_tracked += 1
    return net


def batches(count=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(50, 3, 8, 8, generator=generator) * 2 + 1 for _ in range(count)]


def norms(net):
    return [m for m in net if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]


def exact(net, inputs):
    """The same network in train mode, on all inputs at once: norms use the batch's statistics."""
    with torch.no_grad():
        return copy.deepcopy(net).train()(torch.cat(inputs))


def test_on_fine_grids_the_network_is_the_one_with_true_statistics():
    net, inputs = network(), batches()
    expected = exact(net, inputs)
    discretize_norms(net, inputs, levels=1 << 16)
    assert not net.training
    torch.testing.assert_close(net(torch.cat(inputs)), expected, rtol=0.02, atol=0.02)


def test_errors_do_not_add_up_over_layers():
    net, inputs = network(), batches()
    expected = exact(net, inputs)
    discretize_norms(net, inputs, levels=9)
    step = net[-1].bias.abs().max() / 4
    assert (net(torch.cat(inputs)).mean(0) - expected.mean(0)).abs().max() < 0.51 * step


@given(levels=st.integers(3, 200), seed=st.integers(0, 5))
def test_values_lie_on_a_grid_of_so_many_levels(levels, seed):
    net = discretize_norms(network(seed), batches(1, seed), levels)
    for norm in norms(net):
        assert not norm.running_mean.any()
        assert (norm.running_var == 1).all()
        for values in (norm.weight, norm.bias):
            step = (values.abs().max() / ((levels - 1) // 2)).item()
            multiples = values / step
            torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=0.01)
            assert len(values.unique()) <= levels


def test_a_channel_that_never_changes_gives_its_shift_alone():
    net, inputs = network(), batches()
    with torch.no_grad():
        net[0].weight[2] = 0.0
        net[0].bias[2] = 0.7
        net[3].weight[1] = 0.0
    expected = exact(net, inputs)
    discretize_norms(net, inputs, levels=1 << 16)
    assert net[1].weight[2] == 0
    assert net[4].weight[1] == 0
    torch.testing.assert_close(net(torch.cat(inputs)), expected, rtol=0.02, atol=0.02)


def test_statistics_do_not_depend_on_how_inputs_are_batched():
    one, inputs = network(), batches()
    other = copy.deepcopy(one)
    discretize_norms(one, inputs, 1 << 16)
    discretize_norms(other, torch.cat(inputs).split(30), 1 << 16)
    for mine, theirs in zip(norms(one), norms(other), strict=True):
        torch.testing.assert_close(mine.weight, theirs.weight, rtol=1e-3, atol=1e-4)


def test_norms_without_parameters_get_statistics_and_others_stay():
    net = nn.Sequential(
        nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, track_running_stats=False)
    )
    net[0].num_batches_tracked += 1
    untouched = copy.deepcopy(net[1].state_dict())
    inputs = batches()
    discretize_norms(net, inputs)
    together = torch.cat(inputs).transpose(0, 1).flatten(1)
    torch.testing.assert_close(net[0].running_mean, together.mean(1))
    torch.testing.assert_close(net[0].running_var, together.var(1, unbiased=False))
    assert all(torch.equal(net[1].state_dict()[key], untouched[key]) for key in untouched)


def test_a_network_without_norms_is_left_alone():
    net = nn.Linear(3, 2)
    before = copy.deepcopy(net.state_dict())
    discretize_norms(net, [torch.zeros(1, 3)])
    assert all(torch.equal(net.state_dict()[key], before[key]) for key in before)


def test_norms_take_few_bytes_in_a_file():
    inputs = [torch.randn(200, 64) * torch.linspace(0.5, 2, 64)]
    net = nn.Sequential(nn.BatchNorm1d(64))
    net(inputs[0])  # gathers exact statistics
    before = len(save(net))
    discretize_norms(net, inputs, levels=129)
    assert len(save(net)) < 0.4 * before
    loaded = load(save(net))
    assert all(torch.equal(loaded[key], value) for key, value in net.state_dict().items())


@given(seed=st.integers(0, 5), levels=st.sampled_from([9, 129]))
def test_restored_norms_compute_the_same_and_train_on(seed, levels):
    net, inputs = network(seed), batches(2, seed)
    with torch.no_grad():
        net[0].weight[2] = 0.0
    discretize_norms(net, inputs, levels)
    together = torch.cat(inputs)
    expected = net(together).detach()
    in_training = exact(net, inputs)
    assert (in_training - expected).abs().max() > 0.5  # which is what restoring is for
    restore_norms(net, inputs)
    assert not net.training
    torch.testing.assert_close(net(together), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(exact(net, inputs), expected, rtol=1e-3, atol=1e-3)


def test_true_statistics_stay():
    net, inputs = network(), batches()
    for norm in norms(net):
        norm.momentum = 1.0
    net.train()(torch.cat(inputs))
    before = copy.deepcopy(net.state_dict())
    restore_norms(net, inputs)
    for key, value in net.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-2, atol=1e-3)


def test_what_was_discretized_stays():
    net, inputs = discretize_norms(network(), batches()), batches(seed=3)
    state = copy.deepcopy(net.state_dict())
    discretize_norms(net, inputs)
    assert all(torch.equal(net.state_dict()[key], state[key]) for key in state)
