"""Augmentation: what each kind does, and that a batch's is a function of (seed, step, row)."""

from itertools import islice

import pytest
import torch

from sdgan_ext.data import ImageDataset, batches
from sdgan_ext.data.augment import augment_images, draw_augmentation

IMAGES = torch.arange(6 * 2 * 16 * 16, dtype=torch.float32).reshape(6, 2, 16, 16)
KINDS = ("flip", "shift", "rotate90")


def draws(**columns):
    """For six images; 0.5 stands for no flip and no shift, 0 for no turn."""
    table = {"flip": 0.5, "down": 0.5, "right": 0.5, "turn": 0.0} | columns
    return torch.tensor([table[name] for name in ("flip", "down", "right", "turn")]).expand(6, 4)


@pytest.fixture
def dataset():
    bytes_ = torch.randint(0, 256, (23, 1, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    return ImageDataset(bytes_, torch.arange(23))


def taken(dataset, count, **options):
    return list(islice(batches(dataset, **({"batch_size": 6, "seed": 0, "augment": KINDS} | options)), count))


def equal(ones, others):
    return len(ones) == len(others) and all(torch.equal(x, y) for x, y in zip(ones, others, strict=True))


def test_flip():
    assert torch.equal(augment_images(IMAGES, draws(flip=0.49), ["flip"]), IMAGES.flip(3))
    assert torch.equal(augment_images(IMAGES, draws(), ["flip"]), IMAGES)


@pytest.mark.parametrize("axis, dim", [("down", 2), ("right", 3)])
def test_shift_repeats_the_edge(axis, dim):
    """16 pixels may move by one."""
    after = augment_images(IMAGES, draws(**{axis: 0.9}), ["shift"])
    assert torch.equal(after.narrow(dim, 1, 15), IMAGES.narrow(dim, 0, 15))
    assert torch.equal(after.narrow(dim, 0, 1), IMAGES.narrow(dim, 0, 1))
    before = augment_images(IMAGES, draws(**{axis: 0.1}), ["shift"])
    assert torch.equal(before.narrow(dim, 0, 15), IMAGES.narrow(dim, 1, 15))
    assert torch.equal(before.narrow(dim, 15, 1), IMAGES.narrow(dim, 15, 1))
    assert torch.equal(augment_images(IMAGES, draws(), ["shift"]), IMAGES)
    last = augment_images(IMAGES, draws(**{axis: 1 - 2**-24}), ["shift"])
    assert torch.equal(last, after)  # the largest draw is in range


def test_rotate90(refused):
    for turn in range(4):
        turned = augment_images(IMAGES, draws(turn=turn / 4 + 0.1), ["rotate90"])
        assert torch.equal(turned, IMAGES.rot90(turn, (2, 3)))
    with refused("rotate90", "square", "[16, 8]"):
        augment_images(IMAGES[..., :8], draws(), ["rotate90"])


def test_unknown_kinds_are_refused_at_once(dataset, refused):
    with refused("'filp'", "did you mean 'flip'", "'rotate90'"):
        batches(dataset, 6, seed=0, augment=["filp"])


def test_images_of_a_batch_are_augmented_each_in_its_own_way():
    u = draw_augmentation(1000, 0, 0)
    assert 0.45 < (u[:, 0] < 0.5).float().mean() < 0.55
    same = torch.arange(256.0).reshape(1, 1, 16, 16).expand(1000, 1, 16, 16)
    kinds = augment_images(same, u, KINDS).flatten(1).unique(dim=0)
    assert 60 < len(kinds) <= 2 * 9 * 4
    for other in (draw_augmentation(1000, 1, 0), draw_augmentation(1000, 0, 1)):
        assert not torch.equal(other, u)


def test_it_follows_from_seed_and_step_alone(dataset):
    whole = [x for x, _ in taken(dataset, 7)]
    assert not equal(whole, [x for x, _ in taken(dataset, 7, augment=None)])
    assert equal(whole[4:], [x for x, _ in taken(dataset, 3, start=4)])
    parts = [[x for x, _ in taken(dataset, 7, rows=rows)] for rows in (slice(0, 2), slice(2, 6))]
    assert equal(whole, [torch.cat(both) for both in zip(*parts, strict=True)])
    last = taken(dataset, 4, drop_last=False)[-1][0]
    assert len(last) == 5


def test_labels_and_the_dataset_stay(dataset):
    before = dataset.images.clone()
    plain, changed = (taken(dataset, 4, augment=kinds) for kinds in (None, KINDS))
    assert equal([y for _, y in plain], [y for _, y in changed]) and torch.equal(dataset.images, before)


def test_draws_are_pinned():
    """A resumed run must meet the augmentation of the run it resumes, whatever version either is of."""
    pinned = [0.80584592, 0.22186983, 0.67592788, 0.55935508]
    torch.testing.assert_close(draw_augmentation(1, 3, 5)[0], torch.tensor(pinned), rtol=0, atol=1e-7)
