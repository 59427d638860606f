import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from sdgan_ext.data import ImageDataset, fit_images, to_float
from sdgan_ext.data.images import convert_channels


def random_bytes(*shape, seed=0):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def images():
    return random_bytes(10, 3, 5, 7)


def test_items_and_properties(images):
    dataset = ImageDataset(images, np.arange(10) % 4, name="toy")
    assert isinstance(dataset, Dataset)
    assert (len(dataset), dataset.image_size, dataset.channels) == (10, (5, 7), 3)
    assert (dataset.num_classes, dataset.name) == (4, "toy")
    image, label = dataset[6]
    assert torch.equal(image, to_float(images[6])) and label == 2 and type(label) is int
    assert torch.equal(dataset[-1][0], dataset[9][0])
    with pytest.raises(IndexError):
        dataset[10]


def test_without_labels(images):
    dataset = ImageDataset(images)
    assert dataset.num_classes is None and dataset.labels is None
    assert dataset[0][1] == -1
    assert dataset.batch(torch.tensor([1, 2]))[1].tolist() == [-1, -1]


def test_batch_equals_items(images):
    dataset = ImageDataset(images, list(range(10)))
    indices = torch.tensor([3, 3, 0, 9])
    batch, labels = dataset.batch(indices)
    assert batch.dtype == torch.float32 and labels.dtype == torch.int64
    assert torch.equal(batch, torch.stack([dataset[i][0] for i in indices]))
    assert labels.tolist() == [3, 3, 0, 9]


def test_torch_data_loader(images):
    batch, labels = next(iter(DataLoader(ImageDataset(images, list(range(10))), batch_size=4)))
    assert torch.equal(batch, to_float(images[:4])) and labels.tolist() == [0, 1, 2, 3]


def test_grey_without_a_channel_dimension():
    assert ImageDataset(random_bytes(2, 5, 7)).images.shape == (2, 1, 5, 7)


def test_numpy_of_any_strides_and_read_only(images):
    array = images.numpy().transpose(0, 3, 1, 2)[:, [0, 1, 2]]
    array.setflags(write=False)
    assert torch.equal(ImageDataset(array).images, torch.from_numpy(array.copy()))


@pytest.mark.parametrize("value_range", [(0, 1), (-1, 1), (0, 255), (-0.5, 0.5)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_floats_with_a_declared_range(images, value_range, dtype):
    low, high = value_range
    floats = (images.numpy() / 255.0 * (high - low) + low).clip(low, high).astype(dtype)
    floats = floats.clip(low, high)
    assert torch.equal(ImageDataset(floats, value_range=value_range).images, images)


def test_float_tensor_round_trip(images):
    assert torch.equal(ImageDataset(to_float(images), value_range=(-1, 1)).images, images)


def test_bad_images(images, refused):
    floats = to_float(random_bytes(300, 1, 2, 2))
    with refused("float32", "value_range=(low, high)", "(-1, 1)"):
        ImageDataset(floats)
    with refused("image 0 has values from", "0 to 1"):
        ImageDataset(floats, value_range=(0, 1))
    for bad in (torch.nan, torch.inf):
        broken = floats.clone()
        broken[270, 0, 1, 1] = bad
        with refused("image 270", "NaN or infinity"):
            ImageDataset(broken, value_range=(-1, 1))
    with refused("low < high"):
        ImageDataset(floats, value_range=(1, -1))
    with refused("leave it out"):
        ImageDataset(images, value_range=(-1, 1))
    with refused("int64", "uint8"):
        ImageDataset(images.long())
    with refused("[N, C, H, W]", "[3, 7]"):
        ImageDataset(images[0, 0, :3])
    with refused("1, 3 or 4 channels", "[10, 5, 7, 3]", "second place"):
        ImageDataset(images.permute(0, 2, 3, 1))
    with refused("at least one image"):
        ImageDataset(images[:0])
    with refused("list"):
        ImageDataset([[1]])


def test_bad_labels(images, refused):
    with refused("9 labels", "10 images"):
        ImageDataset(images, range(9))
    with refused("label 7 of image 7", "0 to 6"):
        ImageDataset(images, range(10), num_classes=7)
    with refused("label -1 of image 2"):
        ImageDataset(images, [0, 0, -1] + [0] * 7)
    with refused(f"label {2**31} of image 0"):
        ImageDataset(images, [2**31] * 10)
    with refused("integers", "label 0.5 of image 3"):
        ImageDataset(images, np.array([0, 1, 2, 0.5] + [0.0] * 6))
    with refused("integers", "label nan of image 9"):
        ImageDataset(images, np.array([1.0] * 9 + [np.nan]))
    with refused("integers", "<U1"):
        ImageDataset(images, ["a"] * 10)
    for other in (np.ones((10, 2), int), np.zeros((10, 2)), 2 * np.eye(10), np.full((10, 2), "1"), np.ones((10, 0))):
        with refused("one-hot", list(other.shape), "image 0"):
            ImageDataset(images, other)
    with refused("[N]", "[10, 1, 1]"):
        ImageDataset(images, np.zeros((10, 1, 1), int))
    with refused("label 9 of image 9", "0 to 8"):
        ImageDataset(images, np.eye(10), num_classes=9)
    with refused("ragged"):
        ImageDataset(images, [[1], [1, 2]] * 5)
    with refused("num_classes", "0"):
        ImageDataset(images, range(10), num_classes=0)


def test_label_columns_and_more_classes_than_seen(images):
    dataset = ImageDataset(images, np.zeros((10, 1), np.uint8), num_classes=5)
    assert dataset.num_classes == 5 and dataset.labels.shape == (10,) and dataset.labels.dtype == torch.int64


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32, bool])
def test_one_hot_labels(images, dtype):
    dataset = ImageDataset(images, np.eye(12, dtype=dtype)[np.arange(10) % 7])
    assert dataset.labels.tolist() == [i % 7 for i in range(10)] and dataset.num_classes == 12


