"""Scenes of one to three digits with captions, endless; see :class:`DigitScenes`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdgan_ext._errors import DataError, nearest, printable, shown
from sdgan_ext.data._seeds import hashed, uniforms
from sdgan_ext.data.captions import as_items
from sdgan_ext.data.scenes.compose import ATTRIBUTES, DRAWS, Composition, Plan, Spot, compose
from sdgan_ext.data.scenes.grammar import LANGUAGES
from sdgan_ext.data.scenes.pool import SPLITS, DigitPool
from sdgan_ext.data.scenes.scene import COLOURS, GROUNDS, Scene
from sdgan_ext.data.values import to_float

__all__ = ["DigitScenes"]

_CHUNK = 128
_INK = 32  # from this grey level on a pixel belongs to the digit
_OVERSAMPLING = 2
_FIRST = {split: number << 40 for number, split in enumerate(SPLITS)}  # of the endless sequence of scenes


class DigitScenes(Dataset[tuple[Tensor, int | str]]):
    """Coloured digits on a ground, each image with a caption such as "a small red seven left of a blue three".

    Scene i follows from (seed, split, i) alone, whatever the length and whatever was drawn before it. In a batch a
    caption travels as its number: ``captions[number]`` is its text.

    Digits of a scene have different colours. One or two are small or large; three are small, in a row or a column. Two
    stand in a relation or each at its place. A caption says digits and colours, the relation or the places, and of the
    ``attributes`` size and ground in every other scene; :func:`sdgan_ext.data.scenes.parse` gives back what it says.

    Args:
        seed: any integer.
        length: images in an epoch, at least 1; any index >= 0 can be drawn.
        image_size: the side of the square image, 16 to 512.
        objects: the numbers of digits that there may be, of 1 to 3.
        languages: of the captions, "en" and "zh".
        attributes: what varies and is said, of "size", "place" and "ground". Without them digits are large, grounds are
            black, and two digits stand in a relation.
        split: "train", "judge", "test" or "unseen". The first three share no scene; "train", "judge" and the others
            share no image of a digit. "unseen" has a (colour, digit) of :func:`held_out_pairs` in each scene, "train"
            and "test" none, "judge" any: for classifiers that judge generated images.
        digits: a folder of MNIST's IDX files; None: rendered digits.

    Raises:
        DataError: a value out of these ranges, or a folder without digits.
    """

    channels = 3
    num_classes = None

    def __init__(
        self,
        seed: int = 0,
        length: int = 60_000,
        image_size: int = 32,
        *,
        objects: Sequence[int] = (1, 2),
        languages: Sequence[str] = ("en",),
        attributes: Sequence[str] = ATTRIBUTES,
        split: str = "train",
        digits: str | Path | None = None,
    ):
        if length < 1:
            raise DataError(f"digits-scenes: length must be at least 1, {length} came")
        if not 16 <= image_size <= 512:
            raise DataError(f"digits-scenes: size must be from 16 to 512, {image_size} came")
        _check("objects", objects, (1, 2, 3))
        _check("languages", languages, tuple(LANGUAGES))
        _check("attributes", attributes, ATTRIBUTES, least=0)
        _check("split", (split,), SPLITS)
        self.seed, self.length, self._side = int(seed), int(length), int(image_size)
        # In one order, so that the same choice is the same scenes.
        self.plan = Plan(
            tuple(sorted(set(objects))),
            tuple(language for language in LANGUAGES if language in languages),
            tuple(attribute for attribute in ATTRIBUTES if attribute in attributes),
            split,
        )
        self.name = self._name(digits)
        self._pool = DigitPool(digits, split, self.seed)
        self._seed = hashed("scenes", self.seed)
        self.captions = SceneCaptions(self)

    def _name(self, digits: str | Path | None) -> str:
        """With what is not as by default: a run on other scenes is not resumed on these."""
        usual = Plan((1, 2), ("en",), ATTRIBUTES, "train")._asdict() | {"split": self.plan.split}
        chosen = {key: value for key, value in self.plan._asdict().items() if value != usual[key]}
        words = [f"{key}={'+'.join(map(str, value)) or 'none'}" for key, value in chosen.items()]
        words += [] if digits is None else [f"digits={printable(Path(digits).resolve().name)}"]
        return " ".join(["digits-scenes", *words])

    @property
    def image_size(self) -> tuple[int, int]:
        return self._side, self._side

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, int | str]:
        """(float32 [3, H, W] in [-1, 1], caption)."""
        # Python stops iterating over a sequence at its first IndexError: an endless one has to end somewhere.
        if index >= self.length:
            raise IndexError(f"index {index} is beyond the epoch of {self.length:,} scenes, batch() draws it too")
        return self.__getitems__([index + self.length if index < 0 else index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int | str]]:
        """The items of ``indices`` in one go: what torch's DataLoader asks for when it can."""
        return as_items(*self.batch(torch.as_tensor(indices, dtype=torch.int64)), self.captions)

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """int64 [B], each >= 0 -> (float32 [B, 3, H, W] in [-1, 1], the numbers of their captions, int64 [B])."""
        indices = torch.as_tensor(indices, dtype=torch.int64)
        images = torch.empty(len(indices), 3, self._side, self._side, dtype=torch.uint8)
        for part, target in zip(torch.split(indices, _CHUNK), torch.split(images, _CHUNK), strict=True):
            target.copy_(torch.from_numpy(self._draw(self._compose(part.numpy()))))
        return to_float(images), indices.clone()

    def scene(self, index: int) -> Scene:
        """All that image ``index`` shows; what its caption says of it is ``parse(captions[index])``."""
        return self._compose(np.array([index]))[0].scene

    def spots(self, index: int) -> tuple[Spot, ...]:
        """Where the objects of ``scene(index)`` are."""
        return self._compose(np.array([index]))[0].spots

    def _compose(self, indices: np.ndarray) -> list[Composition]:
        if len(indices) and indices.min() < 0:
            raise IndexError(f"scenes have indices from 0 up, {indices.min()} came")
        places = indices.astype(np.uint64) + np.uint64(_FIRST[self.plan.split])
        return [compose(numbers, self.plan) for numbers in uniforms(self._seed, places, DRAWS).T.tolist()]

    def _draw(self, compositions: Sequence[Composition]) -> np.ndarray:
        """uint8 [B, 3, H, W]."""
        grounds = [GROUNDS[composition.scene.ground or "black"] for composition in compositions]
        images = np.array(grounds, np.float32)[:, :, None, None].repeat(self._side, 2).repeat(self._side, 3)
        for k in range(max(self.plan.objects)):
            rows = [row for row, composition in enumerate(compositions) if len(composition.spots) > k]
            objects = [compositions[row].scene.objects[k] for row in rows]
            spots = np.array([compositions[row].spots[k] for row in rows])
            if rows:
                numbers = self._pool.numbers(np.array([thing.digit for thing in objects]), spots[:, 3])
                ink = _scaled(self._pool.images(numbers), spots[:, :3].astype(np.float32), self._side)
                colours = np.array([COLOURS[thing.colour] for thing in objects], np.float32)[:, :, None, None]
                images[rows] += ink[:, None] * (colours - images[rows])
        drawn: np.ndarray = (images + 0.5).astype(np.uint8)
        return drawn

    def __repr__(self) -> str:
        plan = ", ".join(f"{name}={value!r}" for name, value in self.plan._asdict().items())
        return f"DigitScenes(seed={self.seed}, length={self.length:,}, image_size={self._side}, {plan})"


