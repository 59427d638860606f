"""The same images as a folder, archives, shards and a dataset of Hugging Face, for the tests of lazy reading."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from sdgan_ext.data import find_images
from sdgan_ext.data.pack import pack

KINDS = ("folder", "zip", "stored zip", "tar", "shards", "hugging")
COUNT = 13


def write_folder(folder: Path, count: int = COUNT, classes: int = 2, size=(10, 12)) -> Path:
    """JPEG and PNG images that grow in height, in class folders."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"class {number % classes}" / f"{number:02d}.{'jpg' if number % 3 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = size[0] + number % 4, size[1]
        Image.fromarray(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return folder


def images_of(folder: Path) -> list[Path]:
    """In the order in which they are read."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def as_kind(kind: str, folder: Path):
    """What to give to ``open_dataset`` for the images in ``folder``."""
    place = folder.with_name(f"{folder.name} as {kind}")
    files = images_of(folder)
    if kind == "folder":
        return folder
    if "zip" in kind:
        method = zipfile.ZIP_STORED if kind == "stored zip" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(f"{place}.zip", "w", method) as archive:
            for file in reversed(files):
                archive.write(file, f"photos/{file.relative_to(folder)}")
        return Path(f"{place}.zip")
    if kind == "tar":
        with tarfile.open(f"{place}.tar", "w") as archive:
            archive.add(folder, "photos")
        return Path(f"{place}.tar")
    if kind == "shards":
        pack(find_images(folder).index, place, "photos", images_per_shard=5)
        return place
    return Hugging([{"image": {"bytes": file.read_bytes()}, "label": int(file.parent.name[-1])} for file in files])


class Image_:  # noqa: N801
    def __init__(self, decode=True):
        self.decode = decode


Image_.__name__ = "Image"


class ClassLabel:
    num_classes = 2


class Hugging:
    """As much of ``datasets.Dataset`` as is used: rows are decoded unless the column was cast."""

    def __init__(self, rows, feature=None):
        self.rows, self.features = rows, {"image": feature or Image_(), "label": ClassLabel()}
        self.column_names, self.format, self.info = list(self.features), {"type": None}, None

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self.rows]
        row = dict(self.rows[key])
        if self.features["image"].decode:
            row["image"] = Image.open(io.BytesIO(row["image"]["bytes"]))
        return row

    def with_format(self, kind):
        return self

    def select_columns(self, columns):
        return self

    def cast_column(self, column, feature):
        return Hugging(self.rows, feature)
