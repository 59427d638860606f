import contextlib
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from sdgan_ext import data
from sdgan_ext._errors import DataError, MissingSplitError
from sdgan_ext.data import ImageDataset, RenderedDigits, load_image_folder, open_dataset, write_idx

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


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("TRAINING", "testing"),
        ("training_set", "test_set"),
        ("train2017", "val2017"),
        ("trainA", "testA"),
        ("train", "Valid"),
        ("training", "val"),
        ("train_images", "test_images"),
    ],
)
def test_names_of_splits_with_folders_beside_them(tmp_path, train, test, refused):
    write_images(tmp_path / train / "cat", 3)
    write_images(tmp_path / test / "cat", 1)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.json").write_text("{}")
    with no_warnings():
        assert len(open_dataset(tmp_path)) == 3
    write_images(tmp_path / "extra")
    with pytest.warns(UserWarning, match=f"{train} is the train split, extra beside it left out"):
        dataset = open_dataset(tmp_path)
    assert len(dataset) == 3 and dataset.num_classes == 1 and dataset.name == train
    if test.lower().startswith("test"):
        with pytest.warns(UserWarning, match="extra"):
            assert len(open_dataset(tmp_path, split="test")) == 1
    else:
        with refused("no test split"):
            open_dataset(tmp_path, split="test")


def test_images_beside_splits(tmp_path, refused):
    write_images(tmp_path / "train", 3)
    write_images(tmp_path)
    with pytest.warns(UserWarning, match="taken for a class like 0.png"), refused("in subfolders", "train"):
        open_dataset(tmp_path)
    write_images(tmp_path / "test", 1)
    with pytest.warns(UserWarning, match="0.png beside it left out"):
        assert len(open_dataset(tmp_path)) == 3


@pytest.mark.parametrize("names", [("trainA", "trainB", "testA", "testB"), ("train", "Training", "test")])
def test_two_folders_for_one_split(tmp_path, names, refused):
    for name in names:
        write_images(tmp_path / name)
    with refused("the one that is meant", *(name for name in names if "rain" in name)):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path / names[0])) == 2


def test_a_link_leads_no_training_into_the_test_split(tmp_path):
    write_images(tmp_path / "train", 3)
    write_images(tmp_path / "test" / "cat", 1)
    (tmp_path / "train" / "more").symlink_to("../test")
    with pytest.warns(UserWarning, match="already .more."):
        assert len(open_dataset(tmp_path)) == 3


def test_a_class_named_train_is_no_split(tmp_path):
    for place in ("car", "ship", "train"):
        write_images(tmp_path / place)
    with pytest.warns(UserWarning, match="train is taken for a class like car, ship"):
        assert open_dataset(tmp_path).num_classes == 3


@pytest.mark.parametrize("held_out", ["test", "Testing", "val"])
def test_test_images_beside_classes_are_not_trained_on(tmp_path, held_out, refused):
    for place in ("cat", "dog", held_out):
        write_images(tmp_path / place)
    with refused(held_out, "not trained on", "cat, dog", tmp_path / "train"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("places", [("photos/train", "photos/test"), ("bottle/train/good", "bottle/test/bad")])
def test_splits_deeper_down_are_not_mixed(tmp_path, places, refused):
    for place in (*places, "other/9"):
        write_images(tmp_path / place)
    inside = tmp_path / places[0].partition("/")[0]
    for opened in (open_dataset, load_image_folder):
        with refused("not mixed", *places[0].split("/")[:2], inside):
            opened(tmp_path)
    with refused("not mixed", inside):
        load_image_folder(inside)
    assert len(open_dataset(inside)) == 2


def test_all_that_is_left_out_is_said_once(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    (tmp_path / "train" / "notes.txt").write_text("")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_dataset(tmp_path)
    assert len(caught) == 1 and "notes.txt" in str(caught[0].message)


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
    with refused("data is empty"):
        open_dataset("")
    with refused("~nobody-of-that-name", "a home folder, and there is none"):
        open_dataset("~nobody-of-that-name/photos")
    with refused("cannot read", "too long"):
        open_dataset("a" * 300)
    for spec in ("digits", "no/such/folder"):
        with refused("background", "'whitish'"):
            open_dataset(spec, background="whitish")
    with refused("split", "'val'"):
        open_dataset("digits", split="val")
    with refused("square"):
        open_dataset("digits", image_size=(8, 9))
    with refused("no train split", "split='test'"):
        write_idx(tmp_path / "t10k-images-idx3-ubyte", IMAGES)
        open_dataset(tmp_path)


def test_an_empty_name_is_not_the_working_folder(tmp_path, monkeypatch, refused):
    write_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    with refused("data is empty"):
        open_dataset("")
    assert len(open_dataset(".")) == 2


def test_a_split_that_is_missing_is_another_error_than_one_that_is_damaged(tmp_path):
    write_images(tmp_path / "train")
    with pytest.raises(MissingSplitError):
        open_dataset(tmp_path, split="test")
    np.save(tmp_path / "a.npy", IMAGES)
    np.savez(tmp_path / "a.npz", images=IMAGES)
    write_idx(tmp_path / "train-images-idx3-ubyte", IMAGES)
    for name in ("a.npy", "a.npz", "."):
        with pytest.raises(MissingSplitError):
            open_dataset(tmp_path / name, split="test")
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"damaged")
    with pytest.raises(DataError) as caught:
        open_dataset(tmp_path, split="test")
    assert not isinstance(caught.value, MissingSplitError)


def test_background(tmp_path):
    (tmp_path / "folder").mkdir()
    Image.new("RGBA", (4, 4), (10, 20, 30, 0)).save(tmp_path / "folder" / "a.png")
    np.savez(tmp_path / "a.npz", np.zeros((1, 5, 5, 4), np.uint8))
    for spec in (tmp_path / "folder", tmp_path / "a.npz"):
        with pytest.warns(UserWarning, match="alpha is put over white; --background"):
            assert (open_dataset(spec, channels=3).images == 255).all()
        with no_warnings():
            assert open_dataset(spec, channels=3, background="lime").images[0, :, 0, 0].tolist() == [0, 255, 0]


LABELS_OF_NO_USE = {
    "floats": np.linspace(0, 1, 4),
    "text": np.array(list("abcd")),
    "several classes": np.ones((4, 5)),
    "too few": np.arange(3),
    "objects": np.array([{}, {}, {}, {}], object),
}


@pytest.mark.parametrize("labels", LABELS_OF_NO_USE.values(), ids=LABELS_OF_NO_USE)
def test_labels_of_no_use_are_refused_or_left_out(tmp_path, labels, refused):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=labels)
    with refused("a.npz", "label" if labels.dtype != object else "pickled"):
        open_dataset(tmp_path / "a.npz")
    with pytest.warns(UserWarning, match="the labels are left out"):
        dataset = open_dataset(tmp_path / "a.npz", need_labels=False)
    assert dataset.labels is None and len(dataset) == 4


