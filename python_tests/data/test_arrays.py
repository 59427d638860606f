import numpy as np
import pytest
import torch

from sdgan_ext.data import load_array_file

NCHW = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 9), dtype=np.uint8)
NHWC = NCHW.transpose(0, 2, 3, 1)
GREY = NCHW[:, 0]
LABELS = np.arange(6)


@pytest.fixture
def save(tmp_path):
    def save(*arrays, **named):
        path = tmp_path / "data.npz"
        np.savez(path, *arrays, **named)
        return path

    return save


@pytest.mark.parametrize("array", [NCHW, NHWC], ids=["NCHW", "NHWC"])
def test_npy(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    dataset = load_array_file(tmp_path / "a.npy")
    assert torch.equal(dataset.images, torch.from_numpy(NCHW)) and dataset.labels is None and dataset.name == "a.npy"


def test_one_array_needs_no_key(save):
    assert torch.equal(load_array_file(save(GREY)).images[:, 0], torch.from_numpy(GREY))
    assert len(load_array_file(save(whatever=NHWC))) == 6


KEYS = [("images", "labels"), ("x", "y"), ("x_train", "y_train"), ("train_images", "y"), ("arr_0", "arr_1")]
KEYS += [("X_train", "Y_train"), ("Images", "LABELS")]


@pytest.mark.parametrize(("x", "y"), KEYS)
def test_keys(save, x, y):
    dataset = load_array_file(save(**{x: NHWC, y: LABELS, "other": LABELS}))
    assert torch.equal(dataset.images, torch.from_numpy(NCHW)) and dataset.labels.tolist() == LABELS.tolist()


@pytest.mark.parametrize("key", ["x_test", "test", "images_val", "validation_images"])
def test_one_array_of_another_split_is_not_trained_on(save, key, refused):
    with refused(key, "no train split"):
        load_array_file(save(**{key: NHWC}))


def test_splits(save):
    path = save(x_train=NHWC, y_train=LABELS, x_test=NHWC[:2], y_test=LABELS[:2, None])
    assert len(load_array_file(path)) == 6
    test = load_array_file(path, "test")
    assert len(test) == 2 and test.labels.tolist() == [0, 1]


def test_layout_in_doubt(save, refused):
    both = save(NCHW[:, :, :, :4])
    with refused("[6, 3, 8, 4]", "layout='NCHW'"):
        load_array_file(both)
    assert load_array_file(both, layout="NCHW").image_size == (8, 4)
    assert load_array_file(both, layout="NHWC").images.shape == (6, 4, 3, 8)
    with refused("no dimension of 1, 3 or 4"):
        load_array_file(save(np.zeros((6, 8, 8, 5), np.uint8)))
    with refused("[8, 9, 3]", "one image"):
        load_array_file(save(NHWC[0]))
    with refused("[48]"):
        load_array_file(save(np.zeros(48, np.uint8)))
    with refused("layout", "'CHWN'"):
        load_array_file(both, layout="CHWN")
    with refused("layout='NHW'", "3 dimensions"):
        load_array_file(save(NCHW), layout="NHW")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_ranges(save, dtype):
    floats = GREY / 255
    for array in (floats, floats * 2 - 1):
        images = load_array_file(save(array.astype(dtype))).images[:, 0]
        assert (images.int() - torch.from_numpy(GREY).int()).abs().max() <= (dtype == np.float16)


def test_bad_values(save, refused):
    floats = GREY / 255.0
    with refused("0 to 255", "[0, 1] or [-1, 1]", "uint8"):
        load_array_file(save(np.linspace(0, 255, GREY.size, dtype=np.float32).reshape(GREY.shape)))
    with refused("-2 to"):
        load_array_file(save(floats * 3 - 2))
    for bad in (np.nan, -np.inf):
        broken = floats.copy()
        broken[4, 2, 2] = bad
        with refused("data.npz", "image 4", "NaN or infinity"):
            load_array_file(save(broken))
    with refused("int64", "uint8"):
        load_array_file(save(GREY.astype(np.int64)))
    with refused("at least one image"):
        load_array_file(save(GREY[:0].astype(np.float32)))


def test_bad_keys_and_counts(save, refused):
    with refused("a, b", "x_train", "images", "x"):
        load_array_file(save(a=GREY, b=LABELS))
    with refused("test", "x_test"):
        load_array_file(save(images=GREY, labels=LABELS), "test")
    with refused("no array"):
        load_array_file(save())
    with refused("5 labels", "6 images"):
        load_array_file(save(images=GREY, labels=LABELS[:5]))
    with refused("label -1 of image 0"):
        load_array_file(save(images=GREY, labels=LABELS - 1))
    with refused("split", "'valid'"):
        load_array_file(save(GREY), "valid")


def test_one_array_has_no_test_split(tmp_path, refused):
    np.save(tmp_path / "a.npy", GREY)
    with refused("no test split"):
        load_array_file(tmp_path / "a.npy", "test")


def test_pickled_objects_are_refused(tmp_path, save, refused):
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(tmp_path / "a.npy", objects)
    for path in (tmp_path / "a.npy", save(images=objects)):
        with refused(path, "pickled"):
            load_array_file(path)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damaged_files(tmp_path, kind, refused):
    whole = tmp_path / f"whole.{kind}"
    (np.save if kind == "npy" else np.savez_compressed)(whole, GREY)
    contents = whole.read_bytes()
    broken = tmp_path / f"broken.{kind}"
    for length in (0, 1, 20, 100, len(contents) // 2, len(contents) - 1):
        broken.write_bytes(contents[:length])
        with refused(broken, "damaged"):
            load_array_file(broken)
    broken.write_bytes(b"neither of them, but long enough to hold a header" * 9)
    with refused(broken, "damaged"):
        load_array_file(broken)
    if kind == "npz":
        flipped = bytearray(contents)
        flipped[len(contents) // 2] ^= 0xFF
        broken.write_bytes(flipped)
        with refused(broken, "damaged"):
            load_array_file(broken)


def test_a_header_that_promises_too_much(tmp_path, refused):
    np.save(tmp_path / "a.npy", GREY)
    contents = (tmp_path / "a.npy").read_bytes().replace(b"(6, 8, 9), }        ", b"(6, 8, 9999999999), }")
    (tmp_path / "a.npy").write_bytes(contents)
    with refused("a.npy", "damaged"):
        load_array_file(tmp_path / "a.npy")


def test_missing(tmp_path, refused):
    with refused("cannot read", "absent.npz", "No such file"):
        load_array_file(tmp_path / "absent.npz")
