import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from sdgan_ext.data import load_image_folder

RNG = np.random.default_rng(0)


def save(path, height=6, width=8, mode="RGB", **options):
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    array = RNG.integers(0, 256, (height, width, *channels), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return torch.from_numpy(array.reshape(height, width, -1)).permute(2, 0, 1)


def test_flat_folder(tmp_path):
    b, a = save(tmp_path / "b.png"), save(tmp_path / "a.PNG")
    dataset = load_image_folder(tmp_path)
    assert torch.equal(dataset.images, torch.stack([a, b]))
    assert dataset.labels is None and dataset.num_classes is None and dataset.name == tmp_path.name


def test_class_folders(tmp_path):
    for name in ("dog/1.png", "cat/2.png", "cat/deeper/1.png", "zebra/0.png"):
        save(tmp_path / name)
    dataset = load_image_folder(tmp_path)
    assert dataset.labels.tolist() == [0, 0, 1, 2] and dataset.num_classes == 3


def test_hidden_and_other_files_are_passed_over(tmp_path):
    save(tmp_path / "a.png")
    for name in (".hidden.png", ".cache/x.png", "README.txt", "Thumbs.db", "notes/readme.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"no image")
    assert len(load_image_folder(tmp_path)) == 1


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_channels_come_from_the_data(tmp_path, mode, channels):
    image = save(tmp_path / "a.png", mode=mode)
    dataset = load_image_folder(tmp_path)
    assert dataset.channels == channels and torch.equal(dataset.images[0], image)


def test_grey_among_colour_becomes_colour(tmp_path):
    grey, colour = save(tmp_path / "a.png", mode="L"), save(tmp_path / "b.png")
    assert torch.equal(load_image_folder(tmp_path).images, torch.stack([grey.expand(3, -1, -1), colour]))
    assert load_image_folder(tmp_path, channels=1).channels == 1


def test_other_modes(tmp_path):
    grey = Image.fromarray(RNG.integers(0, 256, (4, 4), dtype=np.uint8))
    for mode, name, channels in (("1", "a.png", 1), ("P", "a.gif", 3), ("LA", "a.png", 4), ("CMYK", "a.jpg", 3)):
        path = tmp_path / mode / name
        path.parent.mkdir()
        grey.convert("RGB").convert(mode).save(path) if mode != "LA" else grey.convert("LA").save(path)
        assert load_image_folder(path.parent).channels == channels, mode


def test_exif_orientation(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (4, 8, 3), dtype=np.uint8))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "a.png", exif=exif)
    assert load_image_folder(tmp_path).image_size == (8, 4)


def test_mixed_sizes(tmp_path, refused):
    for name, height, width in (("a.png", 6, 8), ("b.png", 6, 8), ("c.png", 9, 8), ("d.png", 5, 5)):
        save(tmp_path / name, height, width)
    with refused(tmp_path / "c.png", "8x9", "a.png", "8x6", "--image-size"):
        load_image_folder(tmp_path)
    assert load_image_folder(tmp_path, 4).images.shape == (4, 3, 4, 4)
    assert load_image_folder(tmp_path, (4, 6)).image_size == (4, 6)


def test_crop_takes_the_centre(tmp_path):
    array = np.zeros((10, 30, 3), np.uint8)
    array[:, 10:20] = 180
    Image.fromarray(array).save(tmp_path / "a.png")
    assert (load_image_folder(tmp_path, 5).images == 180).all()


@pytest.mark.parametrize("name", ["b.png", "b.jpg", "b.gif", "b.bmp", "b.webp", "b.tiff"])
def test_unreadable_image_is_named(tmp_path, name, refused):
    save(tmp_path / "a.png")
    bad = tmp_path / name
    for contents in (b"", b"not an image at all", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"):
        bad.write_bytes(contents)
        with refused("cannot read the image", bad):
            load_image_folder(tmp_path)
    save(bad, 64, 64)
    contents = bad.read_bytes()
    bad.write_bytes(contents[: len(contents) // 2])
    with refused("cannot read the image", bad):
        load_image_folder(tmp_path)


def test_sixteen_bits_are_refused(tmp_path, refused):
    Image.fromarray(RNG.integers(0, 65536, (4, 4), dtype=np.uint16)).save(tmp_path / "a.png")
    with refused("a.png", "8 bits"):
        load_image_folder(tmp_path)


def test_bad_folders(tmp_path, refused):
    with refused("does not exist", "absent"):
        load_image_folder(tmp_path / "absent")
    with refused("holds no images", ".png", tmp_path):
        load_image_folder(tmp_path)
    save(tmp_path / "cat" / "a.png")
    (tmp_path / "dog").mkdir()
    with refused(tmp_path / "dog", "holds no images"):
        load_image_folder(tmp_path)
    save(tmp_path / "a.png")
    with refused("a.png", "cat/a.png", "class folders"):
        load_image_folder(tmp_path)
    with refused("is a file"):
        load_image_folder(tmp_path / "a.png")
    with refused("channels", "2"):
        load_image_folder(tmp_path, channels=2)
    with refused("image_size", "0"):
        load_image_folder(tmp_path, image_size=0)


def test_real_photos(real_data, tmp_path):
    if not (real_data / "clothing128.tar").is_file():
        pytest.skip(f"no clothing128.tar in {real_data}")
    with tarfile.open(real_data / "clothing128.tar") as tar:
        members = [m for m in tar.getmembers() if "/validation/" in m.name and m.name.endswith(".jpg") and m.isfile()]
        for member in members[::3]:
            path = tmp_path / "/".join(member.name.split("/")[2:])
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(tar.extractfile(member).read())
    dataset = load_image_folder(tmp_path, 64)
    assert dataset.images.shape == (114, 3, 64, 64) and dataset.num_classes == 10
