"""Named configurations of a model and of its training.

They stand above both: ``models`` and ``training`` do not import this file.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, overload

from ._errors import ConfigError, nearest
from .diffusion.model_config import LatentDiffusionConfig
from .models import VAEGANConfig
from .training.autoencoder_config import AutoencoderConfig
from .training.config import TrainConfig
from .training.diffusion_config import DiffusionTrainConfig

__all__ = ["DIFFUSION_PRESETS", "OWN_SIZE", "PRESETS", "DiffusionPreset", "Preset", "preset"]


class Preset(NamedTuple):
    """A model and how to train it."""

    model: VAEGANConfig | AutoencoderConfig
    train: TrainConfig


class DiffusionPreset(NamedTuple):
    """A latent diffusion model and how to train it.

    Attributes:
        autoencoder: the preset of the autoencoder that is trained first where none is given.
    """

    model: LatentDiffusionConfig
    train: DiffusionTrainConfig
    autoencoder: str


#: Of the autoencoders of latent diffusion.
_KL = TrainConfig(
    steps=6_000,
    batch_size=16,
    lr_encoder=5e-4,
    lr_generator=5e-4,
    lr_discriminator=2e-4,
    betas=(0.5, 0.9),
    lr_warmup_steps=200,
    lr_hold_steps=4_000,
    lr_cosine_steps=2_000,
    lr_final=0.1,
    objective="hinge",
    prior_images=False,
    disc_start=4_000,
    disc_warmup=500,
    adaptive_weight=0.1,
    kl_weight=1e-6,
    pixel_loss="l1",
)

PRESETS = {
    # The founding document's layer sizes in Keras's geometry: dense 128 * 7 * 7, two 5x5 transposed convolutions of
    # 128, a 5x5 convolution; a discriminator of two 5x5 convolutions of 128, and an encoder that mirrors it.
    "seed": Preset(
        VAEGANConfig(
            image_size=28,
            channels=1,
            latent_dim=100,
            encoder_channels=(128, 128),
            generator_channels=(128, 128, 128),
            discriminator_channels=(128, 128),
            kernel_size=5,
            generator_norm="none",
            encoder_activation="relu",
            discriminator_activation="relu",
            generator_head="conv",
            init="glorot",
        ),
        TrainConfig(steps=9_380, gamma=0.01),
    ),
    # What two CPU cores train in minutes; benchmarks/quality.py shows how good it gets.
    "mnist-small": Preset(
        VAEGANConfig(
            image_size=28,
            channels=1,
            latent_dim=16,
            encoder_channels=(16, 32, 64),
            generator_channels=(64, 32),
            discriminator_channels=(16, 32, 64),
            encoder_norm="batch",
            init="torch",
        ),
        TrainConfig(
            steps=2_400,
            lr_encoder=3e-3,
            lr_generator=4e-3,
            lr_discriminator=3e-3,
            betas=(0.5, 0.99),
            lr_hold_steps=1_100,
            lr_halving_steps=220,
            kl_weight=1.0,
            pixel_weight=0.3,
            feature_weight=2.0,
            feature_layer=1,
            gamma=0.06,
            r1_gamma=0.3,
        ),
    ),
    # A VAE on grey digits as soft targets: ten epochs of MNIST. docs/presets.md has what it reaches.
    "mnist-vae": Preset(
        VAEGANConfig(
            image_size=28,
            channels=1,
            latent_dim=32,
            encoder_channels=(32, 64, 128),
            generator_channels=(128, 64, 32),
            discriminator_channels=None,
            generator_norm="none",
            encoder_activation="silu",
            generator_activation="silu",
            init="torch",
        ),
        TrainConfig(
            mode="vae",
            steps=9_370,
            lr_encoder=2e-3,
            lr_generator=6e-3,
            betas=(0.9, 0.99),
            lr_warmup_steps=300,
            lr_cosine_steps=9_370,
            clip_encoder=100.0,
            clip_generator=100.0,
            pixel_loss="bernoulli",
        ),
    ),
    # A GAN with R1 (Mescheder et al. 2018), DCGAN-like in small.
    "mnist-gan": Preset(
        VAEGANConfig(
            image_size=28,
            channels=1,
            latent_dim=64,
            encoder_channels=None,
            generator_channels=(128, 64),
            discriminator_channels=(32, 64, 128),
            init="torch",
        ),
        TrainConfig(
            mode="gan",
            steps=7_000,
            batch_size=32,
            lr_generator=1e-3,
            lr_discriminator=1e-3,
            betas=(0.0, 0.99),
            lr_hold_steps=2_500,
            lr_cosine_steps=4_500,
            r1_gamma=1.0,
        ),
    ),
    # The same networks with an encoder: what mnist-small becomes with more channels and images.
    "mnist-vae-gan": Preset(
        VAEGANConfig(
            image_size=28,
            channels=1,
            latent_dim=16,
            encoder_channels=(32, 64, 128),
            generator_channels=(128, 64),
            discriminator_channels=(32, 64, 128),
            encoder_norm="batch",
            init="torch",
        ),
        TrainConfig(
            steps=7_000,
            batch_size=32,
            lr_encoder=1e-3,
            lr_generator=1e-3,
            lr_discriminator=1e-3,
            betas=(0.0, 0.99),
            lr_hold_steps=2_500,
            lr_cosine_steps=4_500,
            kl_weight=0.5,
            pixel_weight=0.3,
            feature_weight=2.0,
            feature_layer=1,
            gamma=0.01,
            r1_gamma=1.0,
        ),
    ),
    # DCGAN (Radford et al. 2016) with an encoder beside it.
    "dcgan-64": Preset(
        VAEGANConfig(
            image_size=64,
            channels=3,
            latent_dim=100,
            encoder_channels=(64, 128, 256, 512),
            generator_channels=(512, 256, 128, 64),
            discriminator_channels=(64, 128, 256, 512),
            encoder_norm="batch",
            discriminator_norm="batch",
        ),
        TrainConfig(steps=100_000, batch_size=128, gamma=0.01, ema_images=50_000),
    ),
    # The autoencoder of latent diffusion (Rombach et al. 2022) in small: residual blocks, a latent map of 4 channels, a
    # trained scale of the pixels, a PatchGAN with the adaptive weight. Its stride-2 layers are those of all models here
    # (one transposed convolution where the original has upsampling and a convolution); no attention, no LPIPS.
    "sd-kl": Preset(
        VAEGANConfig(
            image_size=64,
            channels=3,
            latent_dim=4 * 16 * 16,
            encoder_channels=(32, 64),
            generator_channels=(64, 32),
            discriminator_channels=(32, 64, 128),
            residual_blocks=1,
            latent_map=True,
            prior_rank=256,
            encoder_norm="group",
            generator_norm="group",
            discriminator_norm="batch",
            encoder_activation="silu",
            generator_activation="silu",
            discriminator_head="patch",
            learned_variance=True,
            init="torch",
        ),
        _KL,
    ),
    # diffusers' AutoencoderKL in small, latents of a quarter of the side; trained like sd-kl.
    "kl-f4-64": Preset(AutoencoderConfig(), _KL),
    # Latents of an eighth of the side. Most of the time goes to the levels of many pixels, so they are narrow.
    "kl-f8-128": Preset(
        AutoencoderConfig(image_size=128, block_out_channels=(16, 32, 96, 128)),
        _KL.replace(
            steps=2_800,
            batch_size=8,
            lr_encoder=1e-3,
            lr_generator=1e-3,
            lr_hold_steps=1_800,
            lr_cosine_steps=1_000,
            disc_start=1_800,
            disc_warmup=100,
        ),
    ),
    # The decoder of an autoencoder that is there (--init): its latents, and every model made for them, stay valid.
    "decoder-finetune": Preset(
        AutoencoderConfig(train="decoder"),
        _KL.replace(
            steps=2_000,
            batch_size=8,
            lr_generator=1e-4,
            lr_hold_steps=1_000,
            lr_cosine_steps=1_000,
            disc_start=500,
        ),
    ),
    # The same for digits of 28x28 with a margin of 2, latents 4x8x8; a VAE, for sharpness is not what digits lack.
    "kl-digits": Preset(
        AutoencoderConfig(
            image_size=32,
            channels=1,
            block_out_channels=(16, 32, 64),
            discriminator_channels=None,
            learned_variance=False,
        ),
        TrainConfig(
            mode="vae",
            pad=2,
            steps=1_000,
            batch_size=64,
            lr_encoder=2e-3,
            lr_generator=2e-3,
            betas=(0.9, 0.99),
            lr_warmup_steps=100,
            lr_cosine_steps=1_000,
            lr_final=0.1,
            kl_weight=0.02,
        ),
    ),
    # R3GAN (Huang et al. 2024) in small: relativistic pairing, R1 and R2, residual blocks, a discriminator without any
    # normalisation. The generator has group norm, which R3GAN's has not: without it, it forgot z.
    "r3gan-small": Preset(
        VAEGANConfig(
            image_size=28,
            channels=1,
            latent_dim=64,
            encoder_channels=None,
            generator_channels=(64, 32),
            discriminator_channels=(32, 64, 128),
            residual_blocks=1,
            discriminator_blocks=1,
            generator_norm="group",
            generator_activation="leaky_relu",
            init="torch",
        ),
        TrainConfig(
            mode="gan",
            steps=4_000,
            batch_size=32,
            lr_generator=5e-4,
            lr_discriminator=5e-4,
            betas=(0.0, 0.99),
            lr_hold_steps=1_500,
            lr_cosine_steps=2_500,
            objective="relativistic",
            r1_gamma=2.0,
            r2_gamma=2.0,
            r1_every=4,
        ),
    ),
}
DIFFUSION_PRESETS = {
    # Digits by their English names, on the latents of kl-digits: a rectified flow.
    "ldm-digits": DiffusionPreset(
        LatentDiffusionConfig(block_out_channels=(128,), layers_per_block=1, norm_num_groups=8, attention_heads=4),
        DiffusionTrainConfig(steps=3_000, batch_size=128, lr=1e-3, captions="a {class}", pad=2, ema_images=20_000),
        "kl-digits",
    ),
}
"""Latent diffusion models, by name."""

#: Those that are themselves at one image size only.
OWN_SIZE = ("seed", "dcgan-64", "sd-kl", "kl-f4-64", "kl-f8-128")


@overload
def preset(name: Literal["ldm-digits"]) -> DiffusionPreset: ...  # type: ignore[overload-overlap]


@overload
def preset(name: str) -> Preset: ...


def preset(name: str) -> Preset | DiffusionPreset:
    """The preset called ``name``: one of :data:`PRESETS` or :data:`DIFFUSION_PRESETS`.

    Raises:
        ConfigError: there is none of that name; the nearest one is named.
    """
    if name in DIFFUSION_PRESETS:
        return DIFFUSION_PRESETS[name]
    if name not in PRESETS:
        names = [*PRESETS, *DIFFUSION_PRESETS]
        raise ConfigError(f"there is no preset {name!r}{nearest(name, names)}; there are {', '.join(names)}")
    return PRESETS[name]
