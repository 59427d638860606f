import struct
import tarfile
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

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


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_are_scaled(tmp_path, name):
    values = np.array([[0, 128, 129, 257 * 7], [257 * 7 + 129, 32767, 32768, 65535]], np.uint16)
    if name == "a.pgm":
        (tmp_path / name).write_bytes(b"P5 4 2 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(tmp_path / name)
    with pytest.warns(UserWarning, match=f"1 .*16 bits a channel .{name}. .*scaled"):
        dataset = load_image_folder(tmp_path)
    assert dataset.images.tolist() == [[[[0, 0, 1, 7], [8, 127, 128, 255]]]]


def png_of_sixteen_bits(colour_type, values):
    """A PNG whose samples are ``values``, uint16 [H, W, C]; Pillow writes no such file in colour."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n"
    return start + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colour_of_sixteen_bits_is_said_too(tmp_path, colour_type, channels):
    values = np.arange(4 * 4 * channels, dtype=np.uint16).reshape(4, 4, channels) * 257
    (tmp_path / "a.png").write_bytes(png_of_sixteen_bits(colour_type, values))
    with pytest.warns(UserWarning, match="16 bits a channel"):
        images = load_image_folder(tmp_path).images
    assert torch.equal(images[0, -1], torch.from_numpy((values[..., -1] // 257).astype(np.uint8)))


def test_values_of_more_than_sixteen_bits_are_refused(tmp_path, refused):
    for array, words in ((np.array([[65536, 3]], np.int32), "3 to 65,536"), (np.ones((2, 2), np.float32), "floating")):
        Image.fromarray(array).save(tmp_path / "a.tif")
        with refused(tmp_path / "a.tif", words, "8 or 16 bits"):
            load_image_folder(tmp_path)


def test_channels_are_said_with_the_file_that_decides(tmp_path):
    for name, mode in (("a.png", "L"), ("b.png", "RGB"), ("c.png", "RGBA"), ("d.png", "L")):
        save(tmp_path / name, mode=mode)
    with pytest.warns(UserWarning, match=r"4 channels for c.png has them, 3 .*--channels"):
        assert load_image_folder(tmp_path).channels == 4
    with pytest.warns(UserWarning, match=r"1 images .c.png. alpha is put over white; --background"):
        load_image_folder(tmp_path, channels=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image_folder(tmp_path, channels=3, background="black")


def test_a_first_frame_is_said(tmp_path):
    frames = [Image.fromarray(RNG.integers(0, 256, (4, 4), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(UserWarning, match="1 files of several frames .a.gif."):
        assert len(load_image_folder(tmp_path)) == 1


def test_what_is_left_out_is_said(tmp_path):
    save(tmp_path / "a.png")
    for name in ("b.txt", "c.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"text")
    with pytest.warns(UserWarning, match=r"3 of its entries .* 1 hidden .*; 2 no image .*b.txt, \.\.\."):
        load_image_folder(tmp_path)


@pytest.mark.parametrize("name", ["a.JFIF", "a.jpe", "a.avif", "a.jpg", "photo", "photo.jpg_large", "photo.dat"])
def test_images_by_name_or_content(tmp_path, name):
    if "avif" in name and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    save(tmp_path / name, format="AVIF" if "avif" in name else "JPEG")
    assert len(load_image_folder(tmp_path)) == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "AVIF"])
def test_content_decides_where_the_name_lies(tmp_path, kind):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    for name in ("a.txt", "b.bmp"):
        save(tmp_path / name, format=kind)
    assert len(load_image_folder(tmp_path)) == 2


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
