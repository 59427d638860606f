"""pythae's VAEGAN mistake as a training: the decoder takes D's loss as its own, and helps D instead of fooling it.

    python benchmarks/_wrong_sign.py train --preset mnist-vae-gan --data FOLDER --out runs/wrong-sign

takes what `sdgan-ext` takes and does what it does, but in `train` G's adversarial terms are D's own loss of the same
logits: the other sign. Networks, phases, data, noise and every other term are the right step's, so that the difference
to the same `sdgan-ext train` is that of the sign. A run folder does not name the sign: keep them apart by --out.
"""

import contextlib
import sys
from unittest import mock

import torch

from sdgan_ext import cli, losses


@contextlib.contextmanager
def wrong_sign():
    """What is trained inside is trained with the wrong sign, also by a resume."""
    with mock.patch.object(losses, "generator_loss", _discriminators_loss):
        yield


def _discriminators_loss(fake_logits, real_logits=None, objective="non_saturating", *, reduction="mean"):
    """D's loss in the place of G's. Without pairs its half of real logits, zeros here, is a constant."""
    if real_logits is None:
        real_logits = torch.zeros_like(fake_logits)
    return losses.discriminator_loss(real_logits, fake_logits, objective, reduction=reduction)


if __name__ == "__main__":
    with wrong_sign():
        sys.exit(cli.main())
