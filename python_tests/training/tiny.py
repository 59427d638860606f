"""A model and a dataset that train in milliseconds."""

import signal

import torch

from sdgan_ext.data import ImageDataset
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.training.config import TrainConfig


def make_model(mode="vae-gan", seed=0, **changes):
    torch.manual_seed(seed)
    config = VAEGANConfig(
        image_size=8, latent_dim=4, encoder_channels=(4,), generator_channels=(4,), discriminator_channels=(4,)
    )
    return VAEGAN(config.replace(**changes).for_mode(mode))


def make_dataset(count=16, size=8, name="dots", classes=None):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 1, size, size), generator=generator).byte()
    return ImageDataset(images, None if classes is None else torch.arange(count) % classes, name=name)


def make_config(**changes):
    defaults = {"steps": 6, "batch_size": 4, "log_every": 2, "sample_every": 100, "checkpoint_every": 2}
    return TrainConfig(**{**defaults, **changes})


class Interrupting(ImageDataset):
    """``make_dataset()`` that sends this process a signal with its fourth batch: the second step's."""

    def __init__(self, number):
        super().__init__(make_dataset().images, name="dots")
        self.number, self.calls = number, 0

    def batch(self, indices):
        self.calls += 1
        if self.calls == 4:
            signal.raise_signal(self.number)
        return super().batch(indices)
