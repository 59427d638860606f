"""What do mistakes in latent diffusion cost? Trains the right way and each mistake from one seed and compares.

    python benchmarks/correctness_diffusion.py [--steps 600] [--out FILE]

Where the answer is known: latents of one number, two overlapping classes, each image's posterior a normal distribution,
so that the latents of a class are N(+-3, 2^2). A network of 5,000 weights learns their flow in seconds. Prints a table
and writes benchmarks/results/correctness_diffusion.csv. The right way is sdgan_ext.diffusion; the tests of that package
have the numbers that catch each mistake.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from _harness import conditions, write_rows

from sdgan_ext import diffusion

RESULTS = Path(__file__).parent / "results" / "correctness_diffusion.csv"
CENTRE, MEANS_STD, POSTERIOR_STD = 3.0, 1.2, 1.6  # of class 1; of the posterior means around it; of each posterior
CLASS_STD = math.hypot(MEANS_STD, POSTERIOR_STD)
NULL = torch.tensor(2)
SAMPLES = 4000  # of each class
PATH = diffusion.Flow()


@dataclass(frozen=True)
class Recipe:
    """A way to train and sample, right by its defaults; every other value is a mistake.

    Attributes:
        name: of the row.
        scaled: the latents are normalised for the network in training.
        unscaled: what it makes is put back for the decoder, as every pipeline does.
        reversed_time: the network is given the timestep of 1 - t in training.
        condition_dropout: 0: the null class is never trained.
        swapped: guidance leads from the condition to none.
        posterior_noise: the cache keeps the posteriors' variance, and z is drawn anew; else it keeps their means.
    """

    name: str
    scaled: bool = True
    unscaled: bool = True
    reversed_time: bool = False
    condition_dropout: float = 0.1
    swapped: bool = False
    posterior_noise: bool = True


RIGHT = Recipe("right")
MISTAKES = (
    Recipe("latents not scaled in training", scaled=False),
    Recipe("latents never scaled", scaled=False, unscaled=False),
    Recipe("t reversed", reversed_time=True),
    Recipe("null class never trained", condition_dropout=0.0),
    Recipe("guidance with the wrong sign", swapped=True),
    Recipe("posterior noise lost in the cache", posterior_noise=False),
)


class Denoiser(torch.nn.Module):
    """x_t [N, 1], timesteps [N] and labels [N] (2: none) to a velocity [N, 1]."""

    def __init__(self, width: int = 64):
        super().__init__()
        self.embedding = torch.nn.Embedding(3, width)
        self.first = torch.nn.Linear(4, width)
        self.rest = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Linear(width, width), torch.nn.SiLU(),
                                        torch.nn.Linear(width, 1))  # fmt: skip

    def forward(self, x_t, timesteps, condition):
        t = timesteps[:, None] / 1000
        features = torch.cat([x_t, t, torch.cos(math.pi * t), torch.cos(2 * math.pi * t)], 1)
        return self.rest(self.first(features) + self.embedding(condition))


def posteriors(n, generator):
    """``(mean [n, 1], logvar [n, 1], labels [n])`` as an encoder would give them."""
    labels = torch.randint(2, (n,), generator=generator)
    mean = CENTRE * (2.0 * labels - 1) + MEANS_STD * torch.randn(n, generator=generator)
    return mean[:, None], torch.full((n, 1), 2 * math.log(POSTERIOR_STD)), labels


#: Of the posteriors above: the variance of their means, and theirs.
SCALING = diffusion.LatentScaling(1 / math.hypot(CENTRE, CLASS_STD))


def latents(n, recipe, generator):
    """What the network is trained on, [n, 1], and the labels [n]."""
    mean, logvar, labels = posteriors(n, generator)
    z = mean
    if recipe.posterior_noise:
        z = diffusion.sample_posterior(mean, logvar, torch.randn(n, 1, generator=generator))
    return SCALING.normalize(z) if recipe.scaled else z, labels


def train(recipe, steps=600, batch=256, seed=0):
    torch.manual_seed(seed)
    network, generator = Denoiser(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def called(x_t, timesteps, condition):
        return network(x_t, 1000 - timesteps if recipe.reversed_time else timesteps, condition)

    for _ in range(steps):
        x_0, labels = latents(batch, recipe, generator)
        draws = diffusion.draw(
            x_0.shape, distribution="uniform", condition_dropout=recipe.condition_dropout, generator=generator
        )
        optimizer.zero_grad()
        diffusion.diffusion_loss(called, PATH, x_0, labels, draws=draws, null=NULL).loss.backward()
        optimizer.step()
        rate.step()
    return network


def distance(samples, quantiles):
    """Wasserstein-1, in units of the latents' standard deviation."""
    return SCALING.scale * (samples.flatten().sort().values - quantiles).abs().mean().item()


def judge(network, recipe):
    """Samples of each class, of the null class and with guidance, against what the latents are."""
    labels = torch.arange(2).repeat_interleave(SAMPLES)
    noise = torch.randn(len(labels), 1, generator=torch.Generator().manual_seed(1))
    x_0, _ = latents(len(labels), recipe, torch.Generator().manual_seed(2))
    normal = torch.special.ndtri((torch.arange(SAMPLES) + 0.5) / SAMPLES) * CLASS_STD
    mixture = torch.cat([normal - CENTRE, normal + CENTRE]).sort().values

    def made(condition, **guidance):
        x = diffusion.sample(network.eval(), PATH, noise, condition, steps=12, solver="heun", **guidance)
        return SCALING.denormalize(x) if recipe.unscaled else x

    none = NULL.expand(len(labels))
    condition, away = (none, labels) if recipe.swapped else (labels, none)
    guided = made(condition, guidance=3.0, negative=away)
    of_class, of_none = made(labels), made(none)
    return {
        "latent_std": x_0.std().item(),
        "distance": sum(distance(of_class[labels == k], normal + CENTRE * (2 * k - 1)) for k in (0, 1)) / 2,
        "class_std": torch.stack([of_class[labels == k].std() for k in (0, 1)]).mean().item() / CLASS_STD,
        "agreement": agreement(of_class, labels),
        "agreement_guided": agreement(guided, labels),
        "distance_null": distance(of_none, mixture),
    }


def agreement(samples, labels):
    return ((samples.flatten() > 0) == (labels == 1)).float().mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for recipe in (RIGHT, *MISTAKES):
        rows.append({"recipe": recipe.name, **judge(train(recipe, args.steps), recipe)})
        cells = (f"{name} {value:.3f}" for name, value in rows[-1].items() if name != "recipe")
        print(f"{recipe.name:36}", *cells, sep="  ", flush=True)
    write_rows(args.out, [{**row, **conditions()} for row in rows])


if __name__ == "__main__":
    main()
