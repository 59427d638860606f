"""Small feature nets that the package ships, pinned by hash, so that no metric needs a download.

``lenet`` takes grey 28x28 digits, ``photos`` colour 64x64 pictures; docs/evaluation.md says what their features mean
and ``benchmarks/train_feature_nets.py`` made them. They are stock torch layers: a mistake in this package's kernels
cannot hide in its own measure.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .._errors import CheckpointError, EvaluationError, nearest
from .._files import read_bytes
from ..data.images import fit_images
from ..data.values import to_float
from ._images import as_bytes, check_images, check_whole

__all__ = ["NETS", "FeatureNet", "LeNet", "NetName", "NetOutput", "PhotoNet", "apply_net", "choose_net", "load_net"]

NetName = Literal["lenet", "photos"]

_FOLDER = Path(__file__).parent / "nets"
_MOST_BYTES = 2**22  # of a net's file


class FeatureNet(nn.Module):
    """Images to features and class logits.

    Attributes:
        name: what metrics are named after, as in ``lenet-fd``.
        classes: names of the classes.
        channels, side: the images it takes, [N, channels, side, side] in [-1, 1].
        num_features: length of a feature vector.
    """

    name: str
    channels: int
    side: int
    num_features: int

    def __init__(self, classes: tuple[str, ...]):
        super().__init__()
        self.classes = classes
        self.body = self._make_body()
        self.head = nn.Linear(self.num_features, len(classes))

    def _make_body(self) -> nn.Module:
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(features [N, num_features], logits [N, classes])."""
        features = self.body(x)
        return features, self.head(features)


class LeNet(FeatureNet):
    """LeCun et al. 1998 with max pooling, ReLU and wider convolutions; features: the last hidden layer, after ReLU."""

    name, channels, side, num_features = "lenet", 1, 28, 84

    def _make_body(self) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
            *(nn.Linear(800, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
        )


class PhotoNet(FeatureNet):
    """Four 3x3 convolutions with batch norm; features: the mean of the last one's activations over the image."""

    name, channels, side, num_features = "photos", 3, 64, 64

    def _make_body(self) -> nn.Module:
        layers: list[nn.Module] = []
        into = 3
        for out, stride in ((16, 2), (32, 2), (64, 2), (64, 1)):
            layers += [nn.Conv2d(into, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            into = out
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class _Shipped(NamedTuple):
    build: type[FeatureNet]
    sha256: str


NETS: dict[NetName, _Shipped] = {
    "lenet": _Shipped(LeNet, "0cf78ef6b1775cff6fc6cc41d50f6575dab94ec66e95e69491ebac04f7c67d58"),
    "photos": _Shipped(PhotoNet, "1561cf775709922ce45b46d3c7458f0bf07bc32f191f01f3e00d77832d321709"),
}


def load_net(name: NetName, path: str | Path | None = None) -> FeatureNet:
    """The shipped net called ``name``, in evaluation mode and without gradients.

    Args:
        name: ``"lenet"`` or ``"photos"``.
        path: another copy of its file; it must have the same hash.

    Raises:
        EvaluationError: there is no net of that name.
        CheckpointError: its file is missing, or its SHA-256 is not the pinned one: numbers from another net are not
            comparable with anybody's.
    """
    if name not in NETS:
        raise EvaluationError(f"there is no feature net {name!r}{nearest(name, NETS)}; there are {', '.join(NETS)}")
    shipped = NETS[name]
    path = _FOLDER / f"{name}.safetensors" if path is None else Path(path)
    try:
        content = read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot read the feature net {path}: {error.strerror or error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != shipped.sha256:
        raise CheckpointError(
            f"{path} has SHA-256 {found}, the feature net {name!r} has {shipped.sha256}: "
            "the file is damaged or another net; reinstall sdgan_ext"
        )
    net = shipped.build(tuple(facts(content)["classes"].split(",")))
    net.load_state_dict(safetensors.torch.load(content))
    return net.eval().requires_grad_(False)


def facts(content: bytes) -> dict[str, str]:
    """The notes in a net's file: command, data, test accuracy, class names, torch's version."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    said: dict[str, str] = json.loads(header["__metadata__"]["facts"])
    return said


def choose_net(channels: int, image_size: Sequence[int]) -> NetName:
    """``"lenet"`` for grey images of at most 32 pixels a side, else ``"photos"``."""
    return "lenet" if channels == 1 and max(image_size) <= 32 else "photos"


def fit(images: Tensor, net: FeatureNet, name: str = "images") -> Tensor:
    """uint8 images as ``net`` takes them: centre-cropped to a square, resized (bicubic, antialiased), grey by ITU-R 601
    luma or grey repeated, alpha over white (:func:`sdgan_ext.data.fit_images`).

    Raises:
        EvaluationError: a side is below half of the net's: its answers would be about the resizing.
    """
    check_images(images, name)
    if min(images.shape[2:]) * 2 < net.side:
        height, width = images.shape[2:]
        raise EvaluationError(
            f"{name} are {height}x{width}; the feature net {net.name!r} has {net.side}x{net.side} inputs and takes "
            f"images of {-(-net.side // 2)} pixels a side or more"
        )
    return fit_images(as_bytes(images), net.side, net.channels)


class NetOutput(NamedTuple):
    """What a net computes of N images, on the CPU.

    Attributes:
        features: float64 [N, num_features].
        probabilities: of the classes, float32 [N, classes].
    """

    features: Tensor
    probabilities: Tensor


@torch.no_grad()
def apply_net(net: FeatureNet, images: Tensor, *, name: str = "images", batch_size: int = 500) -> NetOutput:
    """Features and class probabilities of images.

    Args:
        net: as from :func:`load_net`.
        images: [N, C, H, W], uint8 or floats in [-1, 1], which are rounded to bytes; fitted as in :func:`fit`.

    Raises:
        EvaluationError: not images, NaN, out of range, too small.
    """
    check_whole(batch_size, "batch_size", 1)
    check_images(images, name)
    parts = [net(to_float(fit(part, net, name).cpu())) for part in torch.split(images, batch_size)]
    features, logits = zip(*parts, strict=True)
    return NetOutput(torch.cat(features).double(), torch.cat(logits).softmax(1))
