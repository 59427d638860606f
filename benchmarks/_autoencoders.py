"""The networks of bench_autoencoder.py, diffusers' classes in published sizes, and what each is asked for.

Random weights unless a folder has others: the time does not depend on them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

_BLOCKS = {"down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"]}


def _kl(*widths: int) -> dict:
    """AutoencoderKL's arguments; Rombach et al. 2022 have two residual blocks a level and four latent channels."""
    blocks = {name: kinds * len(widths) for name, kinds in _BLOCKS.items()}
    return blocks | {"block_out_channels": list(widths), "layers_per_block": 2, "latent_channels": 4}


class Task(nn.Module):
    """A network and a call of it: of images or latents, or of a training's loss where ``trains``.

    ``sizes`` gives the shapes of the inputs, each of standard normal numbers, from the number of images, their pixels a
    side and the network.
    """

    trains = False
    image = False  # what comes out is an image in [-1, 1]

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def sizes(self, batch: int, pixels: int) -> list[tuple[int, ...]]:
        raise NotImplementedError

    def inputs(self, batch: int, pixels: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(1)
        return tuple(torch.randn(size, generator=generator) for size in self.sizes(batch, pixels))

    @property
    def reduction(self) -> int:
        """Pixels of an image for one of the latents, along a side."""
        config = self.network.config
        widths = config.get("block_out_channels") or config["decoder_block_out_channels"]
        return 2 ** (len(widths) - 1)

    def latents(self, batch: int, pixels: int) -> tuple[int, ...]:
        if pixels % self.reduction:
            raise ValueError(f"--pixels is {pixels}, must divide by {self.reduction} for this network")
        return batch, self.network.config["latent_channels"], pixels // self.reduction, pixels // self.reduction


class Decode(Task):
    image = True

    def sizes(self, batch, pixels):
        return [self.latents(batch, pixels)]

    def forward(self, z):
        return self.network.decode(z, return_dict=False)[0]


class Encode(Task):
    """Mean and log-variance of the latents."""

    def sizes(self, batch, pixels):
        self.latents(batch, pixels)
        return [(batch, 3, pixels, pixels)]

    def forward(self, x):
        return self.network.encode(x, return_dict=False)[0].parameters


class TrainDecoder(Task):
    """The decoder alone, on latents that are given: what leaves every diffusion model of these latents valid."""

    trains = True

    def __init__(self, network):
        super().__init__(network)
        network.encoder.requires_grad_(False)
        network.quant_conv.requires_grad_(False)

    def sizes(self, batch, pixels):
        return [self.latents(batch, pixels), (batch, 3, pixels, pixels)]

    def forward(self, z, x):
        return (self.network.decode(z, return_dict=False)[0] - x).square().mean()


class TrainAutoencoder(Task):
    """Squared error and KL, without a discriminator; the noise is given, so that all draw the same."""

    trains = True

    def sizes(self, batch, pixels):
        return [(batch, 3, pixels, pixels), self.latents(batch, pixels)]

    def forward(self, x, eps):
        posterior = self.network.encode(x, return_dict=False)[0]
        x_hat = self.network.decode(posterior.mean + posterior.std * eps, return_dict=False)[0]
        return (x_hat - x).square().mean() + 1e-6 * posterior.kl().mean()


class TrainUNet(Task):
    """The squared error of a prediction; ``pixels`` are those of the latents."""

    trains = True

    def sizes(self, batch, pixels):
        return [(batch, self.network.config["in_channels"], pixels, pixels)] * 2

    def forward(self, x, target):
        steps = torch.arange(len(x)) * 1000 // len(x)
        return (self.network(x, steps, return_dict=False)[0] - target).square().mean()


@dataclass(frozen=True)
class Model:
    """``kind`` is diffusers' class, ``config`` its arguments; ``pixels`` and ``batches`` are measured unless others are
    asked for, with ``left_out`` not among the contestants."""

    kind: str
    config: dict
    task: type[Task]
    pixels: tuple[int, ...]
    batches: tuple[int, ...] = (1,)
    by_default: bool = True
    left_out: dict[int, tuple[str, ...]] = field(default_factory=dict)  # by pixels: what takes minutes

    @property
    def passes(self) -> str:
        return "step" if self.task.trains else "forward"

    def build(self, weights: Path | None) -> Task:
        """The same random weights every time, or those of the folder, and the folder's config."""
        import diffusers

        kind = getattr(diffusers, self.kind)
        torch.manual_seed(0)
        network = kind.from_pretrained(weights, local_files_only=True) if weights else kind(**self.config)
        return self.task(network.train(self.task.trains))


_SD = _kl(128, 256, 512, 512)
_TRAINED = _kl(64, 128, 256)
_UNET = {
    "sample_size": 16, "in_channels": 4, "out_channels": 4, "block_out_channels": (64, 128),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
_SLOW = ("eager", "compile", "ncnn")
#: SDXL's autoencoder has the layers of Stable Diffusion 1.x and 2.x, so its time as well.
MODELS = {
    "sd15-decoder": Model("AutoencoderKL", _SD, Decode, (256, 512), left_out={512: _SLOW}),
    "taesd-decoder": Model("AutoencoderTiny", {}, Decode, (512,)),
    "kl-step": Model("AutoencoderKL", _TRAINED, TrainAutoencoder, (128,), (2,), left_out={128: ("compile",)}),
    "unet-step": Model("UNet2DModel", _UNET, TrainUNet, (16,), (8, 64), left_out={16: ("compile",)}),
    "sd15-encoder": Model("AutoencoderKL", _SD, Encode, (256,), by_default=False),
    "kl-decoder-step": Model("AutoencoderKL", _TRAINED, TrainDecoder, (128,), (2,), by_default=False),
}


def kind_in(folder: Path) -> str:
    """The class that a folder of diffusers' holds.

    Raises:
        ValueError: none can be read, or its weights are missing.
    """
    path = folder / "config.json"
    try:
        kind = json.loads(path.read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        wanted = "the folder that save_pretrained wrote, of a pipeline its folder 'vae'"
        raise ValueError(f"--weights: {folder} has no config.json of a diffusers model, give {wanted}") from None
    if not any(folder.glob("diffusion_pytorch_model*")):
        raise ValueError(f"--weights: {folder} has a config.json and no diffusion_pytorch_model file beside it")
    return kind
