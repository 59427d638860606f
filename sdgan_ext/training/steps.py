"""The training step of a GAN, a VAE and a VAE-GAN, phase by phase. The reasons are in docs/training.md.

A step makes its images once (:func:`forward`). :func:`discriminator_phase` works on them detached from their graph;
:func:`encoder_generator_phase` goes on with the graph, which still holds because phase D changes nothing in E and G.
Each phase *sets* the gradients of the networks it trains and touches those of no other. :func:`train_step` is all of
it.

Here are the public names; each part has a file of its own.
"""

from .autoencoder_phase import encoder_generator_phase
from .discriminator_phase import discriminator_phase
from .forward import Images, forward
from .gradients import clip_gradients, frozen
from .noise import Noise, draw_noise, noise_of_rows
from .schedule import Kind, forwards_of, kind_of, kl_weight_at
from .step import precision, prepare_step, take_step, train_step
from .terms import check_finite

__all__ = [
    "Images",
    "Kind",
    "Noise",
    "check_finite",
    "clip_gradients",
    "discriminator_phase",
    "draw_noise",
    "encoder_generator_phase",
    "forward",
    "forwards_of",
    "frozen",
    "kind_of",
    "kl_weight_at",
    "noise_of_rows",
    "precision",
    "prepare_step",
    "take_step",
    "train_step",
]
