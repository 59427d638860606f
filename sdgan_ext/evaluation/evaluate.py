"""One call for all metrics of a model on a dataset."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._errors import EvaluationError, nearest
from .._modes import evaluation_mode
from ..data.captions import captions_of
from ..data.loader import batches
from ..data.protocols import MapDataset
from ._images import as_bytes, check_whole, float_parts
from .classes import agreement, class_metrics, classification_accuracy
from .distances import frechet_distance, kernel_distance
from .features import NETS, FeatureNet, NetName, NetOutput, apply_net, choose_net, load_net
from .image_errors import image_errors
from .inception import inception_fid, missing
from .latents import latent_statistics, scaling_factors
from .likelihood import MOST_K, binarise, draw, elbo, iwae, posterior_of
from .manifold import manifold_metrics

__all__ = ["METRICS", "EvalContext", "Metric", "default_metrics", "evaluate", "images_taken", "prepare", "refusals"]
__all__ += ["take"]

_MOST_IMAGES = 10_000
_MOST_BYTES = 2**30  # of the images, unless their number is given
_MOST_AT_A_TIME = 250
_NO_IMAGES = (
    "samples of an autoencoder are decoded from noise of its latents' scale and show no images, for which a diffusion "
    "model of the latents is needed; rfd judges the reconstructions"
)
_SAME_CLASSES = 0.9  # a net with this accuracy on the dataset's labels has the same classes


class EvalContext:
    """What the metrics of one evaluation share: images, labels, the feature net's outputs; each made when first used.

    Args:
        model, dataset, n, seed, k, net, batch_size, pad: as of :func:`evaluate`, checked.
    """

    def __init__(
        self,
        model: Any,
        dataset: MapDataset,
        n: int,
        seed: int,
        net: NetName | None,
        batch_size: int,
        k: int,
        pad: int = 0,
    ):
        self.model = model
        self.dataset = dataset
        self.n = n
        self.seed = seed
        self.batch_size = batch_size
        self.k = k
        self._net = net
        self._pad = pad

    @functools.cached_property
    def _real(self) -> tuple[Tensor, Tensor]:
        """n images of the dataset and their labels, -1 where there are none."""
        size = min(self.batch_size, self.n)
        images: list[Tensor] = []
        labels: list[Tensor] = []
        count = 0
        for x, y in batches(self.dataset, size, seed=self.seed, drop_last=False):
            images.append(as_bytes(x))
            labels.append(y)
            count += len(x)
            if count >= self.n:
                return torch.cat(images)[: self.n], torch.cat(labels)[: self.n]
        raise AssertionError("batches() has no end")

    @property
    def real(self) -> Tensor:
        """n images of the dataset, without repeats, uint8."""
        return self._real[0]

    def unpadded(self, images: Tensor) -> Tensor:
        """The images without ``pad`` pixels on each side."""
        height, width = images.shape[2:]
        return images[:, :, self._pad : height - self._pad, self._pad : width - self._pad]

    @property
    def labels(self) -> Tensor | None:
        """Their labels, or None where there are none."""
        return None if (self._real[1] < 0).any() else self._real[1]

    @functools.cached_property
    def condition(self) -> Tensor | None:
        """The classes that a class-conditional model is conditioned on: the labels; None for other models."""
        return self.labels if _takes_labels(self.model) else None

    @property
    def _encodes_labels(self) -> bool:
        return "labels" in inspect.signature(self.model.encode).parameters

    @property
    def bound_options(self) -> dict[str, Any]:
        """What :func:`elbo` and :func:`iwae` are given beside the images."""
        labels = self.condition if self._encodes_labels else None
        return {"labels": labels, "batch_size": self.batch_size, "seed": self.seed}

    @property
    def scale(self) -> float:
        """Of a normal distribution of pixels: the one that the model has learnt, or 1."""
        log_scale = getattr(getattr(self.model, "generator", None), "log_scale", None)  # of a VAEGAN
        return 1.0 if log_scale is None else float(log_scale.exp().item())

    @functools.cached_property
    def generated(self) -> Tensor:
        """n images of the model, uint8."""
        generator = torch.Generator().manual_seed(self.seed)
        parts = []
        for start in range(0, self.n, self.batch_size):
            count = min(self.batch_size, self.n - start)
            asked: dict[str, Any] = {} if self.condition is None else {"labels": self.condition[start : start + count]}
            if not asked and _takes_captions(self.model) and self.labels is not None:
                texts = captions_of(self.dataset)
                asked = {"captions": [texts[number] for number in self.labels[start : start + count].tolist()]}
            parts.append(_finite_bytes(self.model.sample(count, generator=generator, **asked), "generated"))
        return torch.cat(parts)

    @functools.cached_property
    def reconstructions(self) -> Tensor:
        """The model's reconstructions of ``real``, uint8."""
        device = next((p.device for p in self.model.parameters()), None)
        return torch.cat(
            [
                _finite_bytes(self.model.reconstruct(part.to(device), *labels), "reconstructed")
                for part, labels in self._real_parts()
            ]
        )

    @functools.cached_property
    def sampled_reconstructions(self) -> Tensor:
        """What the model decodes of a z ~ q(z|x) for each x of ``real``, uint8."""
        generator = torch.Generator().manual_seed(self.seed)
        parts = []
        for part, labels in self._real_parts():
            mean, logvar = posterior_of(self.model, part, labels[0] if labels and self._encodes_labels else None)
            z = draw(mean, logvar, 1, generator)[0][0]
            x_hat = self.model.decode(z, *(given.to(z.device) for given in labels))
            parts.append(_finite_bytes(x_hat, "reconstructed"))
        return torch.cat(parts)

    def _real_parts(self) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
        """Batches of ``real`` as floats, and of their classes, () for a model that takes none."""
        start = 0
        for part in float_parts(self.real, self.batch_size):
            yield part, () if self.condition is None else (self.condition[start : start + len(part)],)
            start += len(part)

    @functools.cached_property
    def net(self) -> FeatureNet:
        return load_net(self._net or choose_net(self.real.shape[1], self.unpadded(self.real).shape[2:]))

    @functools.cached_property
    def real_output(self) -> NetOutput:
        """The net's output for ``real``."""
        return apply_net(self.net, self.unpadded(self.real), name="real images")

    @functools.cached_property
    def generated_output(self) -> NetOutput:
        """The net's output for ``generated``."""
        return apply_net(self.net, self.unpadded(self.generated), name="generated images")

    @functools.cached_property
    def reconstructed_output(self) -> NetOutput:
        """The net's output for ``reconstructions``."""
        return apply_net(self.net, self.unpadded(self.reconstructions), name="reconstructed images")


