"""Pixels around the images: by repeating the edge, wherever the images come from; metrics do not see them."""

import numpy as np
import pytest
import torch
from PIL import Image

from sdgan_ext._errors import DataError, EvaluationError
from sdgan_ext.data import ImageDataset, LazyImages, RenderedDigits, batches, open_dataset
from sdgan_ext.evaluation import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for index in range(5):
        pixels = np.random.default_rng(index).integers(0, 256, (10, 14, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def padded(images, pad):
    """As numpy has it."""
    return torch.from_numpy(np.pad(images.numpy(), ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="edge"))


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("options", [{}, {"image_size": 12}, {"image_size": 12, "resize": 9}], ids=str)
def test_files(folder, cache, options):
    pad = 2
    inner = {**options, "image_size": options["image_size"] - 2 * pad} if options else {}
    plain, wide = (open_dataset(folder, cache=cache, **settings) for settings in (inner, {**options, "pad": pad}))
    assert isinstance(wide, ImageDataset if cache == "memory" else LazyImages)
    every = torch.arange(5)
    images = wide.batch(every)[0]
    assert wide.image_size == tuple(images.shape[2:]) == ((12, 12) if options else (14, 18))
    assert torch.equal(images, padded(plain.batch(every)[0], pad))


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_random_crops_are_padded(folder, cache):
    options = {"crop": "random", "resize": 10, "cache": cache}
    plain, wide = open_dataset(folder, image_size=8, **options), open_dataset(folder, image_size=12, pad=2, **options)
    pair = [next(batches(data, 5, seed=3, random_crop=True))[0] for data in (plain, wide)]
    assert torch.equal(pair[1], padded(pair[0], 2))


def test_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", np.random.default_rng(0).integers(0, 256, (4, 6, 6), np.uint8))
    plain, wide = open_dataset(tmp_path / "a.npz"), open_dataset(tmp_path / "a.npz", pad=1, image_size=8)
    assert torch.equal(wide.images, padded(plain.images, 1)) and wide.name == plain.name


def test_rendered_digits_are_drawn_within():
    plain, wide = open_dataset("digits"), open_dataset("digits", pad=2, image_size=32)
    assert isinstance(wide, RenderedDigits) and wide.image_size == (32, 32)
    some = torch.arange(3)
    assert torch.equal(wide.batch(some)[0], padded(plain.batch(some)[0], 2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pad": -1}, "pad must be an integer of at least 0, -1 came"),
        ({"pad": 4, "image_size": 8}, "pad is 4 on each side, but image_size 8x8 leaves nothing inside of it"),
        ({"pad": 1.5}, "pad must be an integer"),
    ],
)
def test_a_pad_that_cannot_be(folder, options, words):
    with pytest.raises(DataError, match=words):
        open_dataset(folder, **options)


def test_scenes_have_nothing_to_pad():
    with pytest.raises(DataError, match="digits-scenes are drawn at their image_size"):
        open_dataset("digits-scenes", pad=2)


class Made(torch.nn.Module):
    """Samples and reconstructions that are there already."""

    def __init__(self, images):
        super().__init__()
        self.images, self.at = images, 0

    def sample(self, n, *, generator=None):
        self.at += n
        return self.images[self.at - n : self.at]

    def encode(self, x):
        raise NotImplementedError

    def reconstruct(self, x):
        return (x * 0.9).clamp(-1, 1)


def test_metrics_do_not_see_the_padding():
    digits = RenderedDigits(length=300)
    images = digits.batch(torch.arange(300, 600))[0]
    noise = torch.rand(300, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    wide = noise.clone()
    wide[:, :, 2:-2, 2:-2] = images
    metrics = ["errors", "fd", "agreement"]
    inner = evaluate(Made(images), digits, metrics=metrics)
    outer = evaluate(Made(wide), RenderedDigits(length=300, pad=2), metrics=metrics, pad=2)
    assert inner == outer
    with pytest.raises(EvaluationError, match="pad is 16 on each side, but the images have 32x32 pixels"):
        evaluate(Made(wide), RenderedDigits(length=300, pad=2), metrics=metrics, pad=16)
