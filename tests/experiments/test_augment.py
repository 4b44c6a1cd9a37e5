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


def test_flips_are_of_half_of_the_images():
    images = torch.rand(400, 3, 8, 6)
    flipped = augment(images, Augment(flip=True))
    same, other = ((flipped == kind).flatten(1).all(1) for kind in (images, images.flip(3)))
    assert (same ^ other).all()
    assert 150 < int(same.sum()) < 250


def test_crops_are_windows_of_the_reflected_image():
    images = torch.rand(200, 2, 8, 6)
    cropped = augment(images, Augment(crop=2))
    padded = torch.nn.functional.pad(images, [2] * 4, mode="reflect")
    windows = padded.unfold(2, 8, 1).unfold(3, 6, 1)  # n, channels, 5, 5, 8, 6
    found = (windows == cropped[:, :, None, None]).all(-1).all(-1).all(1)
    assert (found.sum((1, 2)) == 1).all()
    assert found.any(0).all()  # each of the 25 is drawn


def test_cutout_is_a_square_of_the_mean_cut_at_the_border():
    images = torch.rand(300, 3, 12, 12)
    cut = augment(images, Augment(cutout=5))
    changed = cut != images
    assert torch.equal(changed.any(1), changed.all(1))
    assert (cut - images.mean((1, 2, 3), keepdim=True))[changed].abs().max() == 0
    heights, widths = changed[:, 0].any(2).sum(1), changed[:, 0].any(1).sum(1)
    assert torch.equal(changed[:, 0].sum((1, 2)), heights * widths)
    for sides in (heights, widths):
        assert int(sides.min()) == 1
        assert int(sides.max()) == 5


@pytest.mark.parametrize(
    "ranges",
    [Augment(rotate=10.0, scale=0.1, shift=1.0), Augment(crop=3, flip=True, cutout=6)],
    ids=["maps", "crops"],
)
def test_the_global_seed_decides(ranges):
    torch.manual_seed(3)
    first = augment(blob(), ranges)
    torch.manual_seed(3)
    assert torch.equal(first, augment(blob(), ranges))
    assert first.shape == blob().shape
    assert not torch.equal(first, augment(blob(), ranges))


def test_ranges_are_checked():
    with pytest.raises(ValidationError):
        TypeAdapter(Augment).validate_python({"rotate": -1.0})
