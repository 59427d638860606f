"""Images in NumPy's .npz and .npy files."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from sdgan_ext._errors import DataError
from sdgan_ext.data.images import CHANNELS, ImageDataset

__all__ = ["load_array_file"]

_LAYOUTS = ("NHW", "NHWC", "NCHW")
# All that NumPy and zipfile raise on damage; MemoryError where a damaged header promises more than the machine has.
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zlib.error, zipfile.BadZipFile)


def load_array_file(path: str | Path, split: str = "train", *, layout: str | None = None) -> ImageDataset:
    """The images, and labels if any, of a .npz or .npy file.

    Keys: a .npy, and a .npz with one array, need none. Otherwise the images are ``images`` or ``x``, the labels
    ``labels`` or ``y``; a file of several splits has ``x_train``, ``train_images`` and so on, test alike.

    Layout: three dimensions are [N, H, W]; four are [N, H, W, C] or [N, C, H, W], by where a 1, 3 or 4 stands.
    Where that leaves a doubt the file is refused, unless ``layout`` ("NHW", "NHWC", "NCHW") settles it.

    Values: uint8 as they are. Floats lie in [0, 1], or in [-1, 1] when any is negative; others are refused.

    Raises:
        DataError: a missing or damaged file, pickled objects, unknown keys, a layout or range in doubt, NaN.
    """
    path = Path(path)
    if layout not in (None, *_LAYOUTS):
        raise DataError(f"layout must be one of {', '.join(_LAYOUTS)} or None, {layout!r} came")
    if split not in ("train", "test"):
        raise DataError(f"split must be 'train' or 'test', {split!r} came")
    images, labels = _read(path, split)
    images = _to_nchw(images, layout, path)
    return ImageDataset(images, labels, value_range=_value_range(images, path), name=path.name)


def _read(path: Path, split: str) -> tuple[np.ndarray, np.ndarray | None]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            if split != "train":
                raise DataError(f"{path} holds one array and so no {split} split, use split='train'")
            return loaded, None
        with loaded:
            image_key, label_key = _keys(loaded.files, split, path)
            return loaded[image_key], None if label_key is None else loaded[label_key]
    except DataError:
        raise
    except _UNREADABLE as error:
        if "Object arrays" in str(error):
            raise DataError(f"{path} holds pickled Python objects, only plain numeric arrays are read") from None
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"cannot read {path}: {error.strerror}") from None
        raise DataError(f"{path} is not a readable .npz or .npy file, it is damaged or of another format") from None


def _keys(keys: list[str], split: str, path: Path) -> tuple[str, str | None]:
    """The keys of the images and of the labels."""
    shared = split == "train"
    image_keys = [f"x_{split}", f"{split}_images", f"images_{split}"] + ["images", "x"] * shared
    label_keys = [f"y_{split}", f"{split}_labels", f"labels_{split}"] + ["labels", "y"] * shared
    image_key = next((key for key in image_keys if key in keys), None)
    label_key = next((key for key in label_keys if key in keys), None)
    if image_key is None and shared and len(keys) == 1:
        return keys[0], None
    if image_key is None:
        listed = [*keys[:8], *(["..."] if len(keys) > 8 else [])]
        found = ", ".join(listed) or "no array"
        raise DataError(f"{path} holds {found}, the {split} images must be one of the keys {', '.join(image_keys)}")
    return image_key, label_key


def _to_nchw(images: np.ndarray, layout: str | None, path: Path) -> np.ndarray:
    shape = list(images.shape)
    if images.ndim not in (3, 4):
        raise DataError(f"{path}: images of shape {shape} came, allowed are [N, H, W], [N, H, W, C] and [N, C, H, W]")
    if layout is None:
        layout = _infer_layout(shape, path)
    elif len(layout) != images.ndim:
        raise DataError(f"{path}: images of shape {shape} came, layout={layout!r} needs {len(layout)} dimensions")
    if layout == "NHW":
        return images[:, None]
    return images.transpose(0, 3, 1, 2) if layout == "NHWC" else images


def _infer_layout(shape: list[int], path: Path) -> str:
    last = shape[-1] in CHANNELS
    if len(shape) == 3:
        if last:
            raise DataError(
                f"{path}: images of shape {shape} could be one image [H, W, C] or [N, H, W], "
                "save it as [N, H, W, C] or [N, C, H, W]"
            )
        return "NHW"
    second = shape[1] in CHANNELS
    if second and last:
        raise DataError(
            f"{path}: images of shape {shape} could be [N, C, H, W] or [N, H, W, C], "
            "give layout='NCHW' or layout='NHWC' to load_array_file"
        )
    if not second and not last:
        raise DataError(f"{path}: images of shape {shape} have no dimension of 1, 3 or 4 channels, second or last")
    return "NCHW" if second else "NHWC"


def _value_range(images: np.ndarray, path: Path) -> tuple[float, float] | None:
    if images.dtype.kind != "f" or images.size == 0:
        return None
    least, most = float(images.min()), float(images.max())
    if not (np.isfinite(least) and np.isfinite(most)):
        bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(axis=1))[0]
        raise DataError(f"{path}: image {bad} holds NaN or infinity, every pixel must be finite")
    if least < -1 or most > 1:
        raise DataError(
            f"{path}: {images.dtype} images from {least:g} to {most:g} came, floats must lie in [0, 1] or [-1, 1], "
            "or save them as uint8 in [0, 255]"
        )
    return (-1.0, 1.0) if least < 0 else (0.0, 1.0)
