"""What the scalars of log.jsonl are, in a few words for somebody who sees them for the first time."""

from __future__ import annotations

__all__ = ["GROUPS", "WORDS"]

#: The sections of curves: a title and the beginning of the names in it.
GROUPS = (
    ("On held-out images", "evaluation/"),
    ("Losses, encoder and generator", "encoder_generator/"),
    ("Losses, discriminator", "discriminator/"),
    ("Health", "health/"),
)

WORDS = {
    "encoder_generator/kl": "nats from the prior an image; 0: the code says nothing",
    "encoder_generator/reconstruction": "what the reconstructions miss, weighted",
    "encoder_generator/pixel": "distance of the pixels",
    "encoder_generator/perceptual": "distance of a fixed net's features, an image",
    "encoder_generator/feature": "distance of the discriminator's features",
    "encoder_generator/adversarial_reconstructed": "the adversarial loss of reconstructions",
    "encoder_generator/adversarial_generated": "the adversarial loss of samples",
    "discriminator/adversarial": "lower: it separates real from generated images",
    "discriminator/total": "the adversarial loss and the penalties",
    "discriminator/real": "mean logit of real images",
    "discriminator/fake": "mean logit of generated images",
    "discriminator/r1": "penalty on its gradient at real images",
    "discriminator/r2": "penalty on its gradient at generated images",
    "discriminator/gradient_penalty": "of WGAN-GP",
    "health/accuracy_real": "share of real images that D is right about",
    "health/accuracy_fake": "share of generated images that D is right about",
    "health/logit_margin": "logits of real images above generated ones; large: D wins",
    "health/active_units": "numbers of the code that depend on the image",
    "health/kl_largest": "nats of the fullest number of the code",
    "health/kl_smallest": "nats of the emptiest number of the code",
    "health/diversity": "how far samples lie apart; 1: as real images",
    "health/gradient_encoder": "norm of its gradient",
    "health/gradient_generator": "norm of its gradient",
    "health/gradient_discriminator": "norm of its gradient",
    "s_per_kimg": "seconds for 1,000 images",
}
