import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from sdgan_ext import data
from sdgan_ext.data import ImageDataset, RenderedDigits, open_dataset, write_idx

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 6), dtype=np.uint8)


def write_mnist(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count in (("train", 4), ("t10k", 2)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", IMAGES[:count])
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    return folder


def write_images(folder, count=2):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(IMAGES[index]).save(folder / f"{index}.png")


@pytest.fixture
def no_download(monkeypatch):
    def fail(root):
        raise AssertionError(f"tried to download to {root}")

    monkeypatch.setattr(data, "download_mnist", fail)


def test_mnist_from_the_cache(tmp_path, monkeypatch, no_download):
    monkeypatch.setenv("SDGAN_DATA", str(tmp_path))
    write_mnist(tmp_path / "mnist")
    train, test = open_dataset("mnist"), open_dataset("mnist", split="test", image_size=8, channels=3)
    assert (len(train), train.name) == (4, "mnist")
    assert test.images.shape == (2, 3, 8, 8) and test.labels.tolist() == [0, 1]


def test_mnist_is_downloaded_when_absent(tmp_path, monkeypatch):
    monkeypatch.setenv("SDGAN_DATA", str(tmp_path))
    monkeypatch.setattr(data, "download_mnist", write_mnist)
    assert len(open_dataset("mnist")) == 4


def test_digits():
    train = open_dataset("digits", seed=5)
    test = open_dataset("digits", seed=5, split="test", image_size=32, channels=3)
    assert isinstance(train, RenderedDigits) and (len(train), len(test)) == (60_000, 10_000)
    assert test.image_size == (32, 32) and test.channels == 3
    other = open_dataset("digits", seed=5, split="test")
    assert not torch.equal(train.batch(torch.arange(9))[0], other.batch(torch.arange(9))[0])


def test_idx_folder(tmp_path):
    write_mnist(tmp_path / "d")
    assert len(open_dataset(tmp_path / "d")) == 4
    assert len(open_dataset(str(tmp_path / "d"), split="test")) == 2


def test_image_folder(tmp_path, refused):
    write_images(tmp_path)
    assert open_dataset(tmp_path, image_size=3, channels=3).images.shape == (2, 3, 3, 3)
    with refused("no test split", "split='train'"):
        open_dataset(tmp_path, split="test")


def test_split_subfolders(tmp_path, refused):
    for place in ("train/cat", "train/dog", "validation/cat"):
        write_images(tmp_path / place)
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 4 and dataset.num_classes == 2
    with refused("no test split"):
        open_dataset(tmp_path, split="test")
    write_images(tmp_path / "test" / "cat")
    assert len(open_dataset(tmp_path, split="test")) == 2


def test_a_class_named_train_is_no_split(tmp_path):
    for place in ("car", "ship", "train"):
        write_images(tmp_path / place)
    assert open_dataset(tmp_path).num_classes == 3


def test_array_files(tmp_path):
    np.savez(tmp_path / "a.npz", IMAGES)
    np.save(tmp_path / "a.npy", IMAGES)
    for name in ("a.npz", "a.npy"):
        assert open_dataset(tmp_path / name, image_size=3).images.shape == (4, 1, 3, 3)


def test_a_torch_dataset_comes_back_as_it_is():
    for dataset in (TensorDataset(torch.zeros(2, 1, 2, 2)), ImageDataset(IMAGES)):
        assert open_dataset(dataset, image_size=5) is dataset


def test_bad_specs(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    with refused("'mnits'", "mnist, digits", "did you mean 'mnist'?"):
        open_dataset("mnits")
    with refused("no/such/folder", "exists"):
        open_dataset("no/such/folder")
    with refused("neither IDX files", "nor images"):
        open_dataset(tmp_path)
    (tmp_path / "a.txt").write_text("text")
    with refused("a.txt", "unknown kind", ".npz"):
        open_dataset("a.txt")
    with refused("a list came"):
        open_dataset([1])
    with refused("split", "'val'"):
        open_dataset("digits", split="val")
    with refused("square"):
        open_dataset("digits", image_size=(8, 9))
    with refused("no train split", "split='test'"):
        write_idx(tmp_path / "t10k-images-idx3-ubyte", IMAGES)
        open_dataset(tmp_path)
