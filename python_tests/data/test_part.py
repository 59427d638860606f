"""A part of a dataset, and what is held out of one."""

from itertools import islice

import pytest
import torch
from torch.utils.data import Dataset

from sdgan_ext.data import ImageDataset, Part, RenderedDigits, batches, hold_out, to_float

BYTES = (torch.arange(23 * 2 * 2) % 256).to(torch.uint8).reshape(23, 1, 2, 2)


class Items(Dataset):
    def __len__(self):
        return 23

    def __getitem__(self, index):
        return (torch.full((1, 2, 2), float("nan")) if index == 13 else to_float(BYTES[index])), index


def seen(dataset):
    """Labels of an epoch."""
    return [label for _, y in islice(batches(dataset, 1, seed=0), len(dataset)) for label in y.tolist()]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("own", [True, False])
def test_a_part_is_read_as_the_dataset_is(own, workers):
    dataset = ImageDataset(BYTES, torch.arange(23)) if own else Items()
    part = Part(dataset, torch.tensor([20, 3, 5, 8]))
    for x, y in islice(batches(part, 2, seed=0, workers=workers), 4):
        assert torch.equal(x, to_float(BYTES[y])) and set(y.tolist()) <= {20, 3, 5, 8}
    assert sorted(seen(part)) == [3, 5, 8, 20]
    assert len(part) == 4 and part[1][1] == 3


def test_its_attributes_are_the_datasets():
    digits = Part(RenderedDigits(length=10), torch.tensor([1, 2]))
    assert (digits.name, digits.image_size, digits.channels, digits.num_classes) == ("digits", (28, 28), 1, 10)
    assert Part(Items(), torch.tensor([1])).name == "Items"


def test_a_bad_item_is_named_as_in_the_dataset(refused):
    with refused("item 13", "NaN"):
        list(islice(batches(Part(Items(), torch.tensor([1, 2, 13])), 3, seed=0), 1))


def test_hold_out():
    dataset = ImageDataset(BYTES, torch.arange(23))
    rest, held = hold_out(dataset, 5)
    assert sorted(seen(rest) + seen(held)) == list(range(23)) and len(held) == 5
    assert rest.indices.tolist() == sorted(rest.indices.tolist())
    more = hold_out(dataset, 9)[1]
    assert set(seen(held)) < set(seen(more))
    assert held.indices.tolist() != [18, 19, 20, 21, 22]
    inner = hold_out(rest, 6)
    assert sorted(seen(inner[0]) + seen(inner[1])) == rest.indices.tolist()


def test_held_out_images_are_pinned():
    """A resumed run must hold out what the run that it resumes has, whatever version either is of."""
    assert hold_out(ImageDataset(BYTES), 5)[1].indices.tolist() == [15, 14, 18, 0, 16]


def test_there_must_be_so_many(refused):
    for count in (0, 23, -1):
        with refused(f"{count} images", "the 23 of images"):
            hold_out(ImageDataset(BYTES), count)
