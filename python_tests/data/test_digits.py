import pickle

import pytest
import torch
from PIL import ImageFont
from torch.utils.data import DataLoader

from sdgan_ext.data import RenderedDigits, digits


@pytest.fixture(scope="module")
def dataset():
    return RenderedDigits(seed=1, length=2000)


def test_interface(dataset):
    assert (len(dataset), dataset.image_size, dataset.channels, dataset.num_classes) == (2000, (28, 28), 1, 10)
    assert dataset.name == "digits"
    image, label = dataset[3]
    assert image.shape == (1, 28, 28) and image.dtype == torch.float32 and type(label) is int
    images, labels = dataset.batch(torch.arange(200))
    assert images.shape == (200, 1, 28, 28) and labels.shape == (200,) and labels.dtype == torch.int64
    assert torch.equal(images[3], image) and labels[3] == label
    assert images.min() == -1 and images.max() == 1


def test_image_depends_on_seed_and_index_alone(dataset):
    order = torch.randperm(600, generator=torch.Generator().manual_seed(0))
    images, labels = RenderedDigits(seed=1, length=2000).batch(order)
    again, labels_again = dataset.batch(torch.arange(600))
    assert torch.equal(images, again[order]) and torch.equal(labels, labels_again[order])
    for index in (0, 255, 256, 599):
        single = RenderedDigits(seed=1, length=2000).batch(torch.tensor([index]))[0]
        assert torch.equal(single[0], again[index])


def test_seeds_differ(dataset):
    for seed in (0, 2, -1, 2**63, 2**70):
        images, _ = RenderedDigits(seed=seed, length=50).batch(torch.arange(50))
        assert not (images == dataset.batch(torch.arange(50))[0]).flatten(1).all(1).any()


def test_labels_are_even_and_images_all_differ(dataset):
    images, labels = dataset.batch(torch.arange(2000))
    assert torch.bincount(labels, minlength=10).min() > 140
    assert len(images.flatten(1).unique(dim=0)) == 2000


def test_looks_like_mnist(dataset):
    images, _ = dataset.batch(torch.arange(2000))
    ink = (images[:, 0] + 1) / 2
    assert 0.08 < ink.mean() < 0.2
    assert (ink.flatten(1).amax(1) > 0.8).all()
    corners = ink[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners > 0).float().mean() < 0.01
    axis = torch.arange(28.0) - 13.5
    weight = ink.sum((1, 2))
    centre_y, centre_x = (ink.sum(2) @ axis) / weight, (ink.sum(1) @ axis) / weight
    assert centre_y.mean().abs() < 1 and centre_x.mean().abs() < 1
    assert centre_y.abs().max() < 6 and centre_x.abs().max() < 6


def test_digits_can_be_told_apart(dataset):
    """Nearest class mean, from other images: a wrong label or an unreadable digit would show."""
    images, labels = dataset.batch(torch.arange(2000))
    means = torch.stack([images[:1000][labels[:1000] == digit].mean(0) for digit in range(10)]).flatten(1)
    guess = torch.cdist(images[1000:].flatten(1), means).argmin(1)
    assert (guess == labels[1000:]).float().mean() > 0.75


def test_endless_but_iteration_ends():
    dataset = RenderedDigits(length=3)
    images, _ = dataset.batch(torch.tensor([0, 10**12]))
    assert not torch.equal(images[0], images[1])
    assert len(list(dataset)) == 3
    assert torch.equal(dataset[-1][0], dataset[2][0])
    with pytest.raises(IndexError):
        dataset[3]
    with pytest.raises(IndexError):
        dataset.batch(torch.tensor([-1]))


def test_first_index_shifts_the_sequence():
    shifted = RenderedDigits(length=5, first_index=7).batch(torch.arange(3))
    plain = RenderedDigits(length=10).batch(torch.arange(7, 10))
    assert torch.equal(shifted[0], plain[0]) and torch.equal(shifted[1], plain[1])


def test_second_visit_comes_from_the_cache(monkeypatch):
    dataset = RenderedDigits(length=20)
    first = dataset.batch(torch.arange(20))[0]
    monkeypatch.setattr(digits, "_draw", None)
    assert torch.equal(dataset.batch(torch.arange(20))[0], first)
    first.zero_()
    assert dataset.batch(torch.arange(20))[0].min() == -1


def test_no_cache_for_large_epochs():
    dataset = RenderedDigits(length=10**9)
    assert dataset._cache is None
    assert dataset.batch(torch.tensor([10**9 - 1]))[0].shape == (1, 1, 28, 28)


@pytest.mark.parametrize("size", [8, 32, 65])
def test_sizes_and_colour(size):
    images, _ = RenderedDigits(length=20, image_size=size, channels=3).batch(torch.arange(20))
    assert images.shape == (20, 3, size, size) and torch.equal(images[:, 0], images[:, 2])
    assert 0.06 < ((images + 1) / 2).mean() < 0.25


def test_pickles_without_its_cache(dataset):
    pickled = pickle.dumps(dataset)
    assert len(pickled) < 2000
    again = pickle.loads(pickled)
    assert torch.equal(again.batch(torch.arange(9))[0], dataset.batch(torch.arange(9))[0])


def test_torch_data_loader(dataset):
    images, labels = next(iter(DataLoader(dataset, batch_size=4)))
    assert torch.equal(images, dataset.batch(torch.arange(4))[0]) and labels.shape == (4,)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"length": 0}, "length"), ({"image_size": 7}, "image_size"), ({"channels": 2}, "channels"),
     ({"first_index": -1}, "first_index")],
)  # fmt: skip
def test_bad_arguments(arguments, word, refused):
    with refused(word, next(iter(arguments.values()))):
        RenderedDigits(**arguments)


@pytest.mark.parametrize("error", [ImportError("The _imagingft C module is not installed"), TypeError("size")])
def test_pillow_without_freetype(monkeypatch, error, refused):
    def fail(size):
        raise error

    monkeypatch.setattr(ImageFont, "load_default", fail)
    digits._glyphs.cache_clear()
    with refused("Pillow", "FreeType", "pip install"):
        RenderedDigits()