def test_labels_of_use_are_kept(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=np.eye(7)[[3, 1, 0, 2]])
    write_mnist(tmp_path)
    with no_warnings():
        dataset = open_dataset(tmp_path / "a.npz", need_labels=False)
        assert dataset.labels.tolist() == [3, 1, 0, 2] and dataset.num_classes == 7
        assert open_dataset(tmp_path, need_labels=False).labels.tolist() == [0, 1, 2, 3]
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(3, np.uint8))
    with pytest.warns(UserWarning, match="3 labels and .* 4 images.*; the labels are left out"):
        assert open_dataset(tmp_path, need_labels=False).labels is None


def write_emnist(folder, subset, count):
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(count).integers(0, 256, (count, 6, 6), dtype=np.uint8)
    for split in ("train", "test"):
        stored = images if subset == "" else images.transpose(0, 2, 1)
        write_idx(folder / f"{subset}{split}-images-idx3-ubyte.gz", stored)
        write_idx(folder / f"{subset}{split}-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8))
    return torch.from_numpy(images)


def test_emnist_is_upright(tmp_path):
    images = write_emnist(tmp_path / "EMNIST" / "raw", "emnist-letters-", 3)
    for folder in (tmp_path, tmp_path / "EMNIST", tmp_path / "EMNIST" / "raw"):
        for split in ("train", "test"):
            dataset = open_dataset(folder, split=split)
            assert torch.equal(dataset.images[:, 0], images) and dataset.labels.tolist() == [0, 1, 2]
            assert dataset.name == "emnist-letters"


def test_one_of_several_idx_sets_is_named_by_its_file(tmp_path, refused):
    raw = tmp_path / "EMNIST" / "raw"
    sets = {name: write_emnist(raw, name, count) for name, count in (("emnist-letters-", 3), ("", 5))}
    with refused("several sets", "EMNIST/raw/emnist-letters-train-images-idx3-ubyte.gz", "raw/train-images"):
        open_dataset(tmp_path)
    for name, images in sets.items():
        file = raw / f"{name}train-images-idx3-ubyte.gz"
        for split in ("train", "test"):
            assert torch.equal(open_dataset(file, split=split).images[:, 0], images)
    (raw / "test-images-idx3-ubyte.gz").unlink()
    with refused("no t10k-images-idx3-ubyte"):
        open_dataset(raw / "train-images-idx3-ubyte.gz", split="test")


@pytest.mark.parametrize("place", ["MNIST/raw", "FashionMNIST/raw", "raw"])
def test_folders_of_torchvision(tmp_path, place, refused):
    write_mnist(tmp_path / place)
    assert len(open_dataset(tmp_path)) == 4 and len(open_dataset(tmp_path, split="test")) == 2
    write_mnist(tmp_path / "KMNIST" / "raw")
    if place != "raw":
        with refused("several sets", f"{place}/train-images", "KMNIST/raw/train-images"):
            open_dataset(tmp_path)