def _finite_bytes(images: Tensor, kind: str) -> Tensor:
    if not images.isfinite().all():
        raise EvaluationError(f"{kind} images hold NaN or infinity; the model has diverged")
    return as_bytes(images.cpu())


def _takes_labels(model: Any) -> bool:
    classes = getattr(getattr(model, "config", None), "classes", None)  # of a VAEGAN: 0 without
    return "labels" in inspect.signature(model.sample).parameters if classes is None else classes > 0


def _takes_captions(model: Any) -> bool:
    return "captions" in inspect.signature(model.sample).parameters


def _trait(model: Any, name: str) -> bool:
    return getattr(getattr(model, "traits", None), name, False)  # those of an Autoencoder


# ---------------------------------------------------------------------------------------------------- the metrics
def _elbo(context: EvalContext) -> dict[str, float]:
    if context.real.shape[1] == 1 and not _trait(context.model, "unbounded_images"):
        return elbo(context.model, context.real, likelihood="bernoulli", **context.bound_options)
    return elbo(context.model, context.real, likelihood="gaussian", scale=context.scale, **context.bound_options)


def _nll(context: EvalContext) -> dict[str, float]:
    images = binarise(context.real, context.seed)
    bound = elbo(context.model, images, **context.bound_options)["neg_elbo"]
    weighted = iwae(context.model, images, k=context.k, **context.bound_options)
    return {"binarised_neg_elbo": bound} | {f"binarised_{name}": value for name, value in weighted.items()}


def _errors(context: EvalContext) -> dict[str, float]:
    images = context.unpadded(context.reconstructions), context.unpadded(context.real)
    return image_errors(*images, batch_size=context.batch_size)


def _latents(context: EvalContext) -> dict[str, float]:
    labels = context.bound_options["labels"]
    values = latent_statistics(context.model, context.real, labels=labels, batch_size=context.batch_size)
    configured = getattr(context.model, "scaling_factor", None)  # of an Autoencoder
    return values if configured is None else values | scaling_factors(values["latent_std"], configured)


