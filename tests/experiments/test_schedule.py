"""Learning rates, step by step, as the equation has them; and the order of examples."""

import math

import pytest
import torch

from ectorch.experiments.recipe import Stage
from ectorch.experiments.schedule import Order, make_optimizer, make_schedule


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.37, 1.0])
@pytest.mark.parametrize("lr", [1e-3, 0.1, 4e-3])
def test_every_rate_is_the_rise_times_the_cosine_bit_for_bit(warmup, lr):
    stage, steps = Stage(epochs=1, lr=lr, warmup=warmup), 37
    optimizer = make_optimizer(torch.nn.Linear(3, 2), stage)
    schedule = make_schedule(optimizer, stage, steps)
    for step in range(steps):
        progress = step / steps
        rise = min(progress / warmup, 1.0) if warmup else 1.0
        expected = lr * (rise * (1 + math.cos(math.pi * progress)) / 2)
        assert {group["lr"] for group in optimizer.param_groups} == {expected}
        optimizer.step()
        schedule.step()
    assert {group["lr"] for group in optimizer.param_groups} == {0.0}


def test_a_stage_of_no_steps_has_a_schedule():
    stage = Stage(epochs=0)
    optimizer = make_optimizer(torch.nn.Linear(3, 2), stage)
    assert make_schedule(optimizer, stage, 0).get_last_lr() == [1e-3] * len(optimizer.param_groups)


def test_the_order_of_an_epoch_is_the_same_whenever_it_is_asked_for():
    order = Order(seed=3, count=20)
    first = torch.cat([order.batch(0, 1, at, 5) for at in range(4)])
    assert sorted(first.tolist()) == list(range(20))
    assert not torch.equal(order.batch(0, 2, 0, 20), first)
    assert not torch.equal(order.batch(1, 1, 0, 20), first)
    assert torch.equal(order.batch(0, 1, 0, 20), first)
    assert torch.equal(Order(seed=3, count=20).batch(0, 1, 1, 5), first[5:10])
