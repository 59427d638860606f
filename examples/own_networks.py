"""Your own networks under sdgan_ext's Trainer: a VAE-GAN of three plain modules, on MNIST or rendered digits.

    python examples/own_networks.py --data mnist --steps 2000
    python examples/own_networks.py --resume runs/00000-vaegan-mnist --steps 4000

The modules know nothing of sdgan_ext. The Trainer gives them its step (each network learns from its own loss alone),
an average of the weights, checkpoints that resume bit-exactly, pictures and numbers on the way.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import sdgan_ext as sd

Z = 32


class Encoder(nn.Module):
    """[N, 1, 28, 28] -> mean and logvar of z, [N, Z] each."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1),
            nn.SiLU(),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
        )
        self.mean = nn.Linear(32 * 7 * 7, Z)
        self.logvar = nn.Linear(32 * 7 * 7, Z)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        return self.mean(features), self.logvar(features)


class Generator(nn.Sequential):
    """[N, Z] -> [N, 1, 28, 28] in [-1, 1]."""

    def __init__(self):
        super().__init__(
            nn.Linear(Z, 32 * 7 * 7),
            nn.Unflatten(1, (32, 7, 7)),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
            nn.Tanh(),
        )


class Discriminator(nn.Module):
    """[N, 1, 28, 28] -> logits [N, 1]; with ``return_features`` also what ``feature_weight`` compares."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 4, 2, 1)
        self.second = nn.Conv2d(16, 32, 4, 2, 1)
        self.logit = nn.Linear(32 * 7 * 7, 1)

    def forward(self, x: Tensor, return_features: bool = False):
        one = nn.functional.leaky_relu(self.first(x), 0.2)
        two = nn.functional.leaky_relu(self.second(one), 0.2)
        logits = self.logit(two.flatten(1))
        return (logits, (one, two)) if return_features else logits


def make_model() -> sd.Networks:
    return sd.Networks(encoder=Encoder(), generator=Generator(), discriminator=Discriminator(), image_shape=(1, 28, 28))


def main(arguments: list[str] | None = None) -> str:
    """Trains, and returns the run's folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="mnist, digits, or a folder of IDX files or images")
    parser.add_argument("--steps", type=int, default=2000, help="steps in all")
    parser.add_argument("--out", default="runs", help="the folder that holds run folders")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run")
    parser.add_argument("--batch-size", type=int, default=64)
    given = parser.parse_args(arguments)

    torch.set_flush_denormal(True)  # numbers below 1e-38 are slow on a CPU, and no loss depends on them
    torch.manual_seed(0)
    model = make_model()
    if given.resume:
        trainer = sd.Trainer.resume(given.resume, model=model, steps=given.steps)
    else:
        config = sd.TrainConfig(
            steps=given.steps, batch_size=given.batch_size, feature_weight=1.0, pixel_weight=0.5, r1_gamma=0.1
        )
        trainer = sd.Trainer(model, config, out=given.out)
    run = trainer.fit(given.data)

    averaged = make_model().load_weights(run.model)
    print(
        f"pictures: {run.samples}; {len(averaged.sample(16, seed=0))} more images by load_weights({str(run.model)!r})"
    )
    return str(run.folder)


if __name__ == "__main__":
    main()
