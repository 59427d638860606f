"""What a metric's number is, in a few words."""

from __future__ import annotations

import re

__all__ = ["UNITS", "unit_of"]

UNITS = {
    "neg_elbo": "nats, lower is better",
    "reconstruction": "nats, E_q[-log p(x|z)]",
    "kl": "nats, KL(q(z|x) || N(0, I))",
    "binarised_neg_elbo": "nats, lower is better",
    "binarised_nll": "nats, IWAE-{k}, lower is better",
    "binarised_nll_se": "nats, its standard error",
    "mse": "pixels in [0, 1], 0 at best",
    "psnr": "dB, higher is better",
    "ssim": "1 at best",
    "rfd": "images and their reconstructions, 0 at best, at equal n alone",
    "latent_mean": "of the latents, z ~ q(z|x)",
    "latent_std": "their standard deviation",
    "latent_kl": "nats a dimension, KL(q(z|x) || N(0, I))",
    "latent_active": "share of dimensions in use, 1 at best",
    "scaling_factor": "1 / latent_std",
    "config_scaling_factor": "what the configuration has for it",
    "fd": "0 at best, at equal n alone",
    "kid": "0 at best, +- the next over subsets",
    "kid_std": "",
    "precision": "samples near real images, 1 at best",
    "recall": "real images near samples, 1 at best",
    "density": "about 1 for real images",
    "coverage": "1 at best",
    "top_probability": "the net's confidence",
    "class_entropy": "nats",
    "rarest_class": "least share of a class",
    "class_balance": "total variation from real images' classes, 0 at best",
    "agreement": "reconstructions that keep the class the net saw",
    "label_agreement": "reconstructions that keep their label",
    "asked_agreement": "samples that have the class that was asked for",
    "cas": "trained on samples, tested on real images",
    "cas_reverse": "trained on real images, tested on samples",
    "cas_real": "trained and tested on real images",
    "inception-fid": "0 at best, at equal n alone",
    "inception-rfid": "images and their reconstructions, 0 at best, at equal n alone",
}


def unit_of(name: str, k: int) -> str:
    """
    Args:
        name: as :func:`~sdgan_ext.evaluation.evaluate` gives it.
        k: draws of the importance-weighted bound.

    Returns:
        The unit and which way is better, "" for a name that is not known.
    """
    channel = re.fullmatch(r"(latent_[a-z]+)_\d+", name)
    kind = channel[1] if channel else re.sub(r"^(lenet|photos)-|_by_(lenet|photos)$", "", name)
    unit = UNITS.get(name) or UNITS.get(kind.removeprefix("sampled_"), "")
    return unit.format(k=k)
