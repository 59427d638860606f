"""A latent diffusion model, and what it is made of, that train in milliseconds."""

import torch

import sdgan_ext as sd
from sdgan_ext.data import ImageDataset
from sdgan_ext.training.diffusion_trainer import DiffusionTrainer

SIDE = 16
CAPTIONS = ["a zero", "a one", "a two"]
NETWORKS = {
    **dict(block_out_channels=(8,), norm_num_groups=4, attention_heads=2),
    **dict(text_width=8, text_layers=1, text_heads=2, sampling_steps=2),
}


def make_autoencoder(seed=0, logvar=None, scaling_factor=1.0, shift=None, **fields):
    """diffusers' layout, latents 2x8x8; with ``logvar`` the posterior's is near to it, whatever the image."""
    torch.manual_seed(seed)
    config = sd.AutoencoderConfig(
        **{
            **dict(image_size=SIDE, channels=1, latent_channels=2, block_out_channels=(8, 8), norm_num_groups=4),
            **dict(discriminator_channels=None, fit_shift=shift is not None),
            **fields,
        }
    )
    model = sd.autoencoder(config)
    model.prior.scaling_factor.fill_(scaling_factor)
    model.prior.shift_factor.fill_(shift or 0.0)
    if logvar is not None:
        with torch.no_grad():
            channels = config.latent_channels
            model.vae.quant_conv.weight[channels:] = 0
            model.vae.quant_conv.bias[channels:] = logvar
    return model


def make_images(count=24, classes=3, captions=CAPTIONS, seed=0, side=SIDE):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 1, side, side), generator=generator).byte()
    labels = torch.arange(count) % classes if classes else None
    return ImageDataset(images, labels, num_classes=classes or None, captions=captions, name="dots")


def make_train(**changes):
    defaults = {"steps": 6, "batch_size": 8, "log_every": 2, "sample_every": 100, "checkpoint_every": 2}
    return sd.DiffusionTrainConfig(**{**defaults, "tracker": ("tensorboard",), **changes})


def make_model(autoencoder=None, dataset=None, train=None, seed=0, **networks):
    dataset = make_images() if dataset is None else dataset
    autoencoder = make_autoencoder() if autoencoder is None else autoencoder
    torch.manual_seed(seed)
    config = sd.LatentDiffusionConfig(**{**NETWORKS, **networks})
    return sd.latent_diffusion(config, autoencoder, dataset, train)


def make_trainer(out, dataset=None, autoencoder=None, networks=None, progress=False, **train):
    dataset = make_images() if dataset is None else dataset
    config = make_train(**train)
    model = make_model(autoencoder, dataset, config, **(networks or {}))
    return DiffusionTrainer(model, config, out=out, progress=progress)


def trained(out, dataset=None, **options):
    dataset = make_images() if dataset is None else dataset
    return make_trainer(out, dataset, **options).fit(dataset)
