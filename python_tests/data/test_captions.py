"""Captions of files beside the images and of classes: held and lazy, in folders and archives, after a resume."""

import json
import shutil
import tarfile
import zipfile

import pytest
import torch
from kinds import COUNT, Hugging, as_kind, images_of, write_folder
from PIL import Image

from sdgan_ext._errors import DataError
from sdgan_ext.cli import main
from sdgan_ext.data import (
    ImageDataset,
    RenderedDigits,
    batches,
    captions_of,
    hold_out,
    load_idx_folder,
    open_dataset,
    write_idx,
)

TEMPLATE = "a photo of a {class}"
FORMS = ("metadata", "metadata in each folder", "texts")
PLACES = ("folder", "zip", "tar")


def opened(spec, **options):
    return open_dataset(spec, **({"image_size": 8, "captions": TEMPLATE} | options))


def text_of(file):
    return f"number {file.stem}, 一号"


def write_metadata(file, entries):
    lines = [json.dumps({"file_name": name, "text": text}, ensure_ascii=False) for name, text in entries]
    file.write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def write_captions(folder, form):
    files = images_of(folder)
    if form == "texts":
        for file in files:
            file.with_suffix(".txt").write_text(text_of(file).replace(", ", ",\n ") + "\n", encoding="utf-8")
    for place in {"metadata": [folder], "metadata in each folder": sorted(folder.iterdir())}.get(form, []):
        entries = [(str(file.relative_to(place)), text_of(file)) for file in files if file.is_relative_to(place)]
        write_metadata(place / "metadata.jsonl", reversed(entries))
    return files


def archived(folder, place):
    """``folder``, or an archive of all its files."""
    if place == "folder":
        return folder
    path = folder.with_name(f"{folder.name}.{place}")
    files = [file for file in folder.rglob("*") if file.is_file()]
    if place == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, f"photos/{file.relative_to(folder)}")
    else:
        with tarfile.open(path, "w") as archive:
            for file in files:
                archive.add(file, file.relative_to(folder))
    return path


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "photos")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_pack_keeps_captions(folder, form, place, tmp_path, capsys):
    write_captions(folder, form)
    assert main(["pack", str(archived(folder, place)), "--out", str(tmp_path / "shards")]) == 0
    assert f"{COUNT:,} images with captions in 1 shards" in capsys.readouterr().out
    was, packed = opened(folder), opened(tmp_path / "shards")
    assert list(captions_of(packed)) == list(captions_of(was))
    assert all(a[1] == b[1] and torch.equal(a[0], b[0]) for a, b in zip(was, packed, strict=True))


