"""How a model is trained. Flat: every field is a flag of the command line."""

from __future__ import annotations

from dataclasses import dataclass

from .._config import Config, option
from .._errors import ConfigError
from ..data.augment import AUGMENTATIONS as OF_IMAGES
from ..data.frame import CROPS
from ..data.lazy import CACHES
from ..losses.augment import AUGMENTATIONS
from ..losses.likelihood import PIXEL_LOSSES
from ..models.config import Mode
from ..ops.adversarial_loss import OBJECTIVES
from .trackers import TRACKERS

__all__ = ["MODES", "LoopConfig", "TrainConfig"]

#: The networks that are trained in each mode.
MODES = {
    "gan": ("discriminator", "generator"),
    "vae": ("encoder", "generator"),
    "vae-gan": ("discriminator", "encoder", "generator"),
}


@dataclass(frozen=True)
class LoopConfig(Config):
    """What every training needs to know, whatever it trains: steps, data, learning rates, what is written when.

    Raises:
        ConfigError: one sentence that names the field, what came and what is allowed.
    """

    batch_size: int = option(64, "images a step", minimum=1)
    steps: int = option(1000, "steps in all", minimum=1)
    seed: int = option(0, "seed of the initial weights, of the noise and of the order of the images", minimum=0)

    background: str | None = option(
        None, "the colour that transparent images are put over, as white or '#ff8800', where channels has no alpha"
    )
    augment: tuple[str, ...] | None = option(
        None,
        "how the training images are augmented, separated by commas; unlike diffaugment, the model learns it",
        choices=OF_IMAGES,
    )
    resize: int | None = option(
        None,
        "what an image's shorter side is resized to before image_size is cropped out of it; 0: nothing is resized; "
        "none: as far as image_size needs",
        minimum=0,
    )
    crop: str = option("centre", "what part of an image is trained on: its centre, or any", choices=CROPS)
    pad: int = option(
        0,
        "pixels that are added to an image on each side by repeating its edge; image_size counts them, distances of "
        "features do not see them",
        minimum=0,
    )
    workers: int = option(0, "threads or processes that read images ahead; the same bits with any number", minimum=0)
    cache: str = option(
        "auto",
        "images of files are held in memory, or (none) decoded when it is their turn; auto: held below a quarter of "
        "the free memory and 1 GB; the same bits",
        choices=CACHES,
    )
    max_bad: int = option(
        0,
        "images of files that may be unreadable; the next one stands in the place of each, and it is named",
        minimum=0,
    )

    betas: tuple[float, float] = option((0.5, 0.999), "Adam's betas", minimum=0, maximum=1)
    lr_warmup_steps: int = option(0, "the learning rates grow linearly from 0 over these steps", minimum=0)
    lr_hold_steps: int = option(0, "steps before the learning rates begin to fall", minimum=0)
    lr_halving_steps: int = option(
        0, "after lr_hold_steps the learning rates halve every so many steps; 0: they stay", minimum=0
    )
    lr_cosine_steps: int = option(
        0,
        "after lr_hold_steps the learning rates fall along half a cosine over so many steps; 0: they do not",
        minimum=0,
    )
    lr_final: float = option(
        0.0, "the share of the learning rates that lr_cosine_steps ends with", minimum=0, maximum=1
    )

    ema_images: int = option(
        10_000, "images until a weight's share in the average has halved; 0: no average", minimum=0
    )
    accumulate: int = option(
        1,
        "parts that a batch goes through the networks in, one after another; less memory, the same gradients",
        minimum=1,
    )
    precision: str = option(
        "float32", "of the convolutions and matrix products; the weights stay float32", choices=("float32", "bfloat16")
    )

    log_every: int = option(50, "steps between log lines", minimum=1)
    sample_every: int = option(500, "steps between pictures", minimum=1)
    checkpoint_every: int = option(500, "steps between checkpoints", minimum=1)
    tracker: tuple[str, ...] = option(
        ("tensorboard",),
        "where scalars, pictures and the configuration go beside log.jsonl and samples, separated by commas",
        choices=tuple(TRACKERS),
    )
    validation_images: int = option(
        0,
        "training images that are held out, for evaluate_every to judge by; 0: it judges by the test split",
        minimum=0,
    )
    evaluate_every: int = option(
        0, "steps between evaluations on held-out images, whose best model is kept; 0: none", minimum=0
    )
    evaluate_metric: str = option(
        "elbo",
        "what is evaluated: elbo, or fd, the distance of features of a small net, or rfd, that of reconstructions",
    )
    evaluate_images: int = option(2_000, "held-out images that are evaluated, at most", minimum=2)
    patience: int = option(0, "evaluations without anything better until the training ends; 0: it goes on", minimum=0)

    def __post_init__(self):
        super().__post_init__()
        if max(self.betas) == 1:
            raise ConfigError(f"betas is {self.betas}; both must be below 1")
        if self.batch_size % self.accumulate:
            raise ConfigError(f"accumulate is {self.accumulate}; it must divide batch_size, {self.batch_size}")
        if self.lr_halving_steps and self.lr_cosine_steps:
            raise ConfigError(
                f"lr_halving_steps is {self.lr_halving_steps} and lr_cosine_steps {self.lr_cosine_steps}: the learning "
                "rates fall in one way; leave one of them at 0"
            )
        if self.lr_final and not self.lr_cosine_steps:
            raise ConfigError(f"lr_final is {self.lr_final}, but lr_cosine_steps is 0: there is no fall that it ends")
        if self.evaluate_metric not in ("elbo", "fd", "rfd"):
            why = ""
            if "adv" in self.evaluate_metric or "loss" in self.evaluate_metric:
                why = ": an adversarial loss depends on the other network as much as on the images"
            raise ConfigError(f"evaluate_metric is {self.evaluate_metric!r}; allowed are 'elbo', 'fd' and 'rfd'{why}")
        if self.patience and not self.evaluate_every:
            raise ConfigError(f"patience is {self.patience}, but evaluate_every is 0: nothing is evaluated")


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """What ``training.steps`` and the ``Trainer`` need to know.

    Raises:
        ConfigError: one sentence that names the field, what came and what is allowed.
    """

    mode: Mode = option("vae-gan", "what is trained: a GAN, a VAE or both at once", choices=tuple(MODES))

    lr_encoder: float = option(2e-4, "Adam's learning rate of the encoder", above=0)
    lr_generator: float = option(2e-4, "Adam's learning rate of the generator", above=0)
    lr_discriminator: float = option(2e-4, "Adam's learning rate of the discriminator", above=0)
    clip_encoder: float = option(0.0, "bound on the norm of the encoder's gradient; 0: none", minimum=0)
    clip_generator: float = option(0.0, "bound on the norm of the generator's gradient; 0: none", minimum=0)
    clip_discriminator: float = option(0.0, "bound on the norm of the discriminator's gradient; 0: none", minimum=0)
    weight_l1: float = option(0.0, "weight of sum |w| over the weights of every trained network", minimum=0)
    weight_l2: float = option(0.0, "weight of 1/2 sum w^2 over the weights of every trained network", minimum=0)

    objective: str = option("non_saturating", "the adversarial loss", choices=tuple(OBJECTIVES))
    real_target: float = option(1.0, "target for real images; 0.9 is one-sided label smoothing", above=0, maximum=1)
    r1_gamma: float = option(0.0, "weight of the R1 penalty on the discriminator; 0 is none", minimum=0)
    r2_gamma: float = option(0.0, "weight of the same penalty at generated images, R2; 0 is none", minimum=0)
    r1_every: int = option(16, "R1 and R2 are taken every so many discriminator steps, times as strongly", minimum=1)
    gp_weight: float = option(0.0, "weight of WGAN-GP's gradient penalty, 10 in its paper; 0 is none", minimum=0)
    diffaugment: tuple[str, ...] | None = option(
        None,
        "DiffAugment: how the discriminator's images are augmented, separated by commas",
        choices=tuple(AUGMENTATIONS),
    )
    n_critic: int = option(1, "discriminator steps for each generator step", minimum=1)

    prior_images: bool = option(
        True,
        "in mode vae-gan the adversarial loss is also of images of z from the prior; false where the posteriors are "
        "far from it",
    )
    disc_start: int = option(0, "steps before the adversarial terms begin", minimum=0)
    disc_warmup: int = option(
        0, "the last so many steps before disc_start train the discriminator, and nothing else", minimum=0
    )
    adaptive_weight: float = option(
        0.0,
        "the adversarial terms pull at the generator's last weight so many times as hard as the reconstruction; "
        "0.5 in latent diffusion; 0: they have the weight 1",
        minimum=0,
    )

    kl_weight: float = option(1.0, "weight of the KL divergence from the prior", minimum=0)
    kl_warmup_steps: int = option(
        0, "the weight of the KL divergence grows linearly from 0 over these steps", minimum=0
    )
    free_bits: float = option(0.0, "nats that every latent dimension may cost without a gradient", minimum=0)
    pixel_loss: str = option(
        "mse",
        "distance of images: 1/2 squared (a normal distribution), absolute (Laplace's) or cross-entropy (bernoulli: "
        "grey values are probabilities)",
        choices=tuple(PIXEL_LOSSES),
    )
    pixel_weight: float = option(1.0, "weight of pixel_loss, summed over the image", minimum=0)
    perceptual_weight: float = option(
        0.0,
        "weight of the perceptual distance, which is added to pixel_loss at every number of an image; 1 in latent "
        "diffusion, with LPIPS; 0.1 to begin with by photos",
        minimum=0,
    )
    perceptual_net: str = option(
        "photos",
        "whose features it is of: photos or lenet, the package's own nets, or a file with the state dict of "
        "lpips.LPIPS(net='vgg')",
    )
    binarise: bool = option(
        False, "dynamic binarisation: each pixel of each batch is drawn anew, -1 or 1 with its grey value's probability"
    )
    feature_weight: float = option(
        0.0, "weight of 1/2 |D_l(x) - D_l(G(z))|^2, summed over D's layer l; only in mode vae-gan", minimum=0
    )
    feature_layer: int = option(-1, "the discriminator's layer l; negative counts from the last")
    gamma: float = option(1.0, "weight of the reconstruction beside the adversarial terms in the generator", minimum=0)
    checkpointing: bool = option(
        False,
        "of an autoencoder in diffusers' layout: keep of each block its input alone and run the block again for its "
        "gradient; less memory, the same bits",
    )

    sync_batch_norm: bool = option(False, "with several processes: batch norm over the whole batch, not over a share")
    cuda_graph: bool = option(True, "on CUDA: replay the whole step as one CUDA graph; the same step, sooner done")

    def __post_init__(self):
        super().__post_init__()
        if self.real_target != 1 and self.objective not in ("non_saturating", "minimax", "least_squares"):
            raise ConfigError(f"real_target is {self.real_target}, but objective {self.objective!r} has no target")
        self._check_reconstruction()
        self._check_adversarial()
        self._check_evaluation()

    def _check_reconstruction(self) -> None:
        if self.mode != "gan" and not (self.pixel_weight or (self.feature_weight and self.mode == "vae-gan")):
            weights = "pixel_weight" if self.mode == "vae" else "pixel_weight and feature_weight"
            raise ConfigError(f"{weights} must not be 0 in mode {self.mode!r}: nothing would be reconstructed")
        if self.free_bits and not self.kl_weight:
            raise ConfigError(f"free_bits is {self.free_bits}, but kl_weight is 0: every bit is free")

        if self.perceptual_weight and (self.mode == "gan" or not self.pixel_weight):
            reason = "in mode 'gan' nothing is reconstructed" if self.mode == "gan" else "pixel_weight, its own, is 0"
            raise ConfigError(f"perceptual_weight is {self.perceptual_weight}, but {reason}")
        if self.perceptual_net != "photos" and not self.perceptual_weight:
            raise ConfigError(
                f"perceptual_net is {self.perceptual_net!r}, but perceptual_weight is 0: it would not be used"
            )

    def _check_adversarial(self) -> None:
        if self.gp_weight and (self.r1_gamma or self.r2_gamma):
            raise ConfigError(
                f"gp_weight is {self.gp_weight} and {'r1_gamma' if self.r1_gamma else 'r2_gamma'} is above 0: the one "
                "draws the norm of the discriminator's gradient to 1, the other to 0; leave one of them at 0"
            )
        if self.disc_warmup > self.disc_start:
            raise ConfigError(
                f"disc_warmup is {self.disc_warmup}, but there are {self.disc_start} steps before disc_start; it must "
                "be at most that"
            )
        if self.mode == "gan" and self.disc_start > self.disc_warmup:
            raise ConfigError(
                f"disc_start is {self.disc_start} and disc_warmup {self.disc_warmup}, but in mode 'gan' there is "
                "nothing else to train before the adversarial loss begins; they must be equal"
            )
        if self.mode == "gan" and not self.prior_images:
            raise ConfigError(
                "prior_images is false, but in mode 'gan' there are no other images for the discriminator"
            )
        if self.adaptive_weight and not (self.mode == "vae-gan" and self.gamma):
            reason = "gamma is 0" if self.mode == "vae-gan" else f"mode is {self.mode!r}"
            raise ConfigError(
                f"adaptive_weight is {self.adaptive_weight}, but {reason}: it weighs adversarial terms against a "
                "reconstruction, and the generator does not have both"
            )

    def _check_evaluation(self) -> None:
        if self.evaluate_every and self.evaluate_metric != "fd" and self.mode == "gan":
            metric = self.evaluate_metric
            raise ConfigError(f"evaluate_metric is {metric!r}, but in mode 'gan' there is no encoder; use 'fd'")
