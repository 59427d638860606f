"""Images that are decoded as they are asked for: the same bits as in memory, whatever they lie in and whoever reads."""

import os
import shutil
import tarfile
import warnings
import zipfile
from itertools import islice

import numpy as np
import pytest
import torch
from kinds import COUNT, KINDS, as_kind, images_of, write_folder
from PIL import Image

from sdgan_ext._errors import DataError, MissingSplitError
from sdgan_ext.data import ImageDataset, LazyImages, batches, find_images, lazy, load_image_folder, open_dataset
from sdgan_ext.data.index import INDEX_NAME
from sdgan_ext.data.pack import pack

FILES = ("folder", "zip", "tar", "shards")
DECODED = COUNT * 10 * 12 * 3  # bytes, by the size of the first image


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "photos")


def opened(spec, **options):
    return open_dataset(spec, **({"image_size": 8, "cache": "none"} | options))


def taken(dataset, count=6, **options):
    return list(islice(batches(dataset, **({"batch_size": 5, "seed": 0} | options)), count))


def same(ones, others):
    pairs = [pair for one, other in zip(ones, others, strict=True) for pair in zip(one, other, strict=True)]
    return all(torch.equal(one, other) for one, other in pairs)


# ------------------------------------------------------------------------------------------------------- the bits
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_those_in_memory(folder, kind):
    expected = load_image_folder(folder, 8)
    spec = as_kind(kind, folder)
    dataset = opened(spec)
    assert isinstance(dataset, LazyImages) and not dataset.held
    assert (dataset.image_size, dataset.channels, dataset.num_classes) == ((8, 8), 3, 2)
    assert dataset.labels.tolist() == expected.labels.tolist()
    everything = torch.arange(COUNT)
    assert same([dataset.batch(everything)], [expected.batch(everything)])
    held = opened(spec, cache="memory")
    assert isinstance(held, ImageDataset) and torch.equal(held.images, expected.images)
    assert same(taken(dataset), taken(expected))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("crop", ["centre", "random"])
def test_any_number_of_workers_and_any_start(folder, kind, crop):
    dataset = opened(as_kind(kind, folder), crop=crop, resize=9)
    options = {"augment": ["flip"], "random_crop": crop == "random"}
    alone = taken(dataset, 8, **options)
    for workers in (1, 2):
        assert same(taken(dataset, 8, workers=workers, **options), alone)
    assert same(taken(dataset, 3, start=5, workers=2, **options), alone[5:])
    held = opened(folder, cache="memory", crop=crop, resize=9)
    assert same(taken(held, 8, workers=2, **options), alone)