def _rfd(context: EvalContext) -> dict[str, float]:
    distance = frechet_distance(context.real_output.features, context.reconstructed_output.features)
    return {f"{context.net.name}-rfd": distance}


def _sampled(context: EvalContext) -> dict[str, float]:
    images = context.unpadded(context.sampled_reconstructions)
    values = image_errors(images, context.unpadded(context.real), batch_size=context.batch_size)
    output = apply_net(context.net, images, name="reconstructed images")
    distance = frechet_distance(context.real_output.features, output.features)
    return {f"sampled_{name}": value for name, value in values.items()} | {f"{context.net.name}-sampled_rfd": distance}


def _fd(context: EvalContext) -> dict[str, float]:
    distance = frechet_distance(context.real_output.features, context.generated_output.features)
    return {f"{context.net.name}-fd": distance}


def _kid(context: EvalContext) -> dict[str, float]:
    values = kernel_distance(context.real_output.features, context.generated_output.features, seed=context.seed)
    return {f"{context.net.name}-{name}": value for name, value in values.items()}


def _prdc(context: EvalContext) -> dict[str, float]:
    return manifold_metrics(context.real_output.features, context.generated_output.features)


def _classes(context: EvalContext) -> dict[str, float]:
    return class_metrics(context.generated_output.probabilities, context.real_output.probabilities)


def _agreement(context: EvalContext) -> dict[str, float]:
    real = context.real_output.probabilities
    reconstructed = context.reconstructed_output.probabilities
    metrics = {"agreement": agreement(reconstructed, real.argmax(1))}
    if context.labels is not None and agreement(real, context.labels) >= _SAME_CLASSES:
        metrics["label_agreement"] = agreement(reconstructed, context.labels)
    return metrics


def _asked(context: EvalContext) -> dict[str, float]:
    """Where the net knows the classes, by its answers to the real images."""
    labels = context.labels
    assert labels is not None
    if agreement(context.real_output.probabilities, labels) < _SAME_CLASSES:
        return {}
    return {"asked_agreement": agreement(context.generated_output.probabilities, labels)}


