"""The answers of a user's networks: translated and checked, and asked for by a dry call.

A dry call is one on zeros, in evaluation mode and without gradients; weights, buffers and torch's random state are left
as they are.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .._errors import ConfigError
from .._modes import evaluation_mode, undisturbed
from ..models.posterior import Posterior
from .gradients import frozen

if TYPE_CHECKING:
    from .networks import Model, Networks, PosteriorLike

__all__ = [
    "as_posterior",
    "Shapes",
    "check_logits",
    "check_modules",
    "check_shape",
    "count_features",
    "find_shapes",
    "kind_of",
    "placement",
]

_N = 2  # images: one could hide that a network loses the batch's dimension


class Shapes(NamedTuple):
    """Of one image and of its z; None where not known."""

    image: tuple[int, ...] | None
    latent: tuple[int, ...] | None


def check_modules(given: Mapping[str, Any]) -> None:
    """
    Raises:
        ConfigError: one of the networks is no module, has no weights yet, or shares some with another.
    """
    for name, network in given.items():
        if network is None and name != "generator":
            continue
        if not isinstance(network, torch.nn.Module):
            raise ConfigError(f"{name} is {kind_of(network)}; it must be a torch.nn.Module")
        if any(is_lazy(tensor) for tensor in (*network.parameters(), *network.buffers())):
            raise ConfigError(f"{name} has lazy layers without weights yet; call it once before it is given")
    networks = [(name, network) for name, network in given.items() if network is not None]
    for (one, first), (other, second) in itertools.combinations(networks, 2):
        theirs = {id(parameter) for parameter in second.parameters()}
        shared = [name for name, parameter in first.named_parameters() if id(parameter) in theirs]
        if shared:
            raise ConfigError(
                f"{one} and {other} share the parameter {shared[0]}; each must have its own, for each has its own loss"
            )


def as_posterior(answer: Any) -> PosteriorLike:
    """What an encoder returned, as a posterior.

    Raises:
        ConfigError: it is none, or mean and logvar are not of one shape.
    """
    answer = getattr(answer, "latent_dist", answer)
    if isinstance(answer, (tuple, list)) and len(answer) == 2:
        mean, logvar = answer
    else:
        mean, logvar = getattr(answer, "mean", None), getattr(answer, "logvar", None)
    if not (isinstance(mean, Tensor) and isinstance(logvar, Tensor)):
        raise ConfigError(
            f"the encoder's answer is {kind_of(answer)}; it must be (mean, logvar), two tensors, or an object with the "
            "tensors mean and logvar"
        )
    if mean.shape != logvar.shape:
        raise ConfigError(
            f"the encoder's mean has shape {tuple(mean.shape)} and its logvar {tuple(logvar.shape)}; they must be the "
            "same"
        )
    return answer if callable(getattr(answer, "sample_with_kl", None)) else Posterior(mean, logvar)


def find_shapes(model: Networks, known: Shapes) -> Shapes:
    """The shapes of images and latents, each found where it is not known, and checked where it is.

    Raises:
        ConfigError: a network cannot be called or answers something else, or a shape could not be found.
    """
    image, latent = known
    if latent is None and model.encoder is not None and image is not None:
        latent = _latent_of_encoder(model, image)
    if latent is None:
        latent = _latent_of_first_layer(model)
    made = _image_of_generator(model, latent)
    if image is not None and made != image:
        raise ConfigError(f"the generator makes images of shape {made}, but image_shape is {image}")
    if model.encoder is not None:
        found = _latent_of_encoder(model, made)
        if found != latent:
            raise ConfigError(f"the encoder's mean has shape {found} for one image, but the generator takes {latent}")
    return Shapes(made, latent)


def check_logits(model: Networks) -> None:
    """
    Raises:
        ConfigError: the discriminator's answer is not one logit, or one map of logits, for each image.
    """
    logits = _call(model, "discriminator", _zeros(model, "discriminator", model.config.image_shape))
    _check_tensor("the discriminator's answer", logits)
    shape = tuple(logits.shape)
    if len(shape) not in (1, 2, 4) or shape[0] != _N or shape[1:2] not in ((), (1,)):
        raise ConfigError(
            f"the discriminator's logits have shape {shape} for {_N} images; they must be one for each image, "
            f"({_N},) or ({_N}, 1), or a map of patches, ({_N}, 1, h, w)"
        )


def count_features(model: Model) -> int:
    """The features that the discriminator returns beside its logits.

    Raises:
        ConfigError: it does not take ``return_features=True``, or returns no tuple of features.
    """
    asked = "feature_weight is above 0: the discriminator must take return_features=True and return (logits, features)"
    x = _zeros(model, "discriminator", model.traits.image_shape)
    try:
        answer = _call(model, "discriminator", x, return_features=True)
    except ConfigError as error:
        raise ConfigError(f"{asked}, but {error}") from error
    if not (isinstance(answer, (tuple, list)) and len(answer) == 2 and isinstance(answer[1], (tuple, list))):
        raise ConfigError(f"{asked}, but its answer is {kind_of(answer)}")
    for i, features in enumerate(answer[1]):
        if not isinstance(features, Tensor) or features.dim() < 2 or len(features) != _N:
            what = f"of shape {tuple(features.shape)}" if isinstance(features, Tensor) else kind_of(features)
            raise ConfigError(f"{asked}, but features[{i}] is {what} for {_N} images, not a tensor [{_N}, ...]")
    return len(answer[1])


def check_shape(what: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raises ConfigError unless ``value`` is a tensor of real numbers of this shape."""
    _check_tensor(what, value)
    if value.shape != shape:
        raise ConfigError(f"{what} has shape {tuple(value.shape)}; it must be {tuple(shape)}")


