from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from ectorch.experiments.augment import Augment, augment


def blob():
    images = torch.zeros(64, 1, 28, 28)
    images[:, :, 12:16, 12:16] = 1.0
    return images


def centres(images):
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    mass = images.sum((1, 2, 3))
    return torch.stack([(images[:, 0] * axis).sum((1, 2)) / mass for axis in (rows, columns)], 1)


def test_no_ranges_leave_images_and_the_random_state_alone():
    before, images = torch.get_rng_state(), blob()
    assert augment(images, Augment()) is images
    assert torch.equal(torch.get_rng_state(), before)


def test_shifts_stay_within_their_range_and_use_it():
    moved = centres(augment(blob(), Augment(shift=2.0))) - centres(blob())
    assert moved.abs().max() < 2.001
    assert moved.abs().max() > 1.5
    assert moved.mean().abs() < 0.5


def test_scale_changes_the_area_and_rotation_does_not():
    areas = augment(blob(), Augment(scale=0.3)).sum((1, 2, 3)) / 16
    assert 0.3 < areas.min() < 0.9
    assert 1.1 < areas.max() < 2.4
    turned = augment(blob(), Augment(rotate=45.0)).sum((1, 2, 3)) / 16
    torch.testing.assert_close(turned, torch.ones(64), rtol=0.05, atol=0)
    assert (augment(blob(), Augment(rotate=45.0)) - blob()).abs().max() > 0.2


def test_the_global_seed_decides():
    torch.manual_seed(3)
    first = augment(blob(), Augment(rotate=10.0, scale=0.1, shift=1.0))
    torch.manual_seed(3)
    assert torch.equal(first, augment(blob(), Augment(rotate=10.0, scale=0.1, shift=1.0)))
    assert first.shape == blob().shape


def test_ranges_are_checked():
    with pytest.raises(ValidationError):
        TypeAdapter(Augment).validate_python({"rotate": -1.0})