class SceneCaptions:
    """The captions by their numbers, made when they are asked for; an epoch's to iterate over."""

    def __init__(self, scenes: DigitScenes):
        self._scenes = scenes

    def __len__(self) -> int:
        return self._scenes.length

    def __iter__(self) -> Iterator[str]:
        for numbers in torch.split(torch.arange(len(self)), _CHUNK):
            yield from (composition.caption for composition in self._scenes._compose(numbers.numpy()))

    def __getitem__(self, number: int) -> str:
        return self._scenes._compose(np.array([number]))[0].caption


def _check(name: str, values: Sequence[Any], allowed: Sequence[Any], least: int = 1) -> None:
    wrong = [value for value in values if value not in allowed]
    if wrong or len(values) < least:
        came = f"has {shown(wrong[0])}" if wrong else "is empty"
        fix = nearest(str(wrong[0]), map(str, allowed)) if wrong else ""
        raise DataError(f"digits-scenes: {name} {came}, {', '.join(map(str, allowed))} are allowed{fix}")


def _scaled(images: np.ndarray, spots: np.ndarray, side: int) -> np.ndarray:
    """The digits at their places.

    Args:
        images: uint8 [M, G, G].
        spots: float32 [M, 3]: x, y and longer side of the digit's bounding box, in units of the image's side.

    Returns:
        float32 [M, side, side] in [0, 1]: bilinear, at twice the resolution, averaged.
    """
    count, size = images.shape[:2]
    padded = np.zeros((count, size + 2, size + 2), np.float32)
    padded[:, 1:-1, 1:-1] = images / np.float32(255)
    (left, right), (top, bottom) = (_extent(padded.max(axis) >= _INK / 255) for axis in (1, 2))
    work = side * _OVERSAMPLING
    axis = ((np.arange(work, dtype=np.float32) + np.float32(0.5)) / np.float32(work))[None]
    scale = (np.maximum(right - left, bottom - top) / spots[:, 2])[:, None]
    x = np.clip((axis - spots[:, :1]) * scale + ((left + right) / 2 - 0.5)[:, None], 0, size + 0.999)
    y = np.clip((axis - spots[:, 1:2]) * scale + ((top + bottom) / 2 - 0.5)[:, None], 0, size + 0.999)
    x0, y0 = x.astype(np.int32), y.astype(np.int32)
    x, y = (x - x0)[:, None, :], (y - y0)[:, :, None]
    corner = (np.arange(count, dtype=np.int32) * (size + 2) ** 2)[:, None, None]
    corner = corner + y0[:, :, None] * (size + 2) + x0[:, None, :]
    flat = padded.reshape(-1)
    upper = flat[corner] + (flat[corner + 1] - flat[corner]) * x
    corner += size + 2
    lower = flat[corner] + (flat[corner + 1] - flat[corner]) * x
    fine = upper + (lower - upper) * y
    ink: np.ndarray = fine.reshape(count, side, _OVERSAMPLING, side, _OVERSAMPLING).mean((2, 4))
    return np.minimum(ink * np.float32(1.3), 1)  # averaging takes the peak off the strokes of a small digit


def _extent(inked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """bool [M, G] -> float32 [M] where ink begins, and where it ends."""
    begin, end = inked.argmax(1), inked.shape[1] - inked[:, ::-1].argmax(1)
    return begin.astype(np.float32), end.astype(np.float32)
