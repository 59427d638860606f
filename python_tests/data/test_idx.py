import gzip
import struct

import numpy as np
import pytest
import torch

from sdgan_ext.data import find_mnist, load_idx_folder, read_idx, write_idx

IMAGES = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
LABELS = np.array([0, 1, 2, 1, 9], np.uint8)


@pytest.fixture
def folder(tmp_path):
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", IMAGES)
    write_idx(tmp_path / "train-labels-idx1-ubyte", LABELS)
    return tmp_path


@pytest.mark.parametrize("name", ["a.idx", "a.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_round_trip(tmp_path, name, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    write_idx(tmp_path / name, array)
    again = read_idx(tmp_path / name)
    assert again.dtype == np.dtype(dtype) and again.dtype.isnative and np.array_equal(again, array)


def test_known_bytes(tmp_path):
    (tmp_path / "a").write_bytes(bytes.fromhex("00000b02 00000002 00000001 0102 fffe"))
    assert read_idx(tmp_path / "a").tolist() == [[258], [-2]]


def test_gzip_is_recognised_by_content(tmp_path):
    write_idx(tmp_path / "a.gz", IMAGES)
    (tmp_path / "a.gz").rename(tmp_path / "a")
    assert np.array_equal(read_idx(tmp_path / "a"), IMAGES)
    write_idx(tmp_path / "b", IMAGES)
    (tmp_path / "b").rename(tmp_path / "b.gz")
    assert np.array_equal(read_idx(tmp_path / "b.gz"), IMAGES)


def test_same_array_same_file(tmp_path):
    write_idx(tmp_path / "a.gz", IMAGES)
    write_idx(tmp_path / "b.gz", IMAGES)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_result_is_writable(tmp_path):
    write_idx(tmp_path / "a", LABELS)
    read_idx(tmp_path / "a")[0] = 1


def test_every_truncation_is_refused(tmp_path, refused):
    for name in ("a", "a.gz"):
        write_idx(tmp_path / name, LABELS)
        whole = (tmp_path / name).read_bytes()
        for length in range(len(whole)):
            (tmp_path / "cut").write_bytes(whole[:length])
            with refused(tmp_path / "cut"):
                read_idx(tmp_path / "cut")


def test_every_flipped_byte_of_a_gzip_body_is_refused(tmp_path, refused):
    write_idx(tmp_path / "a.gz", np.arange(50, dtype=np.uint8))
    whole = (tmp_path / "a.gz").read_bytes()
    for position in range(10, len(whole)):
        broken = bytearray(whole)
        broken[position] ^= 0xFF
        (tmp_path / "broken").write_bytes(broken)
        with refused(tmp_path / "broken"):
            read_idx(tmp_path / "broken")


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "0 bytes"),
        (b"\x00\x00\x08", "3 bytes"),
        (b"<html>not found</html>", "0x3c68746d"),
        (struct.pack(">HBB", 0, 0x07, 1), "not an IDX file"),
        (struct.pack(">HBB", 0, 0x08, 0), "not an IDX file"),
        (struct.pack("<I", 0x803), "not an IDX file"),
        (struct.pack(">HBBI", 0, 0x08, 3, 1), "inside its IDX header"),
        (struct.pack(">HBBI", 0, 0x08, 1, 4) + b"abc", "only 3 follow"),
        (struct.pack(">HBBI", 0, 0x08, 1, 4) + b"abcde", "more follow"),
        (struct.pack(">HBB3I", 0, 0x0E, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1) + b"abc", "only 3 follow"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_bad_contents(tmp_path, contents, words, pack, refused):
    (tmp_path / "bad").write_bytes(pack(contents))
    with refused(tmp_path / "bad", words):
        read_idx(tmp_path / "bad")


def test_missing_file_or_a_folder(tmp_path, refused):
    with refused("cannot read", "absent", "No such file"):
        read_idx(tmp_path / "absent")
    with refused("cannot read", "directory"):
        read_idx(tmp_path)


def test_write_refuses(tmp_path, refused):
    with refused("int64", "uint8"):
        write_idx(tmp_path / "a", np.zeros(3, np.int64))
    with refused("rank 0"):
        write_idx(tmp_path / "a", np.uint8(3))


def test_folder(folder):
    dataset = load_idx_folder(folder)
    assert torch.equal(dataset.images[:, 0], torch.from_numpy(IMAGES))
    assert dataset.labels.tolist() == LABELS.tolist()
    assert dataset.num_classes == 10 and dataset.image_size == (4, 3) and dataset.name == folder.name


@pytest.mark.parametrize("place", ["", "MNIST/raw"])
@pytest.mark.parametrize("separator", "-.")
def test_spellings_and_places(tmp_path, place, separator):
    raw = tmp_path / place
    raw.mkdir(parents=True, exist_ok=True)
    write_idx(raw / f"t10k-images{separator}idx3-ubyte", IMAGES)
    write_idx(raw / f"t10k-labels{separator}idx1-ubyte.gz", LABELS)
    assert load_idx_folder(tmp_path, "test").labels.tolist() == LABELS.tolist()


def test_folder_without_labels(folder):
    (folder / "train-labels-idx1-ubyte").unlink()
    assert load_idx_folder(folder).num_classes is None


def test_bad_folders(folder, refused):
    with refused("t10k-images-idx3-ubyte", folder):
        load_idx_folder(folder, "test")
    with refused("split", "'valid'"):
        load_idx_folder(folder, "valid")
    with refused("does not exist"):
        load_idx_folder(folder / "absent")
    write_idx(folder / "train-labels-idx1-ubyte", LABELS[:4])
    with refused("4 labels", "5 images", "train-labels"):
        load_idx_folder(folder)
    write_idx(folder / "train-labels-idx1-ubyte", IMAGES)
    with refused("train-labels", "[5, 4, 3]"):
        load_idx_folder(folder)
    write_idx(folder / "train-labels-idx1-ubyte", np.array([0, 1, 2, 3, -4], np.int8))
    with refused("label -4 of image 4"):
        load_idx_folder(folder)
    write_idx(folder / "train-images-idx3-ubyte", LABELS)
    with refused("train-images", "uint8 [N, H, W]"):
        load_idx_folder(folder)


def test_find_mnist(tmp_path, folder):
    assert find_mnist() is None and find_mnist(folder, tmp_path / "absent") is None
    for split in ("train", "t10k"):
        write_idx(folder / f"{split}-images-idx3-ubyte", IMAGES)
        write_idx(folder / f"{split}-labels-idx1-ubyte", LABELS)
    assert find_mnist(tmp_path / "absent", folder) == folder


def test_real_mnist(real_data):
    train, test = (load_idx_folder(real_data / "mnist", split) for split in ("train", "test"))
    assert (len(train), len(test), train.num_classes, train.image_size) == (60_000, 10_000, 10, (28, 28))
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9] and test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert train.images.float().mean().item() == pytest.approx(33.3184, abs=1e-3)
    assert find_mnist(real_data / "mnist") == real_data / "mnist"
