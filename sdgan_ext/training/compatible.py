"""Whether a model can be trained as a configuration says."""

from __future__ import annotations

import torch

from .._errors import ConfigError
from ..nn.batch_norm import BatchNorm2d
from .answers import count_features
from .config import MODES, TrainConfig
from .gradients import is_frozen
from .networks import BATCH_NORMS, Model, last_weight_of

__all__ = ["check_compatible", "check_float32", "check_synchronisable"]


def check_compatible(model: Model, config: TrainConfig) -> None:
    """Raises ConfigError where ``model`` cannot be trained as ``config`` says."""
    for name in MODES[config.mode]:
        if getattr(model, name) is None:
            raise ConfigError(
                f"mode {config.mode!r} trains the {name}, but the model has none: {name} is None, or {name}_channels "
                "in a VAEGANConfig"
            )
    _check_frozen(model, config)
    traits = model.traits
    channels, height, width = traits.image_shape
    if "rotate90" in (config.augment or ()) and height != width:
        raise ConfigError(f"augment has 'rotate90', which needs square images; the model's are {height}x{width}")
    if traits.learned_variance and not (config.pixel_weight and config.mode != "gan"):
        reason = "mode is 'gan'" if config.mode == "gan" else "pixel_weight is 0"
        raise ConfigError(
            f"learned_variance must be false: it is the scale of the distance of pixels, but {reason}, so that nothing "
            "would train it"
        )
    if traits.unbounded_images and (config.pixel_loss == "bernoulli" or config.binarise):
        field = "binarise is true" if config.binarise else "pixel_loss is 'bernoulli'"
        raise ConfigError(
            f"{field}, but the generator's images are not bounded to [-1, 1], so that they are no probabilities; take "
            "l1 or mse, without binarise"
        )
    if traits.learned_variance and config.pixel_loss == "bernoulli":
        raise ConfigError("learned_variance must be false: pixel_loss is 'bernoulli', which has no scale")
    if config.binarise and channels != 1:
        raise ConfigError(
            f"binarise must be false: the model's images have {channels} channels; binarised images are grey, of 1 "
            "channel"
        )
    if config.checkpointing and not hasattr(model, "checkpointed"):
        raise ConfigError(
            f"checkpointing is true, but the model is a {type(model).__name__}, whose networks are run as they are; of "
            "an autoencoder in diffusers' layout alone are the blocks known"
        )
    if config.mode != "vae":
        _check_adversarial(model, config)


def _check_frozen(model: Model, config: TrainConfig) -> None:
    frozen = [name for name in MODES[config.mode] if is_frozen(getattr(model, name))]
    if len(frozen) == len(MODES[config.mode]):
        raise ConfigError(
            f"every parameter of {' and '.join(frozen)} has requires_grad=False: in mode {config.mode!r} nothing would "
            "be trained"
        )
    if "discriminator" in frozen and config.disc_warmup:
        raise ConfigError(
            f"disc_warmup is {config.disc_warmup}, but every parameter of the discriminator has requires_grad=False: "
            "nothing would be trained in these steps"
        )
    if config.mode == "vae-gan" and {"encoder", "generator"} <= set(frozen) and config.disc_start:
        raise ConfigError(
            f"disc_start is {config.disc_start}, but every parameter of encoder and generator has requires_grad=False: "
            "nothing else would be trained before; it must be 0"
        )


def _check_adversarial(model: Model, config: TrainConfig) -> None:
    traits = model.traits
    for name in ("r1_gamma", "r2_gamma", "gp_weight"):
        if getattr(config, name) > 0 and traits.discriminator_batch_norm:
            raise ConfigError(
                f"{name} must be 0 with batch norm in the discriminator: the penalty is on the gradient of each "
                "image's own logit, and batch norm mixes the images; use another norm, spectral or group, or none"
            )
    unbounded = traits.discriminator_unbounded and not (config.gp_weight > 0 or config.r1_gamma > 0)
    if config.objective == "wasserstein" and unbounded:
        raise ConfigError(
            "objective 'wasserstein' needs a discriminator whose gradient is bounded; use gp_weight or r1_gamma above "
            "0, or discriminator_norm 'spectral'"
        )
    group = traits.discriminator_group
    if group and config.batch_size // config.accumulate % group:
        parts = "" if config.accumulate == 1 else f" in {config.accumulate} parts"
        raise ConfigError(
            f"batch_size is {config.batch_size}{parts}; with minibatch_stddev {group} it must be a multiple of {group}"
        )
    if config.adaptive_weight:
        weight = last_weight_of(model)
        if weight is None:
            raise ConfigError(
                f"adaptive_weight is {config.adaptive_weight}, but the generator does not say which of its weights is "
                "the last; give it an attribute last_weight, or use Networks(last_weight=...)"
            )
        if not weight.requires_grad:
            raise ConfigError(
                f"adaptive_weight is {config.adaptive_weight}, but the generator's last weight has requires_grad=False"
            )
    if config.mode == "vae-gan" and config.feature_weight:
        layers = count_features(model)
        if not -layers <= config.feature_layer < layers:
            raise ConfigError(
                f"feature_layer is {config.feature_layer}; the discriminator has {layers} layers, "
                f"so {-layers} to {layers - 1} are allowed"
            )


def check_synchronisable(model: torch.nn.Module) -> None:
    """Raises ConfigError where a batch norm of ``model`` would go on normalising by the rows of one process."""
    for name, module in model.named_modules():
        if isinstance(module, BATCH_NORMS) and not isinstance(module, (BatchNorm2d, torch.nn.SyncBatchNorm)):
            raise ConfigError(
                f"sync_batch_norm is true, but {name} is torch's {type(module).__name__}, which is not synchronised; "
                "use sdgan_ext.nn.BatchNorm2d, which has the same state dict"
            )


def check_float32(model: torch.nn.Module) -> None:
    """Raises ConfigError where weights would meet images, float32, or noise, of torch's default dtype, of another."""
    if torch.get_default_dtype() != torch.float32:
        raise ConfigError(
            f"torch's default dtype is {torch.get_default_dtype()}, but weights, images and noise are float32 in "
            "training: call torch.set_default_dtype(torch.float32), and model.float() if the model has been made"
        )
    for name, weight in model.named_parameters():
        if weight.dtype == torch.float64 and weight.requires_grad:
            raise ConfigError(f"{name} is torch.float64, but weights are float32 in training: call model.float()")
