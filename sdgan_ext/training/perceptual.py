"""The perceptual loss of a training: feature nets that are not trained, and what is read from a file of LPIPS."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from .._errors import CheckpointError, ConfigError, nearest
from .._files import read_bytes, user_path
from ..evaluation.features import NETS, FeatureNet, load_net
from ..losses import perceptual_distance
from ..models.discriminator import MinibatchStdDev
from ..models.weights import check_weights
from .config import TrainConfig
from .networks import BATCH_NORMS

__all__ = ["PerceptualLoss", "load_perceptual", "perceptual_of"]

_MOST_BYTES = 2**28  # of a file; VGG16 has 59 MB
_LEAST = {"photos": 8, "lenet": 10, "vgg16": 16}  # pixels a side that leave one pixel of the last map
_VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels and convolutions between the poolings


class PerceptualLoss(nn.Module):
    """Images to :func:`~sdgan_ext.losses.perceptual_distance` of their feature maps, ``perceptual(x_hat, x)``: [N].

    Differentiable by both images. The net is a fixed function: its parameters are frozen, and it is in evaluation mode
    whatever ``train()`` is called with. It is no part of a model, so no checkpoint and no optimizer holds it.

    Args:
        net: images [N, channels, H, W] in [-1, 1] to a sequence of feature maps [N, C_l, H_l, W_l], each image's its
            own affair; frozen in place.
        weights: of each map's channels, [C_l], at least 0; None: 1.
        channels: that ``net`` takes; grey images are repeated to as many.
        least_side: pixels that an image must have a side.
        source: what ``TrainConfig.perceptual_net`` calls it; a file by its full path.
        sha256: of the file of its weights.

    Raises:
        ConfigError: ``net`` mixes the images of a batch, or a weight is below 0 or NaN.
    """

    def __init__(
        self,
        net: nn.Module,
        weights: Sequence[Tensor] | None = None,
        *,
        channels: int = 3,
        least_side: int = 1,
        source: str = "net",
        sha256: str | None = None,
    ):
        super().__init__()
        for name, module in net.named_modules():
            if isinstance(module, MinibatchStdDev) or (isinstance(module, BATCH_NORMS) and module.running_mean is None):
                raise ConfigError(
                    f"the perceptual net's {name or 'module'}, a {type(module).__name__}, mixes the images of a batch; "
                    "each image must have features of its own"
                )
        for layer, weight in enumerate(weights or ()):
            if not (weight >= 0).all():
                raise ConfigError(
                    f"weights of layer {layer} of the perceptual net {source!r} hold {weight.min().item():g}; the "
                    "least is 0"
                )
        self.net = net.requires_grad_(False)
        self.weights = (
            None
            if weights is None
            else nn.ParameterList(nn.Parameter(weight.detach().clone(), requires_grad=False) for weight in weights)
        )
        self.channels, self.least_side, self.source, self.sha256 = channels, least_side, source, sha256
        self.eval()

    def train(self, mode: bool = True) -> PerceptualLoss:
        """Evaluation mode, whatever ``mode`` is."""
        return super().train(False)

    def check_images(self, shape: Sequence[int]) -> None:
        """That the net takes images of ``shape``, (channels, height, width).

        Raises:
            ConfigError: it does not.
        """
        channels, *size = shape
        if channels not in (1, self.channels):
            takes = f"1 or {self.channels}" if self.channels > 1 else "1"
            raise ConfigError(f"images have {channels} channels; the perceptual net {self.source!r} takes {takes}")
        if min(size) < self.least_side:
            raise ConfigError(
                f"images are {'x'.join(map(str, size))}; the perceptual net {self.source!r} takes images of "
                f"{self.least_side} pixels a side or more"
            )

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """The distance of each pair of images, [N, C, H, W] in [-1, 1]: [N]."""
        self.check_images(x_hat.shape[1:])
        maps = [self.net(images.expand(-1, self.channels, -1, -1)) for images in (x_hat, x)]
        return perceptual_distance(*maps, self.weights)


def perceptual_of(config: TrainConfig, image_shape: Sequence[int]) -> PerceptualLoss | None:
    """What ``config`` asks for, for images of ``image_shape``; None where its ``perceptual_weight`` is 0.

    Raises:
        ConfigError, CheckpointError: as of :func:`load_perceptual`, or the net does not take such images.
    """
    if not config.perceptual_weight:
        return None
    perceptual = load_perceptual(config.perceptual_net)
    perceptual.check_images(image_shape)
    return perceptual


def load_perceptual(net: str | Path = "photos") -> PerceptualLoss:
    """A perceptual loss by a net that the package ships, or by one in a file.

    Args:
        net: ``"photos"`` or ``"lenet"``: the activations after each ReLU of that net's convolutions, all weights 1,
            which is no LPIPS; or a file, ``.safetensors`` or of ``torch.save``, with the state dict of
            ``lpips.LPIPS(net="vgg")``: then it is LPIPS. Nothing is downloaded.

    Raises:
        ConfigError: there is neither a net nor a file of that name, or a weight in it is below 0.
        CheckpointError: the file cannot be read or holds something else.
    """
    if net in NETS:
        shipped = load_net(net)
        given = {"channels": shipped.channels, "least_side": _LEAST[net], "source": net}
        return PerceptualLoss(_Maps(shipped), **given, sha256=NETS[net].sha256)
    path = user_path(net)
    if not path.exists():
        raise ConfigError(
            f"perceptual_net is {str(net)!r}, and there is no such file{nearest(str(net), NETS)}; allowed are "
            f"{', '.join(NETS)}, or a file"
        )
    weights, sha256 = _read(path)
    with torch.device("meta"):
        vgg = _VGG16Maps()
    try:
        # The package has the same weights a second time under "lins".
        weights = check_weights(vgg, {name: w for name, w in weights.items() if not name.startswith("lins.")}, path)
    except CheckpointError as error:
        raise CheckpointError(
            f"perceptual_net must be a file of the state dict of lpips.LPIPS(net='vgg'), but {error}"
        ) from error
    vgg.load_state_dict({name: weight.float() for name, weight in weights.items()}, assign=True)
    of_channels = [weights[f"lin{layer}.model.1.weight"].float().flatten() for layer in range(len(_VGG16))]
    given = {"least_side": _LEAST["vgg16"], "source": str(path.resolve()), "sha256": sha256}
    return PerceptualLoss(vgg, of_channels, **given)


def _read(path: Path) -> tuple[Mapping[str, Tensor], str]:
    """The tensors in a file, and its SHA-256."""
    try:
        content = read_bytes(path, _MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"cannot read perceptual_net {path}: {error.strerror or error}") from error
    try:
        if path.suffix == ".safetensors":
            weights = safetensors.torch.load(content)
        else:
            weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # the unpickler raises anything of bytes that make no sense to it
        weights = None
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise CheckpointError(f"perceptual_net {path} is neither safetensors nor a state dict of torch.save")
    return weights, hashlib.sha256(content).hexdigest()


class _Maps(nn.Module):
    """The activations after each ReLU of a shipped net, as far as they are maps."""

    def __init__(self, net: FeatureNet):
        super().__init__()
        ends = (nn.Flatten, nn.AdaptiveAvgPool2d)
        layers = list(itertools.takewhile(lambda layer: not isinstance(layer, ends), net.body))
        while not isinstance(layers[-1], nn.ReLU):
            layers.pop()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                maps.append(x)
        return maps


class _VGG16Maps(nn.Module):
    """VGG16 (Simonyan & Zisserman 2015) up to the last ReLU of each of its five levels, as LPIPS takes it.

    The names are those of the state dict of ``lpips.LPIPS(net="vgg")``, which has the weights of the channels, too.
    """

    def __init__(self):
        super().__init__()
        self.scaling_layer = nn.Module()
        self.scaling_layer.register_buffer("shift", torch.empty(1, 3, 1, 1))
        self.scaling_layer.register_buffer("scale", torch.empty(1, 3, 1, 1))
        self.net = nn.Module()
        index, into = 0, 3
        for level, (channels, convolutions) in enumerate(_VGG16):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if level else []
            for _ in range(convolutions):
                layers += [nn.Conv2d(into, channels, 3, padding=1), nn.ReLU()]
                into = channels
            part = nn.Sequential()
            for layer in layers:
                part.add_module(str(index), layer)
                index += 1
            self.net.add_module(f"slice{level + 1}", part)
            lin = nn.Module()
            lin.model = nn.Sequential(nn.Dropout(), nn.Conv2d(channels, 1, 1, bias=False))
            self.add_module(f"lin{level}", lin)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = (x - self.scaling_layer.shift) / self.scaling_layer.scale
        maps = []
        for part in self.net.children():
            x = part(x)
            maps.append(x)
        return maps