def test_pack_refuses_two_captions_of_one_name(tmp_path, capsys):
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    write_metadata(tmp_path / "metadata.jsonl", [("a.png", "one"), ("a.jpg", "another")])
    assert main(["pack", str(tmp_path), "--out", str(tmp_path / "shards")]) == 2
    assert "two images would have their captions in a.txt: rename one of them" in capsys.readouterr().err
    assert not list((tmp_path / "shards").glob("*"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", FORMS)
def test_each_image_has_its_caption(folder, form, place, cache):
    files = write_captions(folder, form)
    dataset = opened(archived(folder, place), cache=cache)
    assert dataset.num_classes is None and len(dataset) == COUNT
    assert [dataset[index][1] for index in range(COUNT)] == list(map(text_of, files)) == list(captions_of(dataset))
    images, numbers = dataset.batch(torch.tensor([5, 2]))
    assert numbers.tolist() == [5, 2] and torch.equal(images[1], dataset[2][0])
    assert [caption for _, caption in dataset.__getitems__([4, 1])] == [text_of(files[4]), text_of(files[1])]


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("kind", ["folder", "zip", "shards", "hugging"])
def test_names_of_classes(folder, kind, cache):
    spec = as_kind(kind, folder)
    if kind == "hugging":
        spec.features["label"].names = ["class 0", "class 1"]
    dataset = opened(spec, cache=cache, captions="一张{class}的照片")
    labels = [int(file.parent.name[-1]) for file in images_of(folder)]
    assert dataset.num_classes == 2 and dataset.labels.tolist() == labels
    assert [dataset[k][1] for k in range(COUNT)] == [f"一张class {label}的照片" for label in labels]
    assert opened(spec, cache=cache, captions=None)[0][1] == labels[0]  # an int, as ever


def test_a_name_with_underscores(tmp_path):
    write_folder(tmp_path / "a" / "long_sleeve", 1)
    (tmp_path / "a" / "t-shirt").mkdir()
    shutil.copy(images_of(tmp_path / "a")[0], tmp_path / "a" / "t-shirt")
    assert opened(tmp_path / "a").captions == ["a photo of a long sleeve", "a photo of a t-shirt"]


def test_classes_of_other_data(tmp_path, monkeypatch, refused):
    images, labels = torch.zeros(3, 8, 8, dtype=torch.uint8).numpy(), torch.tensor([2, 0, 1], dtype=torch.uint8).numpy()
    for place in ("mnist", "letters"):
        (tmp_path / place).mkdir()
        write_idx(tmp_path / place / "train-images-idx3-ubyte", images)
        write_idx(tmp_path / place / "train-labels-idx1-ubyte", labels)
    assert [opened(tmp_path / "letters")[k][1] for k in range(3)] == [f"a photo of a {k}" for k in (2, 0, 1)]
    monkeypatch.setattr("sdgan_ext.data.find_mnist", lambda root: tmp_path / "mnist")
    assert opened("mnist", captions="a {class}")[0][1] == "a two"
    assert opened("mnist", captions="a {class}", crop="random", image_size=4)[0][1] == "a two"
    digits = opened("digits", captions="the digit {class}", image_size=28)
    assert (
        digits[3][1]
        == "the digit " + "zero one two three four five six seven eight nine".split()[RenderedDigits()[3][1]]
    )
    (tmp_path / "letters" / "train-labels-idx1-ubyte").unlink()
    with refused("letters", "neither captions nor labels"):
        opened(tmp_path / "letters")


@pytest.mark.parametrize("column", ["text", "caption"])
def test_a_column_of_hugging_face(folder, column, refused):
    rows = [{"image": {"bytes": file.read_bytes()}, "label": 0, column: text_of(file)} for file in images_of(folder)]
    spec = Hugging(rows)
    spec.features[column] = "string"
    assert [caption for _, caption in opened(spec)] == [row[column] for row in rows]
    assert opened(spec, captions=None)[0][1] == 0
    rows[3][column] = None
    with refused("row 3", column, "None"):
        opened(spec)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["memory", "none"])
def test_batches_go_on_where_they_were(folder, cache, workers):
    files = write_captions(folder, "texts")
    dataset, held = hold_out(opened(folder, cache=cache), 3)
    alone = [batch for batch, _ in zip(batches(dataset, 4, seed=1), range(9), strict=False)]
    assert captions_of(held) == captions_of(dataset)
    again = batches(dataset, 4, seed=1, start=5, workers=workers)
    for images, numbers in alone[5:]:
        more, others = next(again)
        assert torch.equal(images, more) and torch.equal(numbers, others)
        for image, number in zip(images, numbers.tolist(), strict=True):
            assert torch.equal(image, dataset.dataset[number][0])
            assert captions_of(dataset)[number] == text_of(files[number])


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_an_image_in_the_place_of_another_keeps_its_caption(folder, cache):
    files = write_captions(folder, "metadata")
    files[4].write_bytes(b"no image")
    with pytest.warns(UserWarning, match="the next image stands in its place"):
        dataset = opened(folder, cache=cache, max_bad=1)
        image, caption = dataset[4]
    assert caption == text_of(files[5]) and torch.equal(image, dataset[5][0])


@pytest.mark.parametrize("place", ["folder", "tar"])
@pytest.mark.parametrize("form", ["metadata", "texts", "classes"])
def test_an_index_keeps_no_captions_that_have_changed(folder, tmp_path, form, place):
    files = write_captions(folder, form)
    index = tmp_path / "index.npz"
    spec = archived(folder, place)
    first = opened(spec, cache="none")
    first.index.save(index)
    again = opened(spec, cache="none", index_file=index)
    assert list(again.captions) == list(first.captions)
    labels = opened(spec, cache="none", index_file=index, captions=None)
    assert labels.captions is None and labels.num_classes == 2 and labels[0][1] == 0
    labels.index.save(index)
    assert list(opened(spec, cache="none", index_file=index).captions) == list(first.captions)
    if form != "classes":
        first.index.save(index)
        file = folder / "metadata.jsonl" if form == "metadata" else files[0].with_suffix(".txt")
        file.write_text(file.read_text().replace("number 00", "nombre 00"))
        if place == "folder":  # whose images have not changed
            assert opened(spec, cache="none", index_file=index)[0][1] == "nombre 00, 一号"
        else:
            with pytest.warns(UserWarning, match="made anew"):
                assert opened(archived(folder, place), cache="none", index_file=index)[0][1] == "nombre 00, 一号"


def test_what_else_is_beside_is_said(folder):
    write_captions(folder, "texts")
    (folder / "README.txt").write_text("about them")
    with pytest.warns(UserWarning, match=r"1 of its entries left out.*README.txt"):
        opened(folder)
    write_captions(folder, "metadata")  # which goes before texts
    with pytest.warns(UserWarning, match=r"14 of its entries left out.*txt"):
        opened(folder)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("form", "spoil", "words"),
    [
        ("metadata", lambda lines: lines[1:], ["11.jpg has no caption", "no line of metadata.jsonl"]),
        ("metadata", lambda lines: [*lines, "{"], ["metadata.jsonl, line 14", "no JSON", '"text"']),
        ("metadata", lambda lines: [lines[0], "[1]"], ["line 2", "is [1]"]),
        ("metadata", lambda lines: ['{"file_name": "a"}'], ["line 1", "has no 'text'"]),
        ("metadata", lambda lines: ['{"text": "a"}'], ["line 1", "has no 'file_name'"]),
        ("metadata", lambda lines: ['{"file_name": "a", "text": ["b"]}'], ["line 1", "text ['b']"]),
        ("metadata", lambda lines: [*lines, lines[2]], ["line 14", "again"]),
        ("metadata", lambda lines: [lines[0].replace("number 11, 一号", " "), *lines[1:]], ["11.jpg", "is empty"]),
        ("metadata", lambda lines: [lines[0].replace("一", "\\ud800"), *lines[1:]], ["11.jpg", "is no text"]),
        ("metadata", lambda lines: ["[" * 100_000], ["line 1", "no JSON"]),
        ("metadata", lambda lines: [b"\xff\xfe\n"], ["metadata.jsonl", "UTF-8"]),
        ("texts", "", ["is empty"]),
        ("texts", b"\xff", ["00.txt", "UTF-8"]),
        ("texts", None, ["00.png has no caption", "no 00.txt is beside it"]),
    ],
)
def test_what_is_no_caption(folder, form, spoil, words, place, refused):
    files = write_captions(folder, form)
    file = folder / "metadata.jsonl" if form == "metadata" else files[0].with_suffix(".txt")
    if spoil is None:
        file.unlink()
    elif form == "texts":
        file.write_bytes(spoil if isinstance(spoil, bytes) else spoil.encode())
    else:
        lines = spoil(file.read_text().split("\n")[:COUNT])
        file.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    with refused(*words):
        opened(archived(folder, place))