@pytest.mark.parametrize("kind", FILES)
def test_ranks_share_an_epoch_without_repeats(folder, kind):
    """By what they read, not by their labels."""
    dataset = opened(as_kind(kind, folder))
    whole = dataset.batch(torch.arange(COUNT))[0]
    seen = []
    for rows in (slice(0, 2), slice(2, 4)):
        for images, _ in taken(dataset, COUNT // 4, batch_size=4, rows=rows, workers=2):
            seen += [int((whole == image).flatten(1).all(1).nonzero().item()) for image in images]
    assert len(seen) == len(set(seen)) == COUNT // 4 * 4


def test_items_and_parts(folder):
    dataset, expected = opened(folder), load_image_folder(folder, 8)
    assert torch.equal(dataset[-1][0], expected[COUNT - 1][0]) and dataset[3][1] == expected[3][1]
    with pytest.raises(IndexError):
        dataset[COUNT]
    loader = torch.utils.data.DataLoader(dataset, batch_size=4)
    assert torch.equal(next(iter(loader))[0], expected.batch(torch.arange(4))[0])


def test_modes_are_those_in_memory(tmp_path):
    """Grey, palette, CMYK, 16 bits, alpha over a colour, EXIF, and several frames."""
    generator = np.random.default_rng(0)
    colour = Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    alpha = Image.fromarray(generator.integers(0, 256, (9, 9, 4), dtype=np.uint8))
    exif = colour.getexif()
    exif[0x0112] = 6
    colour.convert("L").save(tmp_path / "a.png")
    colour.convert("P").save(tmp_path / "b.png")
    colour.convert("CMYK").save(tmp_path / "c.jpg")
    Image.fromarray(generator.integers(0, 65536, (9, 9)).astype(np.uint16)).save(tmp_path / "d.png")
    alpha.save(tmp_path / "e.png")
    colour.resize((5, 9)).save(tmp_path / "f.jpg", exif=exif)
    colour.save(tmp_path / "g.gif", save_all=True, append_images=[colour.rotate(90)])
    for options in ({}, {"channels": 1}, {"channels": 3, "background": "lime"}):
        said = []
        for cache in ("memory", "none"):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                dataset = opened(tmp_path, cache=cache, **options)
                said.append(([str(warning.message) for warning in caught], dataset.batch(torch.arange(7))[0]))
        assert said[0][0] == said[1][0] and len(said[0][0]) >= 2
        assert torch.equal(said[0][1], said[1][1])


# -------------------------------------------------------------------------------------------------- resize and crop
def ramp(path, height, width):
    """Every pixel says where it lies."""
    rows, columns = np.mgrid[:height, :width]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.stack([rows, columns, rows * 0], -1).astype(np.uint8)).save(path)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_random_crops_are_parts_that_lie_anywhere(tmp_path, cache):
    for number in range(6):
        ramp(tmp_path / "a" / f"{number}.png", 12, 20)
    dataset = opened(tmp_path / "a", image_size=(8, 6), crop="random", resize=0, cache=cache)
    images = torch.cat([x for x, _ in taken(dataset, 60, batch_size=6, random_crop=True)])
    places = (images[:, :2, 0, 0] + 1).mul(127.5).round().int()
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(6), indexing="ij")
    expected = torch.stack([rows, columns])[None] + places[:, :, None, None]
    assert torch.equal((images[:, :2] + 1).mul(127.5).round().int(), expected)
    assert places[:, 0].unique().tolist() == list(range(5)) and places[:, 1].unique().tolist() == list(range(15))
    centre = (dataset[0][0][:2, 0, 0] + 1).mul(127.5).round().tolist()
    assert centre == [2, 7], "what does not train reads the centre"


def test_resize_is_of_the_shorter_side(tmp_path):
    ramp(tmp_path / "a" / "1.png", 20, 60)
    dataset = opened(tmp_path / "a", resize=10, image_size=8)
    image = Image.open(tmp_path / "a" / "1.png")
    array = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(array, (10, 30), mode="bicubic", antialias=True)
    assert torch.equal(dataset.batch(torch.tensor([0]))[0], resized[..., 1:9, 11:19] / 127.5 - 1)


@pytest.mark.parametrize("crop", ["centre", "random"])
def test_arrays_are_resized_and_cropped_too(tmp_path, crop):
    np.savez(tmp_path / "a.npz", images=np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), dtype=np.uint8))
    dataset = opened(tmp_path / "a.npz", image_size=6, resize=8, crop=crop)
    images = taken(dataset, 1, random_crop=crop == "random")[0][0]
    assert images.shape == (5, 3, 6, 6) and (crop == "centre") == isinstance(dataset, ImageDataset)


def test_crops_that_cannot_be(folder, refused):
    with refused("crop", "'centre' or 'random'", "'left'"):
        opened(folder, crop="left")
    with refused("resize", "at least 8", "7"):
        opened(folder, resize=7)
    with refused("crop is 'random'", "image_size"):
        opened(folder, crop="random", image_size=None)
    with refused("digits", "crop"):
        open_dataset("digits", crop="random", image_size=28)
    with refused("class 0/00.png", "12x10 pixels", "11x11", "--resize"):
        opened(folder, image_size=11, resize=0)
    with refused("photos", "crop='random'"):
        batches(opened(folder), 5, seed=0, random_crop=True)
    with refused("cache", "'auto', 'memory', 'none'", "'disk'"):
        opened(folder, cache="disk")


# ------------------------------------------------------------------------------------------------------- the cache
@pytest.mark.parametrize(("held", "kind"), [(DECODED, ImageDataset), (DECODED - 1, LazyImages)])
def test_auto_holds_what_is_small(folder, held, kind, monkeypatch):
    monkeypatch.setattr(lazy, "_MOST_HELD", held)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert isinstance(opened(folder, cache="auto"), kind)
    said = [str(warning.message) for warning in caught]
    assert bool(said) == (kind is LazyImages)
    assert all("13 images take" in line and "GB that are held" in line and "--cache memory" in line for line in said)