def placement(network: torch.nn.Module) -> dict[str, Any]:
    """The device and the dtype of a network's numbers, as arguments."""
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.is_floating_point():
            return {"device": tensor.device, "dtype": tensor.dtype}
    return {"device": torch.device("cpu"), "dtype": torch.get_default_dtype()}


def kind_of(value: Any) -> str:
    """What a value is, in words for an error."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _check_tensor(what: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ConfigError(f"{what} is {kind_of(value)}; it must be a tensor")
    if not value.is_floating_point():
        raise ConfigError(f"{what} is a tensor of {value.dtype}; it must be of real numbers")


def _latent_of_encoder(model: Networks, image: tuple[int, ...]) -> tuple[int, ...]:
    mean = as_posterior(_call(model, "encoder", _zeros(model, "encoder", image))).mean
    _check_tensor("the encoder's mean", mean)
    if len(mean) != _N or mean.dim() not in (2, 4):
        raise ConfigError(
            f"the encoder's mean has shape {tuple(mean.shape)} for {_N} images; it must be [{_N}, Z], or "
            f"[{_N}, C, h, w] of a map"
        )
    return tuple(mean.shape[1:])


def _latent_of_first_layer(model: Networks) -> tuple[int, ...]:
    """What the generator's first layer takes: Z numbers, or Z channels of one pixel as in DCGAN."""
    hint = "give Networks(latent_shape=...)"
    for layer in model.generator.modules():
        if isinstance(layer, torch.nn.Linear):
            return (layer.in_features,)
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.ConvTranspose2d)):
            if model.encoder is None:
                return (layer.in_channels, 1, 1)
            raise ConfigError(
                f"latent_shape could not be found, for the generator takes maps of any size; {hint} or image_shape, "
                "with which the encoder is asked"
            )
    raise ConfigError(
        f"latent_shape could not be found, for the generator has neither a dense layer nor a convolution; {hint}"
    )


def _image_of_generator(model: Networks, latent: tuple[int, ...]) -> tuple[int, ...]:
    images = _call(model, "generator", _zeros(model, "generator", latent))
    _check_tensor("the generator's answer", images)
    if images.dim() != 4 or len(images) != _N:
        raise ConfigError(
            f"the generator's images have shape {tuple(images.shape)} for {_N} latents of shape {latent}; they must be "
            f"[{_N}, channels, height, width]"
        )
    return tuple(images.shape[1:])


def _zeros(model: Model, name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.zeros(_N, *shape, **placement(getattr(model, name)))


def _call(model: Model, name: str, x: Tensor, **options: Any) -> Any:
    """The answer of a network to ``x``; its labels are 0 where the model has classes."""
    network = getattr(model, name)
    positional = [x]
    if model.traits.classes:
        labels = torch.zeros(_N, dtype=torch.int64, device=x.device)
        if name == "discriminator":
            options["labels"] = labels
        else:
            positional.append(labels)
    beside = [*["labels"][: len(positional) - 1], *options]
    with _untouched(network):
        try:
            return network(*positional, **options)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            arguments = " and ".join([f"a tensor of shape {tuple(x.shape)}", *beside])
            raise ConfigError(f"the {name} cannot be called with {arguments}: {reason}") from error


@contextlib.contextmanager
def _untouched(network: torch.nn.Module) -> Iterator[None]:
    with undisturbed(network), torch.no_grad(), evaluation_mode(network), frozen(network):
        yield
