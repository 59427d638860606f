"""Accelerating a pretrained model: load a checkpoint of stock PyTorch layers, accelerate it, compare.

    python examples/accelerate_pretrained.py
    python examples/accelerate_pretrained.py --model autoencoder-kl --checkpoint path/to/vae

``unet`` is a U-Net of pix2pix's kind (Isola et al. 2017) in stock layers. Where its checkpoint does not exist yet, it
is first trained for ``--steps`` steps to remove noise from rendered digits. ``autoencoder-kl`` is the decoder of
diffusers' AutoencoderKL (diffusers must be installed); without ``--checkpoint`` it has random weights, which changes no
time. Prints what was replaced, the speed-ups, and how far the outputs differ from stock's.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import sdgan_ext as sd


class UNet(nn.Module):
    """Grey images [N, 1, H, W] to images of the same shape; H and W are multiples of 8."""

    def __init__(self, width: int = 32):
        super().__init__()
        self.down1 = nn.Conv2d(1, width, 4, 2, 1)
        self.down2 = self._down(width, 2 * width)
        self.down3 = self._down(2 * width, 4 * width)
        self.up3 = self._up(4 * width, 2 * width)
        self.up2 = self._up(4 * width, width)
        self.up1 = nn.Sequential(nn.ConvTranspose2d(2 * width, 1, 4, 2, 1), nn.Tanh())

    @staticmethod
    def _down(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.LeakyReLU(0.2), nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs)
        )

    @staticmethod
    def _up(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        half = self.down1(x)
        quarter = self.down2(half)
        y = self.up3(self.down3(quarter))
        y = self.up2(torch.cat([y, quarter], 1))
        return self.up1(torch.cat([y, half], 1))


def pretrain(model: UNet, steps: int, image_size: int) -> None:
    """Teaches the model, in stock PyTorch, to remove noise from digits."""
    adam = torch.optim.Adam(model.parameters(), lr=2e-3)
    batches = sd.data.batches(sd.data.open_dataset("digits", image_size=image_size), 32, seed=0)
    for _ in range(steps):
        clean, _ = next(batches)
        loss = (model(clean + 0.5 * torch.randn_like(clean)) - clean).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()


def pretrained_unet(checkpoint: Path | None, steps: int, image_size: int) -> tuple[nn.Module, Tensor]:
    """The model of the checkpoint, made first where it does not exist, and noisy digits [4, 1, H, W] for it."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = checkpoint or Path(folder, "unet.pt")
        if not checkpoint.exists():
            trained = UNet()
            pretrain(trained, steps, image_size)
            torch.save(trained.state_dict(), checkpoint)
        model = UNet()
        model.load_state_dict(torch.load(checkpoint, weights_only=True))
    digits = sd.data.open_dataset("digits", split="test", image_size=image_size)
    clean, _ = next(sd.data.batches(digits, 4, seed=1))
    return model, clean + 0.5 * torch.randn_like(clean)


def pretrained_decoder(checkpoint: Path | None, image_size: int) -> tuple[nn.Module, Tensor]:
    """The decoder of diffusers' AutoencoderKL and latents [1, 4, image_size / 8, image_size / 8] for it."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        sys.exit(f"--model autoencoder-kl needs diffusers ({error}); run `pip install diffusers` or choose unet")
    if checkpoint is not None:
        model = AutoencoderKL.from_pretrained(checkpoint)
    else:  # Stable Diffusion's sizes
        model = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
        )
    side = image_size // 8
    return model.decoder, torch.randn(1, model.config.latent_channels, side, side)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="unet", choices=("unet", "autoencoder-kl"))
    parser.add_argument("--checkpoint", type=Path, help="a state dict of the U-Net, or a folder of AutoencoderKL")
    parser.add_argument("--steps", type=int, default=100, help="to train a U-Net that has no checkpoint yet")
    parser.add_argument("--image-size", type=int, default=64, help="a multiple of 8")
    arguments = parser.parse_args()
    if arguments.image_size < 8 or arguments.image_size % 8:
        parser.error(f"--image-size is {arguments.image_size}; it must be a multiple of 8")

    torch.manual_seed(0)
    if arguments.model == "unet":
        model, x = pretrained_unet(arguments.checkpoint, arguments.steps, arguments.image_size)
    else:
        model, x = pretrained_decoder(arguments.checkpoint, arguments.image_size)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.requires_grad_(False).eval().to(device, memory_format=torch.channels_last)
    x = x.to(device, memory_format=torch.channels_last)

    with torch.no_grad():
        stock = model(x)
    names = list(model.state_dict())
    report = sd.accelerate(model, x)  # in place, measured at the shape of x; keeps what is faster
    with torch.no_grad():
        ours = model(x)

    print(report)
    print(f"largest difference: {(ours - stock).abs().max():.1e}, of outputs up to {stock.abs().max():.2f}")
    print(f"the state dict has the same names: {list(model.state_dict()) == names}")
    sd.restore(model)
    with torch.no_grad():
        print(f"restored, the outputs are stock's bit for bit: {torch.equal(model(x), stock)}")


if __name__ == "__main__":
    main()