def test_auto_holds_a_quarter_of_the_free_memory(folder, monkeypatch):
    monkeypatch.setattr(lazy, "available_memory", lambda: 4 * DECODED)
    assert isinstance(opened(folder, cache="auto"), ImageDataset)
    monkeypatch.setattr(lazy, "available_memory", lambda: 4 * DECODED - 4)
    with pytest.warns(UserWarning, match="quarter of the free memory"):
        assert isinstance(opened(folder, cache="auto"), LazyImages)


# ------------------------------------------------------------------------------------------------------- bad images
def damage(folder):
    """The 2nd image has no header, the 6th is cut short; their paths."""
    files = images_of(folder)
    headless, cut = files[1], files[5]
    headless.write_bytes(b"no image")
    cut.write_bytes(cut.read_bytes()[:-60])
    return headless, cut


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("kind", FILES)
def test_the_next_image_stands_in_the_place_of_a_bad_one(folder, kind, cache):
    whole = load_image_folder(folder, 8)
    headless, cut = damage(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = opened(as_kind(kind, folder), cache=cache, max_bad=2)
        images, labels = dataset.batch(torch.arange(COUNT))
        dataset.batch(torch.arange(COUNT))
    said = [str(warning.message) for warning in caught if "stands in its place" in str(warning.message)]
    assert len(said) == 2 and headless.name in said[0] and cut.name in said[1]
    expected = torch.arange(COUNT)
    expected[[1, 5]] = torch.tensor([2, 6])
    assert same([(images, labels)], [whole.batch(expected)])
    if cache == "none":
        assert sorted(dataset.bad) == [1, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_images(folder, workers, refused):
    headless, cut = damage(folder)
    with refused("cannot read the image", headless):
        opened(folder)
    with pytest.warns(UserWarning, match=headless.name):
        dataset = opened(folder, max_bad=1)
    with refused("2 images cannot be read", "--max-bad", "1", cut):
        taken(dataset, 3, workers=workers)
    with refused("2 images cannot be read", cut):
        opened(folder, max_bad=1, cache="memory")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_bad_images_are_counted_by_whoever_trains(folder, workers):
    headless, cut = damage(folder)
    with pytest.warns(UserWarning) as caught:
        got = taken(opened(folder, max_bad=2), 12, workers=workers)
    assert sum("stands in its place" in str(warning.message) for warning in caught) == 2
    with pytest.warns(UserWarning):
        assert same(got, taken(opened(folder, max_bad=2, cache="memory"), 12))


# -------------------------------------------------------------------------------------------- files that have changed
def one_of(spec):
    return images_of(spec)[1] if spec.is_dir() else spec


def touch(path):
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_file_that_changes_or_vanishes_is_named(folder, kind, workers, refused):
    spec = as_kind(kind, folder)
    file = one_of(spec)
    dataset = opened(spec, max_bad=100)
    touch(file)
    with refused(file, "has changed since the images were listed"):
        taken(dataset, 12, workers=workers)
    dataset = opened(spec, max_bad=100)
    file.unlink()
    with refused(file, "is gone"):
        taken(dataset, 12, workers=workers)


@pytest.mark.parametrize("kind", FILES)
def test_an_index_is_used_while_the_files_are_the_same(folder, kind, tmp_path, monkeypatch):
    spec, place = as_kind(kind, folder), tmp_path / INDEX_NAME
    whole = opened(spec)
    whole.index.save(place)
    expected = taken(whole)
    read, listed = lazy.read_header, []
    monkeypatch.setattr(lazy, "read_header", lambda *given: listed.append(given) or read(*given))
    dataset = opened(spec, index_file=place)
    assert not listed
    assert same(taken(dataset), expected) and dataset.num_classes == 2
    changed = one_of(spec)
    touch(changed)
    with pytest.warns(UserWarning, match=f"{changed.name} changed since .*{INDEX_NAME}.* made anew"):
        assert same(taken(opened(spec, index_file=place)), expected)
    assert len(listed) == COUNT


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_files_of_the_index_that_are_gone(folder, kind, tmp_path, refused):
    spec = as_kind(kind, folder)
    opened(spec).index.save(tmp_path / INDEX_NAME)
    gone = images_of(spec)[-1]
    gone.unlink()
    words = ("is gone", "put back") if kind == "folder" else ("is missing",)
    with refused(gone.name, *words):
        opened(spec, index_file=tmp_path / INDEX_NAME)


@pytest.mark.parametrize("content", [b"", b"no index", None], ids=["empty", "text", "cut"])
def test_a_damaged_index_is_made_anew(folder, tmp_path, content):
    place = tmp_path / INDEX_NAME
    opened(folder).index.save(place)
    place.write_bytes(place.read_bytes()[:-100] if content is None else content)
    with pytest.warns(UserWarning, match=f"{INDEX_NAME} .*the index is made anew"):
        assert len(opened(folder, index_file=place)) == COUNT


def test_an_index_of_arrays_that_do_not_fit(folder, tmp_path):
    spec = as_kind("zip", folder)
    opened(spec).index.save(tmp_path / "whole.npz")
    arrays = dict(np.load(tmp_path / "whole.npz"))
    for name in arrays:
        others = {key: value for key, value in arrays.items() if key != name}
        np.savez(tmp_path / "less.npz", **others)
        np.savez(tmp_path / "other.npz", **others, **{name: np.zeros((2, 3), np.float32)})
        for place in (tmp_path / "less.npz", tmp_path / "other.npz"):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert len(opened(spec, index_file=place)) == COUNT, (name, place)


# ------------------------------------------------------------------------------------------------------- archives
@pytest.mark.parametrize("kind", ["zip", "stored zip", "tar"])
def test_an_archive_that_is_cut_short(folder, kind, refused):
    spec = as_kind(kind, folder)
    content = spec.read_bytes()
    ends = {len(content) // 2, len(content) - 10_240, 600, 0} if kind == "tar" else {len(content) // 2, 100, 0}
    for end in ends:
        spec.write_bytes(content[: max(end, 0)])
        with refused(spec, "cut short"):
            opened(spec)


def test_a_tar_that_ends_between_two_members(folder, refused):
    spec = as_kind("tar", folder)
    with tarfile.open(spec) as archive:
        last = archive.getmembers()[-1]
    spec.write_bytes(spec.read_bytes()[: last.offset])
    with refused(spec, "cut short"):
        opened(spec)


def test_archives_that_are_not_read(folder, tmp_path, refused):
    with tarfile.open(tmp_path / "a.tar", "w:gz") as archive:
        archive.add(folder)
    with refused(tmp_path / "a.tar", "compressed as a whole"):
        opened(tmp_path / "a.tar")
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.write(images_of(folder)[0], "a.png")
    with refused("a.zip's a.png", "deflate"):
        opened(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.txt", "no image")
    with pytest.warns(UserWarning, match="a.txt"), refused("b.zip", "no images"):
        opened(tmp_path / "b.zip")
    with refused("c.tar", "neither a name"):
        opened(tmp_path / "c.tar")


def test_a_byte_in_a_zip_that_was_changed(folder, refused):
    spec = as_kind("stored zip", folder)
    index = find_images(spec).index
    _, offset, length, _, _ = index.spans.table[:, 3]
    content = bytearray(spec.read_bytes())
    content[offset + length // 2] ^= 1
    spec.write_bytes(content)
    with refused("photos as stored zip.zip's", "checksum"):
        opened(spec).batch(torch.arange(COUNT))


def test_classes_beside_the_images(folder, tmp_path):
    """As WebDataset has them."""
    files = images_of(folder)

    def write(place, classes):
        with tarfile.open(place, "w") as archive:
            for number, (file, label) in enumerate(zip(files, classes, strict=True)):
                archive.add(file, f"{number:04d}{file.suffix}")
                if label is not None:
                    (tmp_path / "label").write_text(f"{label}\n")
                    archive.add(tmp_path / "label", f"{number:04d}.cls")
        return place

    numbers = [number % 5 for number in range(COUNT)]
    dataset = opened(write(tmp_path / "a.tar", numbers))
    assert dataset.labels.tolist() == numbers and dataset.num_classes == 5
    for bad, words in ((None, "no .cls file"), ("cat", "number from 0 up")):
        place = write(tmp_path / "b.tar", [*numbers[:-1], bad])
        with pytest.raises(DataError, match=words):
            opened(place)
        with pytest.warns(UserWarning, match=f"{words}.*labels are left out"):
            assert opened(place, need_labels=False).labels is None


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_splits_in_an_archive(tmp_path, kind):
    write_folder(tmp_path / "both" / "train", 5)
    write_folder(tmp_path / "both" / "test", 4)
    spec = as_kind(kind, tmp_path / "both")
    for split, count in (("train", 5), ("test", 4)):
        dataset, expected = (opened(place, split=split) for place in (spec, tmp_path / "both"))
        assert len(dataset) == count and same(taken(dataset, 2, batch_size=3), taken(expected, 2, batch_size=3))
    shutil.rmtree(tmp_path / "both" / "test")
    with pytest.raises(MissingSplitError, match="no test split"):
        opened(as_kind(kind, tmp_path / "both"), split="test")


def test_splits_of_shards(folder, tmp_path):
    for split, count in (("train", 5), ("val", 4), ("test", 3)):
        source = find_images(write_folder(tmp_path / split, count))
        pack(source.index, tmp_path / f"{split} shards", f"photos-{split}", images_per_shard=2)
        for shard in (tmp_path / f"{split} shards").iterdir():
            (tmp_path / "shards").mkdir(exist_ok=True)
            shard.rename(tmp_path / "shards" / shard.name)
    with pytest.warns(UserWarning, match="shards of the validation split left out"):
        assert len(opened(tmp_path / "shards")) == 5
    with pytest.warns(UserWarning, match="shards of the train split left out"):
        assert len(opened(tmp_path / "shards", split="test")) == 3


def test_shards_by_their_numbers(folder, refused):
    shards = as_kind("shards", folder)
    pattern = shards / "photos-{00000..00002}-of-00003.tar"
    assert same(taken(opened(pattern)), taken(opened(folder)))
    (shards / "photos-00001-of-00003.tar").unlink()
    for spec in (pattern, shards):
        with refused("photos-00001-of-00003.tar"):
            opened(spec)


def test_packing_is_reproducible_and_overwrites_nothing(folder, tmp_path, refused):
    source = find_images(folder)
    first, second = (pack(source.index, tmp_path / name, "photos", 5) for name in ("first", "second"))
    assert [path.name for path in first] == [f"photos-0000{k}-of-00003.tar" for k in range(3)]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    with refused(tmp_path / "first", "holds shards already"):
        pack(source.index, tmp_path / "first", "photos", 5)


# ------------------------------------------------------------------------------------------------------ Hugging Face
def test_hugging_face_datasets_that_cannot_be_read(folder, refused):
    dataset = as_kind("hugging", folder)
    dataset.rows[3]["image"] = {"bytes": None, "path": None}
    with refused("row 3", "empty"):
        opened(dataset)
    dataset.format = {"type": "custom"}
    with refused("transform of its own"):
        opened(dataset)
    with pytest.raises(MissingSplitError, match="one dataset"):
        opened(as_kind("hugging", folder), split="test")
    assert len(opened({"train": as_kind("hugging", folder)})) == COUNT
    del dataset.features["image"]
    with refused("label", "none is of images"):
        opened(dataset)


def test_hugging_face_itself(folder, tmp_path):
    datasets, arrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    files = images_of(folder)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2)})
    images = [{"bytes": file.read_bytes(), "path": None} for file in files]
    rows = {"image": images, "label": [int(file.parent.name[-1]) for file in files]}
    table = datasets.table.InMemoryTable(arrow.table(rows, schema=features.arrow_schema))
    dataset = datasets.Dataset(table, fingerprint="photos")
    dataset.save_to_disk(tmp_path / "disk")
    for spec in (dataset, datasets.DatasetDict({"train": dataset}), tmp_path / "disk"):
        got = opened(spec)
        assert same(taken(got, workers=2), taken(opened(folder))) and got.num_classes == 2
