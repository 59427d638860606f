"""What a training step must know of a model's networks, beside calling them."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["Traits"]

_MOST_NUMBERS = 2**26  # of an activation, where a batch is as large as the memory allows: 256 MiB


class Traits(NamedTuple):
    """The shapes a model works on, and what its layers allow.

    Attributes:
        image_shape: (channels, height, width) of an image.
        latent_shape: of the z of one image: (Z,), or (channels, height, width) where z is a map.
        classes: that the networks are conditioned on; 0: none.
        memory_format: of image batches, the one that the layers compute in.
        learned_variance: whether the generator has a trained scalar ``log_scale``, see ``losses.pixel_nll``.
        unbounded_images: whether images may leave [-1, 1], there being no tanh behind the generator.
        scale_only_prior: whether samples are decoded from noise of the latents' scale, which shows no images.
        largest_activation: numbers in the largest activation that an image has on its way; 0: not known.
        generator_mixes_images: whether an image depends on the others of its batch, as with batch norm: all latents of
            a step then go through the generator as one batch.
        discriminator_mixes_images: likewise of a logit: real and generated images then go through the discriminator as
            batches of their own.
        discriminator_batch_norm: whether it does so by batch norm, which rules penalties on its gradient out.
        discriminator_group: images that the discriminator compares with each other, which must divide a batch; 0: none.
        discriminator_unbounded: whether its layers are known to leave its gradient unbounded.
    """

    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, ...]
    classes: int = 0
    memory_format: torch.memory_format = torch.contiguous_format
    learned_variance: bool = False
    unbounded_images: bool = False
    scale_only_prior: bool = False
    largest_activation: int = 0
    generator_mixes_images: bool = False
    discriminator_mixes_images: bool = False
    discriminator_batch_norm: bool = False
    discriminator_group: int = 0
    discriminator_unbounded: bool = False

    def images_at_a_time(self, most: int) -> int:
        """``most`` images, or fewer, such that no activation of a batch is above 256 MiB in float32; 1 at least."""
        return max(1, min(most, _MOST_NUMBERS // max(1, self.largest_activation)))
