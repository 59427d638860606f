"""The latents are encoded once; a file of them that is of something else is never used."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_latents import make_autoencoder, make_images, make_model

from sdgan_ext._errors import CheckpointError
from sdgan_ext.data import ImageDataset, hold_out, open_dataset
from sdgan_ext.training import latents
from sdgan_ext.training.latents import Latents, encode_all, latents_of

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")


class Counting:
    """How often all images have been encoded."""

    def __init__(self, monkeypatch):
        self.count = 0
        plain = latents.encode_all

        def counted(*arguments, **options):
            self.count += 1
            return plain(*arguments, **options)

        monkeypatch.setattr(latents, "encode_all", counted)


def of(file, model=None, data=None, flip=False, workers=0):
    said = []
    data = make_images() if data is None else data
    model = make_model(dataset=data) if model is None else model
    found = latents_of(model, data, flip=flip, workers=workers, file=file, say=said.append)
    return found, " ".join(said)


def assert_same(one: Latents, other: Latents):
    for name in Latents._fields:
        assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("flip", [False, True])
def test_what_is_encoded(flip):
    data = make_images(150, 3)  # several batches, the last one smaller
    model = make_model(dataset=data)
    found = encode_all(model, data, flip=flip)
    images, labels = data.batch(torch.arange(150))
    for copy in range(2 if flip else 1):
        rows = slice(150 * copy, 150 * (copy + 1))
        mean, logvar = model.encode(images.flip(3) if copy else images)
        torch.testing.assert_close(found.mean[rows], mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.logvar[rows], logvar, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.numbers[rows], labels)
    assert len(found.mean) == (300 if flip else 150)


def test_the_file_is_used_again(tmp_path, monkeypatch):
    counting = Counting(monkeypatch)
    file = tmp_path / "latents.safetensors"
    first, said = of(file, flip=True)
    assert counting.count == 1 and "encoding 24 images, mirrored too" in said
    again, said = of(file, flip=True)
    assert counting.count == 1 and said == ""
    assert_same(first, again)


def changed_pixel():
    data = make_images()
    data.images[5, 0, 3, 3] ^= 255
    return data


def changed_label():
    data = make_images()
    data.labels[5] = (data.labels[5] + 1) % 3
    return data


def damaged(file):
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)


STALE = {
    "another encoder": ({"model": lambda: make_model(make_autoencoder(seed=1))}, "it is of another encoder"),
    "other images": ({"data": changed_pixel}, "it is of other images or captions"),
    "other labels": ({"data": changed_label}, "it is of other images or captions"),
    "other captions": ({"data": lambda: make_images(captions=["a nil", "a one", "a two"])}, "other images or captions"),
    "fewer images": ({"data": lambda: make_images(23)}, "it is of other images or captions"),
    "a part of them": ({"data": lambda: hold_out(make_images(), 4)[0]}, "it is of other images or captions"),
    "mirrored": ({"flip": lambda: True}, "it is with mirrored images, or without"),
}


@pytest.mark.parametrize("name", STALE)
def test_a_stale_file_is_made_anew(name, tmp_path, monkeypatch):
    """Said, encoded and written: the next one uses it."""
    changes, words = STALE[name]
    file = tmp_path / "latents.safetensors"
    of(file)
    counting = Counting(monkeypatch)
    options = {key: make() for key, make in changes.items()}
    found, said = of(file, **options)
    assert f"{file} is not used: " in said and words in said and counting.count == 1
    model = options.get("model") or make_model(dataset=options.get("data"))
    data = options.get("data", make_images())
    assert_same(found, encode_all(model, data, flip=options.get("flip", False)))
    assert of(file, **options)[1] == "" and counting.count == 1


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (damaged, "it is damaged: its numbers are not those that were written"),
        (lambda file: file.write_bytes(file.read_bytes()[:200]), "it is no file of latents, or damaged"),
        (lambda file: file.write_bytes(b"hello"), "it is no file of latents, or damaged"),
    ],
)
def test_a_damaged_file_is_made_anew(spoil, words, tmp_path):
    file = tmp_path / "latents.safetensors"
    first, _ = of(file)
    spoil(file)
    again, said = of(file)
    assert words in said
    assert_same(first, again)


def test_a_decoder_that_went_on_training_changes_nothing(tmp_path):
    file = tmp_path / "latents.safetensors"
    of(file)
    model = make_model()
    with torch.no_grad():
        model.autoencoder.vae.decoder.conv_out.weight.add_(1)
    assert of(file, model)[1] == ""


def test_files_that_are_read_lazily(tmp_path):
    """Their names, sizes and times stand for them; workers change nothing."""
    folder = tmp_path / "images"
    for index in range(9):
        (folder / str(index % 3)).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16), np.uint8)
        Image.fromarray(pixels).save(folder / str(index % 3) / f"{index}.png")

    def data():
        return open_dataset(folder, cache="none", channels=1, captions="a {class}")

    file = tmp_path / "latents.safetensors"
    first, _ = of(file, data=data())
    again, said = of(file, data=data())
    assert said == "" and first.mean.shape == (9, 2, 8, 8)
    assert_same(first, encode_all(make_model(dataset=data()), data(), workers=2))
    held = open_dataset(folder, cache="memory", channels=1, captions="a {class}")
    assert_same(first, encode_all(make_model(dataset=held), held))
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(folder / "0" / "0.png")
    assert "it is of other images" in of(file, data=data())[1]


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(CheckpointError, match="cannot write .*there is no folder"):
        of(tmp_path / "none" / "latents.safetensors")


def test_the_file_is_plain_safetensors(tmp_path):
    file = tmp_path / "latents.safetensors"
    found, _ = of(file)
    assert_same(found, Latents(**load_file(file)))


def test_captions_by_their_numbers():
    texts = [f"a dot {word}" for word in ("here", "there", "left", "right")]
    data = ImageDataset(make_images(4, 0, None).images, captions=texts, name="dots")
    assert encode_all(make_model(dataset=data), data).numbers.tolist() == [0, 1, 2, 3]
