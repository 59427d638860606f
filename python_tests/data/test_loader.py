import warnings
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from sdgan_ext.data import ImageDataset, RenderedDigits, batches, to_float

BYTES = (torch.arange(23 * 2 * 2) % 256).to(torch.uint8).reshape(23, 1, 2, 2)


@pytest.fixture
def dataset():
    return ImageDataset(BYTES, torch.arange(23))


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def labels(dataset, count, *, batch_size=5, seed=0, **options):
    return [y.tolist() for _, y in islice(batches(dataset, batch_size, seed=seed, **options), count)]


def test_images_belong_to_their_labels(dataset):
    for x, y in islice(batches(dataset, 5, seed=0), 9):
        assert x.dtype == torch.float32 and x.shape == (5, 1, 2, 2) and y.dtype == torch.int64
        assert torch.equal(x, to_float(BYTES[y]))


def test_epochs_visit_each_image_once_in_new_orders(dataset):
    got = labels(dataset, 10, drop_last=False)
    first, second = sum(got[:5], []), sum(got[5:], [])
    assert sorted(first) == sorted(second) == list(range(23))
    assert first != second and first != list(range(23))
    assert [len(y) for y in got[:5]] == [5, 5, 5, 5, 3]


def test_drop_last(dataset):
    got = labels(dataset, 8)
    assert all(len(y) == 5 for y in got)
    assert len(set(sum(got[:4], []))) == len(set(sum(got[4:], []))) == 20


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("start", [0, 1, 3, 4, 5, 11, 1000])
def test_start_goes_on_where_a_run_left_off(dataset, start, drop_last):
    whole = labels(dataset, start + 7, drop_last=drop_last)
    assert labels(dataset, 7, start=start, drop_last=drop_last) == whole[start:]


def test_seeds(dataset):
    assert labels(dataset, 4) == labels(dataset, 4)
    assert labels(dataset, 4) != labels(dataset, 4, seed=1)
    assert labels(dataset, 4, seed=1) != labels(dataset, 8)[4:]  # not the next epoch of seed 0
    assert labels(dataset, 4, seed=-(2**80))


def test_neither_reads_nor_moves_the_global_generator(dataset):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = labels(dataset, 4)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert labels(dataset, 4) == first


def test_order_is_pinned(dataset):
    """A resumed run must meet the order of the run it resumes, whatever version either is of."""
    assert labels(dataset, 2, seed=3) == [[18, 11, 21, 5, 3], [20, 4, 0, 9, 19]]


def test_any_torch_dataset_gives_the_same_batches(dataset):
    floats, ys = to_float(BYTES), torch.arange(23)
    expected = list(islice(batches(dataset, 5, seed=0), 6))
    others = {
        "TensorDataset": TensorDataset(floats, ys),
        "uint8": TensorDataset(BYTES, ys),
        "double": TensorDataset(floats.double(), ys),
        "numpy and more": Items([(x.numpy(), np.int64(y), "name") for x, y in zip(floats, ys, strict=True)]),
        "ints": Items(list(zip(floats, range(23), strict=True))),
        "Subset": Subset(dataset, range(23)),
    }
    for name, other in others.items():
        for (x, y), (expected_x, expected_y) in zip(batches(other, 5, seed=0), expected, strict=False):
            assert x.dtype == torch.float32 and y.dtype == torch.int64, name
            assert torch.equal(x, expected_x) and torch.equal(y, expected_y), name


NO_LABELS = [None, "cat", "3", 1.5, float("nan"), torch.tensor(1.5), torch.tensor([1, 2]), np.ones(2)]


@pytest.mark.parametrize("label", [3, 3.0, np.float32(3), np.int64(3), torch.tensor(3.0), torch.tensor([3])], ids=repr)
def test_integers_of_any_type_are_labels(label):
    items = [(image, label) for image in to_float(BYTES)]
    assert labels(Items(items), 1) == [[3] * 5]


@pytest.mark.parametrize("label", NO_LABELS, ids=repr)
def test_what_is_no_integer_is_no_label(label):
    items = [(image, label) for image in to_float(BYTES)]
    assert labels(Items(items), 1) == [[-1] * 5]


def test_bare_images_have_no_labels():
    assert labels(Items(list(to_float(BYTES))), 1) == [[-1] * 5]
    assert labels(TensorDataset(to_float(BYTES)), 1) == [[-1] * 5]


def test_a_batch_method_of_others_is_let_be():
    class NoTorchDataset:
        batch = None

        def __len__(self):
            return 4

        def __getitem__(self, index):
            return to_float(BYTES[index])

    NoTorchDataset.batch = lambda self, size: pytest.fail("called")
    assert labels(NoTorchDataset(), 1, batch_size=4) == [[-1] * 4]


def test_rendered_digits():
    x, y = next(batches(RenderedDigits(length=40), 8, seed=0))
    assert x.shape == (8, 1, 28, 28) and y.min() >= 0


def test_bad_arguments_are_refused_at_once(dataset, refused):
    with refused("23 images", "one batch of 24", "batch_size to at most 23"):
        batches(dataset, 24, seed=0)
    assert next(batches(dataset, 24, seed=0, drop_last=False))[0].shape[0] == 23
    with refused("0 images"):
        batches(Items([]), 1, seed=0, drop_last=False)
    for value in (0, -1, 2.5, None):
        with refused("batch_size", value):
            batches(dataset, value, seed=0)
    with refused("start", "-1"):
        batches(dataset, 5, seed=0, start=-1)


def test_iterable_datasets_are_refused(refused):
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(to_float(BYTES))

    with refused("Stream", "map-style"):
        batches(Stream(), 2, seed=0)
    with refused("generator", "map-style"):
        batches((x for x in BYTES), 2, seed=0)


def test_items_that_are_no_images(refused):
    image = to_float(BYTES[0])
    for item, words in (
        ({"image": image}, ("is a dict", "transform")),
        ("a.png", ("is a str",)),
        ((), ("is a tuple",)),
        (image[0], ("[2, 2]", "[C, H, W]")),
        (image.expand(2, 2, 2), ("[2, 2, 2]", "1, 3 or 4 channels")),
        (image.int(), ("int32", "[-1, 1]")),
        (image * 255, ("item 0", "-255", "[-1, 1]")),
        (image * torch.nan, ("item 0", "NaN")),
    ):
        with refused(*words):
            batches(Items([item] * 3), 2, seed=0)


def test_a_bad_item_later_on_is_named(refused):
    for bad, words in (
        (torch.full((1, 2, 2), torch.nan), ("item 13", "NaN")),
        (torch.full((1, 2, 2), 7.0), ("item 13", "7 to 7")),
        (torch.zeros(1, 2, 3), ("item 13", "[1, 2, 3]", "one size")),
    ):
        items = list(to_float(BYTES))
        items[13] = bad
        with refused("Items", *words):
            list(islice(batches(Items(items), 23, seed=0), 1))


def test_images_in_0_1_are_warned_about():
    with pytest.warns(UserWarning, match=r"2 \* x - 1"):
        batches(TensorDataset(BYTES / 255), 5, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        batches(TensorDataset(to_float(BYTES)), 5, seed=0)
        batches(TensorDataset(BYTES), 5, seed=0)
