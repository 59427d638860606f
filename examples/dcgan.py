"""DCGAN (Radford et al. 2016) on sdgan_ext's layers and losses, with a plain PyTorch loop.

    python examples/dcgan.py --data digits --steps 1000
    python examples/dcgan.py --data path/to/images --image-size 64

The layers are torch's with an activation fused in, so the networks read as in PyTorch's tutorial. Writes a grid of 64
generated images, ``dcgan.png`` unless ``--out`` names another file.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import sdgan_ext as sd
from sdgan_ext import ops
from sdgan_ext.pictures import image_grid, save_png

LATENT_DIM = 64


def make_generator(image_size: int, channels: int, width: int) -> nn.Sequential:
    """Latent vectors [N, LATENT_DIM, 1, 1] to images [N, channels, image_size, image_size] in [-1, 1]."""
    features = width * image_size // 8
    layers = [
        sd.nn.ConvTranspose2d(LATENT_DIM, features, 4, bias=False),
        sd.nn.BatchNorm2d(features, activation="relu"),
    ]
    while features > width:
        layers += [
            sd.nn.ConvTranspose2d(features, features // 2, 4, 2, 1, bias=False),
            sd.nn.BatchNorm2d(features // 2, activation="relu"),
        ]
        features //= 2
    return nn.Sequential(*layers, sd.nn.ConvTranspose2d(width, channels, 4, 2, 1, activation="tanh"))


def make_discriminator(image_size: int, channels: int, width: int) -> nn.Sequential:
    """Images [N, channels, image_size, image_size] to logits [N]."""
    layers = [sd.nn.Conv2d(channels, width, 4, 2, 1, activation="leaky_relu")]
    features = width
    while features < width * image_size // 8:
        layers += [
            sd.nn.Conv2d(features, 2 * features, 4, 2, 1, bias=False),
            sd.nn.BatchNorm2d(2 * features, activation="leaky_relu"),
        ]
        features *= 2
    return nn.Sequential(*layers, sd.nn.Conv2d(features, 1, 4), nn.Flatten(0))


def initialise(module: nn.Module) -> None:
    """The paper's weights: N(0, 0.02), around 1 for the scales of batch norm."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="digits, mnist, a folder of images or an .npz file")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int, default=32, choices=(16, 32, 64, 128))
    parser.add_argument("--width", type=int, default=32, help="channels of the layer next to the image")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("dcgan.png"))
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    torch.set_flush_denormal(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = sd.data.open_dataset(arguments.data, image_size=arguments.image_size)
    batches = sd.data.batches(dataset, arguments.batch_size, seed=arguments.seed)
    channels = next(batches)[0].shape[1]

    layout = {"device": device, "memory_format": torch.channels_last}
    generator = make_generator(arguments.image_size, channels, arguments.width).apply(initialise).to(**layout)
    discriminator = make_discriminator(arguments.image_size, channels, arguments.width).apply(initialise).to(**layout)
    generator_adam = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)
    discriminator_adam = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999), fused=True)

    for step in range(1, arguments.steps + 1):
        real = next(batches)[0].to(**layout)
        fake = generator(torch.randn(len(real), LATENT_DIM, 1, 1, device=device))

        discriminator_loss = ops.discriminator_loss(discriminator(real), discriminator(fake.detach()))
        discriminator_adam.zero_grad()
        discriminator_loss.backward()
        discriminator_adam.step()

        # This backward pass leaves gradients in the discriminator as well; zero_grad above drops them.
        generator_loss = ops.generator_loss(discriminator(fake))
        generator_adam.zero_grad()
        generator_loss.backward()
        generator_adam.step()

        if step % 100 == 0 or step == arguments.steps:
            print(f"step {step}: discriminator {discriminator_loss.item():.3f}, generator {generator_loss.item():.3f}")

    generator.eval()
    with torch.no_grad():
        images = generator(torch.randn(64, LATENT_DIM, 1, 1, device=device))
    save_png(arguments.out, image_grid(images, columns=8))
    print(f"64 generated images: {arguments.out}")


if __name__ == "__main__":
    main()
