"""Files that are made to take all memory or time, or to end in a traceback: one sentence, before much is read."""

import gzip
import io
import json
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from sdgan_ext.data import fit_images, load_array_file, load_image_folder, read_idx, sources

GREY = np.zeros((2, 4, 4), np.uint8)


def npy(shape, dtype="|u1", values=b""):
    """A file in NumPy's format whose header says ``shape``."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}}}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + values


def idx(*shape, code=8, values=b""):
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape) + values


HEADERS = {
    "rank 100": ("(" + "1," * 100 + ")", "|u1", "[1, 1, 1, 1, 1, 1, ...]"),
    "2^70": ("(1180591620717411303424, 4, 4)", "|u1", "damaged"),
    "2^70 of nothing": ("(0, 1180591620717411303424, 4)", "|u1", "damaged"),
    "negative": ("(-4, 4, -4)", "|u1", "shape"),
    "objects": ("(2, 4, 4)", "|O", "pickled"),
    "no numbers": ("(2, 5, 5)", "|V3", "uint8"),
    "a dtype of dtypes": ("(2, 4, 4)", "('u1', (2,) * 40)", "damaged"),
    "not a tuple": ("7", "|u1", "damaged"),
    "brackets": ("(" * 60, "|u1", "damaged"),
}


@pytest.mark.parametrize("packed", [False, True], ids=["npy", "npz"])
@pytest.mark.parametrize(("shape", "dtype", "words"), HEADERS.values(), ids=HEADERS)
def test_headers(tmp_path, shape, dtype, words, packed, refused):
    contents = npy(shape, dtype, bytes(200))
    path = tmp_path / ("a.npz" if packed else "a.npy")
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", contents)
    else:
        path.write_bytes(contents)
    with refused(path.name, words):
        load_array_file(path)


@pytest.mark.parametrize("member", [b"", b"no magic, but a text that is long enough", npy("(2, 4, 4)", values=b"few")])
def test_members(tmp_path, member, refused):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images.npy", member)
    with refused(tmp_path / "a.npz", "images.npy", "damaged"):
        load_array_file(tmp_path / "a.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_methods_that_numpy_does_not_write(tmp_path, method, refused):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", method) as archive:
        archive.writestr("images.npy", npy("(2, 4, 4)", values=bytes(32)))
    with refused("a.npz", "compressed by a method"):
        load_array_file(tmp_path / "a.npz")


@pytest.mark.parametrize("rank", [33, 100, 255])
def test_an_idx_file_of_high_rank(tmp_path, rank, refused):
    (tmp_path / "a").write_bytes(idx(*[1] * rank, values=b"1"))
    with refused(tmp_path / "a", f"rank {rank}", "up to 32"):
        read_idx(tmp_path / "a")


def test_an_idx_file_of_no_array(tmp_path, refused):
    (tmp_path / "a").write_bytes(idx(*[2**32 - 1] * 3, 0))
    with refused(tmp_path / "a", "damaged"):
        read_idx(tmp_path / "a")


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(sources, "available_memory", lambda: 1_000_000)


def sparse(path, contents, size):
    path.write_bytes(contents)
    with path.open("r+b") as file:
        file.truncate(len(contents) + size)


def test_a_header_beyond_the_memory(tmp_path, little_memory, refused):
    size = 4_000_000
    sparse(tmp_path / "a.npy", npy("(4000, 100, 10)"), size)
    sparse(tmp_path / "a", idx(4000, 100, 10), size)
    (tmp_path / "a.gz").write_bytes(gzip.compress(idx(4000, 100, 10) + bytes(size)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", npy("(4000, 100, 10)", values=bytes(size)))
    for name, read in (("a.npy", load_array_file), ("a.npz", load_array_file), ("a", read_idx), ("a.gz", read_idx)):
        with refused(name, "0.0 GB", "available"):
            read(tmp_path / name)


def test_images_beyond_the_memory(tmp_path, little_memory, refused):
    for name in "abc":
        Image.new("RGB", (500, 400)).save(tmp_path / f"{name}.png")
    with refused(tmp_path, "3 images of 500x400", "available"):
        load_image_folder(tmp_path)
    assert len(load_image_folder(tmp_path, 64)) == 3


def test_a_size_beyond_the_memory(little_memory, refused):
    with refused("2 images of 5000x1000", "available"):
        fit_images(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), (1000, 5000))


def test_available_memory_is_what_this_machine_has():
    assert 1e6 < sources.available_memory() < 1e15


def test_more_pixels_than_pillow_allows(tmp_path, refused, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (10, 10)).save(tmp_path / "a.png")
    assert len(load_image_folder(tmp_path)) == 1
    for side in (11, 20):  # Pillow warns of the one and refuses the other
        Image.new("L", (side, side)).save(tmp_path / "b.png")
        with refused(tmp_path / "b.png", "more pixels", "100", "MAX_IMAGE_PIXELS"):
            load_image_folder(tmp_path, 4)


BOUNDED = """
import json, resource, sys
from sdgan_ext._errors import DataError
from sdgan_ext.data import open_dataset

status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = int(status["VmSize"].split()[0]) * 1024 + (400 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    open_dataset(sys.argv[1], cache="memory")
    said = ""
except DataError as error:
    said = str(error)
print(json.dumps([said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]))
"""


def in_bounded_memory(path):
    """The sentence that ``path`` is refused with by a process that may take 400 MB more."""
    done = subprocess.run([sys.executable, "-c", BOUNDED, path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "gzip", "honest gzip", "photos"])
def test_a_process_that_may_take_little_memory(tmp_path, kind):
    count, size = 2**19, 2**29
    path = tmp_path / f"a.{kind}"
    if kind == "npy":
        sparse(path, npy(f"({count}, 32, 32)"), size)
    elif kind == "npz":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
            member.write(npy(f"({count}, 32, 32)"))
            for _ in range(size >> 24):
                member.write(bytes(1 << 24))
    elif kind == "photos":
        path.mkdir()
        for name in "abcde":
            Image.new("RGB", (4000, 4000)).save(path / f"{name}.png")
    else:
        (tmp_path / "raw").mkdir()
        path = tmp_path / "raw"
        header = idx(2 if kind == "gzip" else count, 32, 32)
        if kind == "idx":
            sparse(path / "train-images-idx3-ubyte", header, size)
        else:
            with gzip.open(path / "train-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
                file.write(header)
                for _ in range(size >> 24):
                    file.write(bytes(1 << 24))
    said = in_bounded_memory(path)
    assert ("damaged" if kind == "gzip" else "available") in said, said


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pillow_adds_no_line_of_its_own(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.tif")
    samples_per_pixel = struct.pack("<HHIH", 277, 3, 1, 3)
    contents = (tmp_path / "a.tif").read_bytes()
    assert samples_per_pixel in contents
    (tmp_path / "a.tif").write_bytes(contents.replace(samples_per_pixel, struct.pack("<HHIH", 277, 3, 1, 32771)))
    assert "cannot read the image" in in_bounded_memory(tmp_path)


def test_a_long_list_of_members(tmp_path, refused):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")
    (tmp_path / "a.npz").write_bytes(buffer.getvalue())
    with refused("a.npz", "0, 1, 2", "..."):
        load_array_file(tmp_path / "a.npz")