def test_metadata_of_images_that_are_not_there(folder):
    write_captions(folder, "metadata")
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "../elsewhere.png", "text": "a"}))
    with pytest.warns(UserWarning, match=r"1 lines of metadata.jsonl.*not there \(elsewhere.png\)"):
        assert len(opened(folder)) == COUNT


def test_none(tmp_path, refused):
    write_folder(tmp_path / "a", 3, classes=1)
    flat = tmp_path / "a" / "class 0"
    for spec in (flat, archived(flat, "zip")):
        with refused("no captions", "metadata.jsonl", ".txt", "class folders"):
            opened(spec)
    with refused("class 0 has no captions"):
        captions_of(opened(flat, captions=None))
    with refused("captions is 'a photo'", "{class}"):
        opened(flat, captions="a photo")


def test_in_memory(refused):
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    own = ImageDataset(images, captions=["a", "b", "c"])
    assert own.num_classes is None and [caption for _, caption in own.__getitems__([2, 0])] == ["c", "a"]
    assert own.fitted(8).captions == ["a", "b", "c"] and own.fitted(8).num_classes is None
    shared = ImageDataset(images, [1, 1, 0], captions=["a", "b"])
    assert shared.num_classes is None and [shared[k][1] for k in range(3)] == ["b", "b", "a"]
    classes = ImageDataset(images, [1, 1, 0], num_classes=2, captions=["a", "b"])
    assert classes.num_classes == 2 and classes[2][1] == "a"
    with refused("2 captions came with 3 images"):
        ImageDataset(images, captions=["a", "b"])
    with refused("2 captions came with 3 classes"):
        ImageDataset(images, [0, 1, 1], num_classes=3, captions=["a", "b"])
    with refused("label 2", "0 to 1"):
        ImageDataset(images, [0, 1, 2], captions=["a", "b"])


def test_mnist_has_labels_unless_captions_are_asked_for(real_data):
    assert load_idx_folder(real_data / "mnist")[0][1] == 5
    assert opened(real_data / "mnist", captions="{class}!")[0][1] == "5!"


def test_photos(real_data):
    with pytest.raises(DataError, match="class"):
        opened(real_data / "clothing128.tar", captions="photo")
    dataset = opened(real_data / "clothing128.tar", image_size=16)
    assert dataset.num_classes == 10 == len(dataset.captions) and "a photo of a dress" in dataset.captions
