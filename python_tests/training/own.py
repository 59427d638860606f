"""Plain modules as a user would write them: nothing of sdgan_ext in them."""

import torch
from torch import nn

from sdgan_ext.training.networks import Networks

SIZE, Z = 8, 4


class Encoder(nn.Module):
    """[N, 1, 8, 8] -> (mean, logvar), vectors or maps; dropout, so that a resume needs torch's random state."""

    def __init__(self, latent="vector", classes=0, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 4, 2, 1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(64, 2 * Z) if latent == "vector" else nn.Conv2d(4, 4, 3, 2, 1)
        self.labels = nn.Embedding(classes, 4) if classes else None
        self.flat = latent == "vector"

    def forward(self, x, labels=None):
        h = torch.relu(self.norm(self.conv(x)))
        if self.labels is not None:
            h = h + self.labels(labels).view(-1, 4, 1, 1)
        h = self.dropout(h)
        return self.head(h.view(len(h), -1) if self.flat else h).chunk(2, 1)


class Generator(nn.Module):
    def __init__(self, latent="vector", classes=0, norm=True, channels=1):
        super().__init__()
        self.first = nn.Linear(Z, 64) if latent == "vector" else nn.ConvTranspose2d(2, 4, 4, 2, 1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.last = nn.ConvTranspose2d(4, channels, 4, 2, 1)
        self.labels = nn.Embedding(classes, 4) if classes else None

    def forward(self, z, labels=None):
        h = self.first(z)
        h = h.view(len(h), 4, SIZE // 2, SIZE // 2)
        if self.labels is not None:
            h = h + self.labels(labels).view(-1, 4, 1, 1)
        return torch.tanh(self.last(torch.relu(self.norm(h))))


class Discriminator(nn.Module):
    """Logits [N], [N, 1] or a map of patches; no norm, so that every penalty may be taken."""

    def __init__(self, logits="column", classes=0, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 4, 2, 1)
        self.head = nn.Conv2d(4, 1, 3, 1, 1) if logits == "patches" else nn.Linear(64, 1)
        self.labels = nn.Embedding(classes, 4) if classes else None
        self.logits = logits

    def forward(self, x, labels=None):
        h = nn.functional.leaky_relu(self.conv(x), 0.2)
        if self.labels is not None:
            h = h + self.labels(labels).view(-1, 4, 1, 1)
        if self.logits == "patches":
            return self.head(h)
        logits = self.head(h.view(len(h), -1))
        return logits if self.logits == "column" else logits.squeeze(1)


class FeatureDiscriminator(Discriminator):
    def forward(self, x, labels=None, return_features=False):
        logits = super().forward(x, labels)
        return (logits, (self.conv(x), logits)) if return_features else logits


def make_networks(mode="vae-gan", seed=0, latent="vector", logits="column", classes=0, features=False, **options):
    torch.manual_seed(seed)
    discriminator = FeatureDiscriminator if features else Discriminator
    channels = options.pop("channels", 1)
    networks = {
        "encoder": None if mode == "gan" else Encoder(latent, classes, channels),
        "generator": Generator(latent, classes, options.pop("norm", True), channels),
        "discriminator": None if mode == "vae" else discriminator(logits, classes, channels),
    }
    shapes = {"image_shape": (channels, SIZE, SIZE), "latent_shape": None if latent == "vector" else (2, 2, 2)}
    return Networks(**networks, **{**shapes, "classes": classes, **options})