@pytest.mark.parametrize("shape", [(10,), (10, 1)])
def test_integers_in_a_floating_dtype_are_labels(images, shape):
    dataset = ImageDataset(images, torch.arange(10.0).reshape(shape) % 4)
    assert dataset.labels.tolist() == [i % 4 for i in range(10)] and dataset.num_classes == 4


def test_background_of_alpha():
    colour = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None].expand(3, 4, 4)
    alpha = torch.tensor([0, 255], dtype=torch.uint8).repeat_interleave(8).reshape(1, 4, 4)
    dataset = ImageDataset(torch.cat([colour, alpha])[None])
    with pytest.warns(UserWarning, match="over white; --background"):
        white = dataset.fitted(channels=3)
    assert (white.images[0, :, 0] == 255).all()
    for background in ("#ff8800", (255, 136, 0), [255, 136, 0]):
        images = dataset.fitted(channels=3, background=background).images[0]
        assert images[:, 0, 0].tolist() == [255, 136, 0] and images[:, 3, 0].tolist() == [10, 20, 30]
    assert (dataset.fitted(channels=1, background="black").images[0, 0, 0] == 0).all()
    assert dataset.fitted(channels=4, background="black") is dataset


def test_what_is_transparent_does_not_colour_its_neighbours():
    rgba = torch.zeros(1, 4, 8, 8, dtype=torch.uint8)  # black and transparent
    rgba[:, :, :, 4:] = 255
    assert (fit_images(rgba, 4, 3, "white") == 255).all()


@pytest.mark.parametrize("background", ["whitish", "#12", (1, 2), (1, 2, 300), (1, 2, -1), 7, ("a", "b", "c")])
def test_bad_background(images, background, refused):
    with refused("background", repr(background), "#ff8800"):
        fit_images(images, background=background)


def test_fitted_keeps_labels_and_is_itself_when_nothing_changes(images):
    dataset = ImageDataset(images, range(10), num_classes=12, name="toy")
    assert dataset.fitted() is dataset and dataset.fitted((5, 7), 3) is dataset
    fitted = dataset.fitted(4, 1)
    assert fitted.images.shape == (10, 1, 4, 4)
    assert fitted.num_classes == 12 and fitted.name == "toy" and torch.equal(fitted.labels, dataset.labels)


def test_fit_crops_the_centre():
    wide = torch.zeros(1, 1, 4, 12, dtype=torch.uint8)
    wide[..., 4:8] = 200
    assert (fit_images(wide, 4) == 200).all()
    assert (fit_images(wide.transpose(2, 3), 4) == 200).all()
    assert (fit_images(wide, (8, 8)) == 200).all()


def test_fit_averages_when_shrinking():
    board = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 200
    inner = fit_images(board, 16)[..., 2:-2, 2:-2].float()
    assert (inner - 100).abs().max() <= 3


def test_fit_extreme_aspects():
    assert fit_images(random_bytes(2, 1, 1, 300), (50, 2)).shape == (2, 1, 50, 2)


@pytest.mark.parametrize("size", [0, -3, (4,), (4, 0), (1, 2, 3), "x"])
def test_bad_size(images, size, refused):
    with refused("image_size"):
        fit_images(images, size)


def test_channel_conversions(refused):
    grey = random_bytes(2, 1, 3, 3)
    colour = convert_channels(grey, 3)
    assert torch.equal(colour, grey.expand(2, 3, 3, 3))
    assert torch.equal(convert_channels(colour, 1), grey)
    alpha = convert_channels(colour, 4)
    assert (alpha[:, 3] == 255).all() and torch.equal(convert_channels(alpha, 3), colour)
    alpha[:, 3] = 0
    assert (convert_channels(alpha, 1) == 255).all()
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(3, 1, 1)
    assert convert_channels(red, 1).item() == 76
    with refused("channels", "2"):
        convert_channels(grey, 2)
