"""The discriminator's and the generator's loss with their gradients, against the same formulas in stock torch."""

import torch
import torch.nn.functional as F
from _harness import Case, entry_points

from sdgan_ext import ops

STOCK = {
    "non_saturating": lambda real, fake: F.softplus(-real).mean() + F.softplus(fake).mean(),
    "hinge": lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
    "relativistic": lambda real, fake: F.softplus(fake - real).mean(),
}


def discriminator(n, objective):
    def build():
        logits = tuple(torch.randn(n, 1, requires_grad=True) for _ in range(2))
        ours = lambda real, fake: ops.discriminator_loss(real, fake, objective)  # noqa: E731
        return {"eager": (STOCK[objective], logits), "sdgan_ext": (ours, logits)}

    return Case("discriminator_loss", f"{n}x1 {objective}", build)


def generator(n):
    def build():
        logits = (torch.randn(n, 1, requires_grad=True),)
        return {"eager": (lambda fake: F.softplus(-fake).mean(), logits), "sdgan_ext": (ops.generator_loss, logits)}

    return Case("generator_loss", f"{n}x1 non_saturating", build)


CASES = [discriminator(n, objective) for objective in STOCK for n in (64, 1024, 2**22)]
CASES += [generator(n) for n in (64, 2**22)]

test_speed, main = entry_points("bench_adversarial_loss", CASES)

if __name__ == "__main__":
    main()