def _cas(context: EvalContext) -> dict[str, float]:
    """Real images in two halves: one to learn from, for 20 epochs, one to be tested on."""
    half = context.n // 2
    if context.labels is not None and context.condition is not None:
        labels = context.labels
        generated_labels = context.condition
        suffix = ""
    else:
        labels = context.real_output.probabilities.argmax(1)
        generated_labels = context.generated_output.probabilities.argmax(1)
        suffix = f"_by_{context.net.name}"
    real, generated = context.unpadded(context.real), context.unpadded(context.generated)
    learn, test = (real[:half], labels[:half]), (real[half:], labels[half:])
    generated_learn = (generated[:half], generated_labels[:half])
    generated_test = (generated[half:], generated_labels[half:])
    accuracy = functools.partial(
        classification_accuracy, steps=max(50, 20 * half // 64), batch_size=64, seed=context.seed
    )
    return {
        f"cas{suffix}": accuracy(generated_learn, test),
        f"cas_reverse{suffix}": accuracy(learn, generated_test),
        f"cas_real{suffix}": accuracy(learn, test),
    }


def _inception(context: EvalContext) -> dict[str, float]:
    return {"inception-fid": inception_fid(context.unpadded(context.real), context.unpadded(context.generated))}


def _inception_reconstructed(context: EvalContext) -> dict[str, float]:
    return {"inception-rfid": inception_fid(*map(context.unpadded, (context.real, context.reconstructions)))}


class Metric(NamedTuple):
    """A group of numbers.

    Attributes:
        compute: the numbers by their names.
        default: whether it is among those that are taken unless others are named.
        encoder: whether it needs one.
        samples: whether it needs images that the model makes of nothing.
        meaning: in a line.
    """

    compute: Callable[[EvalContext], dict[str, float]]
    default: bool
    encoder: bool
    samples: bool
    meaning: str


METRICS = {
    "elbo": Metric(
        _elbo,
        True,
        True,
        False,
        "-ELBO; grey images as soft targets, others, and any of a decoder without tanh, under N(x^, scale^2)",
    ),
    "nll": Metric(_nll, False, True, False, "-ELBO and IWAE-k bound of binarised images"),
    "errors": Metric(_errors, True, True, False, "MSE, PSNR and SSIM of reconstructions"),
    "rfd": Metric(_rfd, True, True, False, "Frechet distance of features between images and their reconstructions"),
    "sampled": Metric(_sampled, False, True, False, "errors and rfd of a z ~ q(z|x) in place of the posterior's mean"),
    "latents": Metric(_latents, True, True, False, "scale, KL and active dimensions of the latents, by channel"),
    "fd": Metric(_fd, True, False, True, "Frechet distance of features"),
    "kid": Metric(_kid, True, False, True, "kernel distance of features"),
    "prdc": Metric(_prdc, True, False, True, "precision, recall, density, coverage"),
    "classes": Metric(_classes, True, False, True, "top probability, entropy, balance of the samples' classes"),
    "agreement": Metric(_agreement, True, True, False, "reconstructions that keep their class"),
    "asked": Metric(_asked, False, False, True, "samples that have the class that was asked for"),
    "cas": Metric(_cas, False, False, True, "classification accuracy score, its reverse, and that of real images"),
    "inception-fid": Metric(_inception, False, False, True, "FID; the extra 'inception' and its download"),
    "inception-rfid": Metric(_inception_reconstructed, False, True, False, "FID of reconstructions; likewise"),
}
"""The groups that ``metrics=`` chooses from."""

_OF_AUTOENCODERS = ["errors", "rfd", "latents"]


def default_metrics(model: Any) -> list[str]:
    """What is taken unless other metrics are named, where the images allow it."""
    if _trait(model, "scale_only_prior"):
        return _OF_AUTOENCODERS
    return [name for name, metric in METRICS.items() if metric.default]


def images_taken(dataset: MapDataset, n: int | None = None) -> int:
    """``n``; unless it is given 10,000 images or all there are, of large images as many as fill 1 GiB as bytes."""
    if n is not None:
        return n
    channels, size = (getattr(dataset, name, None) for name in ("channels", "image_size"))
    image = 1 if channels is None or size is None else channels * math.prod(size)
    return min(len(dataset), _MOST_IMAGES, max(1, _MOST_BYTES // image))


def evaluate(
    model: Any,
    dataset: MapDataset,
    *,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    k: int = 200,
    net: NetName | None = None,
    batch_size: int | None = None,
    pad: int = 0,
    on_metric: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Metrics of ``model`` on held-out images: docs/evaluation.md has each one's formula, source and limits.

    Real and generated images are both rounded to bytes first, as a picture file would hold them.

    Args:
        model: a ``VAEGAN``, or any module with its ``sample``, ``encode``, ``decode`` and ``reconstruct``; a ``sample``
            that takes ``labels=`` is given the dataset's. Put into evaluation mode for the call.
        dataset: what :func:`sdgan_ext.data.batches` takes, best a test split.
        metrics: names of :data:`METRICS`; None: :func:`default_metrics`, those that the model and the data have.
        n: real images, chosen by ``seed``, and as many generated ones; :func:`images_taken` unless given. Distances
            and manifold metrics compare at equal n alone.
        seed: of every random choice; the same seed, n and model give the same numbers on the same machine.
        k: draws of the IWAE bound.
        net: "lenet" or "photos"; None: what :func:`choose_net` says.
        batch_size: images at a time; 250 unless given, fewer of an autoencoder and images whose activations are large.
        pad: pixels around the images that feature nets and errors do not see, as of
            :func:`sdgan_ext.data.open_dataset`.
        on_metric: called with each group's name before it is taken.

    Returns:
        Names to numbers, all of them finite.

    Raises:
        EvaluationError: an unknown metric, one that the model or the data cannot have, n out of range, NaN.
    """
    settings = {"n": n, "seed": seed, "k": k, "net": net, "batch_size": batch_size, "pad": pad}
    context, names = prepare(model, dataset, metrics=metrics, **settings)  # type: ignore[arg-type]
    return take(context, names, on_metric)


def prepare(
    model: Any,
    dataset: MapDataset,
    *,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    k: int = 200,
    net: NetName | None = None,
    batch_size: int | None = None,
    pad: int = 0,
) -> tuple[EvalContext, list[str]]:
    """The context of :func:`evaluate`, whose arguments these are, and the metrics that it takes: all is checked."""
    if batch_size is None:
        traits = getattr(model, "traits", None)
        batch_size = _MOST_AT_A_TIME if traits is None else traits.images_at_a_time(_MOST_AT_A_TIME)
    check_whole(batch_size, "batch_size", 1)
    count = len(dataset)
    check_whole(count, "the number of images in the dataset", 1)
    n = images_taken(dataset, n)
    check_whole(n, "n", 1, count, ", the images of the dataset")
    check_whole(seed, "seed", 0)
    check_whole(k, "k", 1, MOST_K)
    check_whole(pad, "pad", 0)
    if net is not None:
        load_net(net)
    reasons = refusals(model, dataset, n=n, net=net, pad=pad)
    if metrics is None:
        metrics = [name for name in default_metrics(model) if name not in reasons]
    for name in metrics:
        if name not in METRICS:
            raise EvaluationError(
                f"there is no metric {name!r}{nearest(name, METRICS)}; there are {', '.join(METRICS)}"
            )
        if name in reasons:
            raise EvaluationError(f"metric {name!r} cannot be taken: {reasons[name]}")
    if not metrics:
        raise EvaluationError(f"metrics is empty; there are {', '.join(METRICS)}")
    return EvalContext(model, dataset, n, seed, net, batch_size, k, pad), list(metrics)


@torch.no_grad()
def take(
    context: EvalContext, metrics: Sequence[str], on_metric: Callable[[str], None] | None = None
) -> dict[str, float]:
    """The numbers of ``metrics``, as :func:`evaluate` returns them."""
    values: dict[str, float] = {}
    with evaluation_mode(context.model):
        for name in metrics:
            if on_metric is not None:
                on_metric(name)
            values |= METRICS[name].compute(context)
    if not values:
        raise EvaluationError(
            f"metric 'asked' cannot be taken: the classes of these images are not those that {context.net.name} knows"
        )
    return values


def refusals(
    model: Any, dataset: MapDataset, *, n: int | None = None, net: NetName | None = None, pad: int = 0
) -> dict[str, str]:
    """The metrics that cannot be taken of this model on n images of this data, and why."""
    reasons: dict[str, str] = {}
    n = images_taken(dataset, n)
    channels, size = (getattr(dataset, name, None) for name in ("channels", "image_size"))
    if size is not None and min(size) <= 2 * pad:
        raise EvaluationError(f"pad is {pad} on each side, but the images have {size[0]}x{size[1]} pixels")
    if channels is not None and size is not None:
        size = size[0] - 2 * pad, size[1] - 2 * pad
        net_name = net or choose_net(channels, size)
        kind = NETS[net_name].build if net_name in NETS else None
        if kind and n <= kind.num_features:
            few = f"n is {n}; with the {kind.num_features} features of {net_name} it needs more images than that"
            reasons |= dict.fromkeys(("fd", "rfd", "sampled"), few)
        if kind and 2 * min(size) < kind.side:
            small = f"images of {size[0]}x{size[1]} are too small for the feature net {net_name!r}"
            of_net = ("fd", "rfd", "sampled", "kid", "prdc", "classes", "agreement", "asked", "cas")
            reasons |= dict.fromkeys(of_net, small)
    if channels not in (None, 1):
        reasons["nll"] = "binarised images are grey, these have colour"
    elif _trait(model, "unbounded_images"):
        reasons["nll"] = "the decoder's images are not bounded to [-1, 1], so that they are no probabilities"
    for name, least in (
        ("latents", 2),
        ("kid", 2),
        ("prdc", 6),
        ("cas", 4),
        ("inception-fid", 2049),
        ("inception-rfid", 2049),
    ):
        if n < least:
            reasons[name] = f"n is {n}; it needs {least} images or more"
    if reason := missing():
        reasons |= dict.fromkeys(("inception-fid", "inception-rfid"), reason)
    if getattr(getattr(model, "config", None), "classes", 0) and getattr(dataset, "num_classes", 0) is None:
        reasons |= dict.fromkeys(("elbo", "nll"), "the model has p(x | class), and these images have no classes")
    if not _takes_labels(model):
        reasons["asked"] = "the model is not conditioned on classes"
    elif getattr(dataset, "num_classes", 0) is None:
        reasons["asked"] = "these images have no classes"
    if getattr(model, "encoder", model) is None or not callable(getattr(model, "encode", None)):
        names = (name for name, metric in METRICS.items() if metric.encoder)
        why = "the model has no encoder (mode 'gan'; the autoencoder of a diffusion model is evaluated by itself)"
        reasons |= dict.fromkeys(names, why)
    if _trait(model, "scale_only_prior"):
        reasons |= dict.fromkeys((name for name, metric in METRICS.items() if metric.samples), _NO_IMAGES)
    return reasons
