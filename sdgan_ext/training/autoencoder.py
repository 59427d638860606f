"""diffusers' AutoencoderKL under the Trainer: its own modules as encoder and generator, a PatchGAN beside them."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .._accelerate import accelerate
from .._errors import ConfigError
from .._modes import evaluation_mode
from ..models import Discriminator, Posterior
from ..models.folder import save_folder
from ..models.traits import Traits
from ..models.weights import check_weights
from .autoencoder_config import AutoencoderConfig
from .diffusers_files import WEIGHTS, config_of, make_autoencoder, read_autoencoder
from .networks import NetworksModel

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

__all__ = ["Autoencoder", "LatentScale", "autoencoder", "check_enough", "check_trained"]


def autoencoder(
    source: AutoencoderConfig | AutoencoderKL | str | Path,
    *,
    original_config: str | Path | None = None,
    **fields: Any,
) -> Autoencoder:
    """diffusers' autoencoder as a model for :class:`~sdgan_ext.training.trainer.Trainer`.

    ::

        model = sd.autoencoder("FOLDER", image_size=64, train="decoder")
        run = sd.Trainer(model, sd.preset("decoder-finetune").train).fit("photos")
        vae = diffusers.AutoencoderKL.from_pretrained(run.model)

    Args:
        source: an :class:`AutoencoderConfig`, to begin with random weights; an AutoencoderKL, which is trained in
            place; a folder of one, or a run or a pipeline's folder, which have one in them; a single file of the
            original layout, which diffusers' own loader converts.
        original_config: of a single file: the YAML of its training, where diffusers does not know the file.
        fields: of :class:`AutoencoderConfig`. Of a model that is there, what its networks are made of must be as it is;
            ``image_size`` is its ``sample_size`` unless given.

    Raises:
        ConfigError: ``source`` is none of these, or a field does not fit it.
        CheckpointError: its files are missing or damaged.
        ImportError: diffusers is not installed (``pip install 'sdgan_ext[diffusers]'``).
    """
    if isinstance(source, AutoencoderConfig):
        config = source.replace(**fields)
        check_trained(config)
        return Autoencoder(config)
    vae, name = read_autoencoder(source, original_config)
    init = str(source) if isinstance(source, str | Path) else None
    return Autoencoder(AutoencoderConfig.of_diffusers(config_of(vae), name, init=init, **fields), vae)


def check_trained(config: AutoencoderConfig) -> None:
    """Raises ConfigError where an encoder with random weights would be left as it is."""
    if config.train == "decoder":
        raise ConfigError(
            "train is 'decoder', which leaves the encoder as it is, and this one has random weights; give the folder "
            "of a trained one (--init)"
        )


class Autoencoder(NetworksModel):
    """The networks of an AutoencoderKL, trained as a VAE-GAN (Rombach et al. 2022).

    ``sample`` draws latents from a normal distribution of their measured scale, which is what diffusion starts from:
    the pictures show the scale, and no images.

    Attributes:
        config: an :class:`AutoencoderConfig`.
        vae: the AutoencoderKL whose modules are trained.
        encoder: ``vae.encoder`` and ``vae.quant_conv``: images [N, C, H, W] to their :class:`Posterior`.
        generator: ``vae.post_quant_conv`` and ``vae.decoder``; no tanh behind it. ``log_scale`` is beside them.
        discriminator: a PatchGAN, or None.
        prior: the :class:`LatentScale` of the latents; None with ``train="decoder"``, which leaves them as they are.
    """

    vae: AutoencoderKL

    def __init__(self, config: AutoencoderConfig, vae: AutoencoderKL | None = None):
        super().__init__()
        if vae is None:
            vae = make_autoencoder(config.for_diffusers())
        self.config = config
        self.__dict__["vae"] = vae  # no child: its parts are the networks'
        self.encoder = _Encoder(vae)
        self.generator = _Decoder(vae, config.learned_variance)
        self.discriminator = (
            None if config.discriminator_channels is None else Discriminator(config.for_discriminator())
        )
        self.prior = LatentScale(vae.config.scaling_factor, vae.config.shift_factor) if config.train == "all" else None
        if config.train == "decoder":
            self.encoder.requires_grad_(False).eval()
        if config.accelerate:
            accelerate(vae)
        self.to(device=vae.device, memory_format=torch.channels_last)

    @property
    def traits(self) -> Traits:
        """What a training step must know of the networks."""
        config = self.config
        return Traits(
            image_shape=config.image_shape,
            latent_shape=config.latent_shape,
            memory_format=torch.channels_last,
            learned_variance=config.learned_variance,
            unbounded_images=True,
            scale_only_prior=True,
            largest_activation=math.prod(config.size) * max(config.block_out_channels[:2]),  # the decoder's last level
            discriminator_mixes_images=config.discriminator_norm == "batch",
            discriminator_batch_norm=config.discriminator_norm == "batch",
            discriminator_unbounded=config.discriminator_norm != "spectral",
        )

    @property
    def scaling_factor(self) -> float | None:
        """What diffusion multiplies these latents by; None where diffusers has ``latents_std``, by channel, for it."""
        config = self.vae.config
        if config.latents_std:
            return None
        return float(config.scaling_factor if self.prior is None else self.prior.scaling_factor)

    def latents(self, eps: Tensor) -> Tensor:
        """What :meth:`decode` takes, of numbers from N(0, I): ``eps / scaling_factor + shift_factor``."""
        if self.prior is not None:
            return self.prior(eps)
        return eps / self.vae.config.scaling_factor + (self.vae.config.shift_factor or 0.0)

    @contextlib.contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Forward passes meanwhile keep of each block of encoder and decoder its input alone; every backward pass runs
        the block again (Chen et al. 2016).

        Not by ``vae.enable_gradient_checkpointing``: that is another way through encoder and decoder, of which
        ``accelerate`` does not know what may be fused, and other bits come of it.
        """
        encoder, decoder = self.vae.encoder, self.vae.decoder
        blocks = [*encoder.down_blocks, encoder.mid_block, decoder.mid_block, *decoder.up_blocks]
        before = [block.__dict__.get("forward") for block in blocks]
        try:
            for block in blocks:
                block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
            yield
        finally:
            for block, forward in zip(blocks, before, strict=True):
                block.__dict__.pop("forward", None)
                block.__dict__.update({} if forward is None else {"forward": forward})

    @torch.no_grad()
    def fit_prior(self, x: Tensor, labels: None = None, *, seed: int = 0) -> None:
        """Measures ``prior`` on z ~ q(z|x) of the images x [N, C, H, W], in evaluation mode.

        Raises:
            ValueError: the encoder is frozen, so that its latents keep the scale that they have.
        """
        if self.prior is None:
            raise ValueError("train is 'decoder': the latents are those of before, and their scale is known")
        generator = torch.Generator().manual_seed(seed)
        with evaluation_mode(self):
            parts = x.split(self.traits.images_at_a_time(8))
            latents = [self.encode(part).sample(generator=generator) for part in parts]
        self.prior.fit(torch.cat(latents), shift=self.config.fit_shift)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes what ``AutoencoderKL.from_pretrained`` of diffusers reads, each file complete or not at all.

        The discriminator and ``log_scale`` are no part of it; checkpoints have them.

        Raises:
            DivergedError: a weight is NaN or infinite; nothing is written.
            CheckpointError: the folder cannot be written.
        """
        config = config_of(self.vae)
        if self.prior is not None:
            shift = self.prior.shift_factor.item() if self.config.fit_shift else None
            # What diffusers says of each channel is of the latents before.
            of_latents = {"shift_factor": shift, "latents_mean": None, "latents_std": None}
            config |= {"scaling_factor": self.prior.scaling_factor.item(), **of_latents}
        save_folder(folder, self.vae.state_dict(), config, file_name=WEIGHTS)


class LatentScale(torch.nn.Module):
    """N(shift_factor, 1 / scaling_factor^2), one number each for all latents, as diffusion takes them.

    Buffers:
        scaling_factor: 1 / the standard deviation of all latents (Rombach et al. 2022, appendix G).
        shift_factor: their mean; 0 where it is not measured.
    """

    scaling_factor: Tensor
    shift_factor: Tensor

    def __init__(self, scaling_factor: float = 1.0, shift_factor: float | None = None):
        super().__init__()
        self.register_buffer("scaling_factor", torch.tensor(float(scaling_factor)))
        self.register_buffer("shift_factor", torch.tensor(float(shift_factor or 0.0)))

    def forward(self, eps: Tensor) -> Tensor:
        """Numbers from N(0, I) to latents of the same shape."""
        return eps / self.scaling_factor + self.shift_factor

    @torch.no_grad()
    def fit(self, latents: Tensor, *, shift: bool) -> None:
        """To samples of the posteriors, [N, C, h, w]; latents that are all equal have no scale, and leave it as it is.

        Args:
            shift: measure ``shift_factor`` too.
        """
        deviation = latents.std()
        if deviation > 0:
            self.scaling_factor.copy_(1 / deviation)
        self.shift_factor.copy_(latents.mean() if shift else torch.zeros(()))


class _Encoder(torch.nn.Module):
    def __init__(self, vae: AutoencoderKL):
        super().__init__()
        self.network = vae.encoder
        self.quant_conv = vae.quant_conv

    def forward(self, x: Tensor) -> Posterior:
        moments = self.network(x)
        if self.quant_conv is not None:
            moments = self.quant_conv(moments)
        mean, logvar = moments.chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30.0, 20.0))  # diffusers' bounds


class _Decoder(torch.nn.Module):
    def __init__(self, vae: AutoencoderKL, learned_variance: bool):
        super().__init__()
        self.post_quant_conv = vae.post_quant_conv
        self.network = vae.decoder
        if learned_variance:
            self.log_scale = torch.nn.Parameter(torch.zeros(()))

    @property
    def last_weight(self) -> Tensor:
        weight: Tensor = self.network.conv_out.weight
        return weight

    def forward(self, z: Tensor) -> Tensor:
        if self.post_quant_conv is not None:
            z = self.post_quant_conv(z)
        images: Tensor = self.network(z)
        return images


def check_enough(config: AutoencoderConfig, weights: Mapping[str, Tensor], path: Path) -> None:
    """That the ``weights`` of a file are those of a model of ``config``, before any memory is taken for it.

    Raises:
        CheckpointError: they are not; the first that differs is named.
    """
    with torch.device("meta"):
        check_weights(Autoencoder(config.replace(accelerate=False)), weights, path)
