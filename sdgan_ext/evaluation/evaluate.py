"""One call for all metrics of a model on a dataset."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .._errors import EvaluationError, nearest
from ..data.loader import batches
from ._images import as_bytes, check_whole, float_parts
from .classes import agreement, class_metrics, classification_accuracy
from .distances import frechet_distance, kernel_distance
from .features import NETS, FeatureNet, choose_net, load_net, look
from .image_errors import image_errors
from .inception import inception_fid, missing
from .likelihood import MOST_K, binarise, elbo, iwae
from .manifold import manifold_metrics

__all__ = ["METRICS", "evaluate", "refusals"]

_MOST_IMAGES = 10_000
_SAME_CLASSES = 0.9  # a net that is right so often about the dataset's labels has the same classes


class Materials:
    """What the metrics look at, each made when first asked for."""

    def __init__(self, model: Any, dataset: Dataset, n: int, seed: int, net: str | None, batch_size: int, k: int):
        self.model, self.dataset, self.n, self.seed = model, dataset, n, seed
        self.batch_size, self.k, self._net = batch_size, k, net

    @functools.cached_property
    def _real(self) -> tuple[Tensor, Tensor]:
        size = min(self.batch_size, self.n)
        images, labels, have = [], [], 0
        for x, y in batches(self.dataset, size, seed=self.seed, drop_last=False):
            images.append(as_bytes(x))
            labels.append(y)
            have += len(x)
            if have >= self.n:
                return torch.cat(images)[: self.n], torch.cat(labels)[: self.n]
        raise AssertionError("batches() has no end")

    @property
    def real(self) -> Tensor:
        """n images of the dataset, without repeats, uint8."""
        return self._real[0]

    @property
    def labels(self) -> Tensor | None:
        """Their labels, or None where there are none."""
        return None if (self._real[1] < 0).any() else self._real[1]

    @functools.cached_property
    def asked_labels(self) -> Tensor | None:
        """The classes that a class-conditional model is asked for, as the dataset has them; None for other models."""
        return self.labels if _takes_labels(self.model) else None

    @property
    def bound_options(self) -> dict[str, Any]:
        """What :func:`elbo` and :func:`iwae` are given beside the images."""
        told = "labels" in inspect.signature(self.model.encode).parameters
        labels = self.asked_labels if told else None
        return {"labels": labels, "batch_size": self.batch_size, "seed": self.seed}

    @property
    def scale(self) -> float:
        """Of a normal distribution of pixels: the one that the model has learnt, or 1."""
        log_scale = getattr(getattr(self.model, "generator", None), "log_scale", None)  # of a VAEGAN
        return 1.0 if log_scale is None else log_scale.exp().item()

    @functools.cached_property
    def generated(self) -> Tensor:
        """n images of the model, uint8."""
        generator = torch.Generator().manual_seed(self.seed)
        parts = []
        for start in range(0, self.n, self.batch_size):
            count = min(self.batch_size, self.n - start)
            labels = {} if self.asked_labels is None else {"labels": self.asked_labels[start : start + count]}
            parts.append(_finite_bytes(self.model.sample(count, generator=generator, **labels), "generated"))
        return torch.cat(parts)

    @functools.cached_property
    def reconstructions(self) -> Tensor:
        device = next((p.device for p in self.model.parameters()), None)
        asked = itertools.repeat(()) if self.asked_labels is None else zip(self.asked_labels.split(self.batch_size))
        parts = zip(float_parts(self.real, self.batch_size), asked, strict=False)
        made = (self.model.reconstruct(part.to(device), *labels) for part, labels in parts)
        return torch.cat([_finite_bytes(images, "reconstructed") for images in made])

    @functools.cached_property
    def net(self) -> FeatureNet:
        return load_net(self._net or choose_net(self.real.shape[1], tuple(self.real.shape[2:])))

    @functools.cached_property
    def real_look(self) -> tuple[Tensor, Tensor]:
        return look(self.net, self.real, name="real images")

    @functools.cached_property
    def generated_look(self) -> tuple[Tensor, Tensor]:
        return look(self.net, self.generated, name="generated images")


def _finite_bytes(images: Tensor, kind: str) -> Tensor:
    if not images.isfinite().all():
        raise EvaluationError(f"{kind} images hold NaN or infinity; the model has diverged")
    return as_bytes(images.cpu())


def _takes_labels(model: Any) -> bool:
    classes = getattr(getattr(model, "config", None), "classes", None)  # of a VAEGAN: 0 without
    return "labels" in inspect.signature(model.sample).parameters if classes is None else classes > 0


# ---------------------------------------------------------------------------------------------------- the metrics
def _elbo(m: Materials) -> dict[str, float]:
    kind = {"likelihood": "bernoulli"} if m.real.shape[1] == 1 else {"likelihood": "gaussian", "scale": m.scale}
    return elbo(m.model, m.real, **kind, **m.bound_options)


def _nll(m: Materials) -> dict[str, float]:
    images = binarise(m.real, m.seed)
    bound = elbo(m.model, images, **m.bound_options)["neg_elbo"]
    weighted = iwae(m.model, images, k=m.k, **m.bound_options)
    return {"binarised_neg_elbo": bound} | {f"binarised_{name}": value for name, value in weighted.items()}


def _errors(m: Materials) -> dict[str, float]:
    return image_errors(m.reconstructions, m.real, batch_size=m.batch_size)


def _fd(m: Materials) -> dict[str, float]:
    return {f"{m.net.name}-fd": frechet_distance(m.real_look[0], m.generated_look[0])}


def _kid(m: Materials) -> dict[str, float]:
    values = kernel_distance(m.real_look[0], m.generated_look[0], seed=m.seed)
    return {f"{m.net.name}-{name}": value for name, value in values.items()}


def _prdc(m: Materials) -> dict[str, float]:
    return manifold_metrics(m.real_look[0], m.generated_look[0])


def _classes(m: Materials) -> dict[str, float]:
    return class_metrics(m.generated_look[1], m.real_look[1])


def _agreement(m: Materials) -> dict[str, float]:
    told = look(m.net, m.reconstructions, name="reconstructed images")[1]
    seen = m.real_look[1].argmax(1)
    metrics = {"agreement": agreement(told, seen)}
    if m.labels is not None and agreement(m.real_look[1], m.labels) >= _SAME_CLASSES:
        metrics["label_agreement"] = agreement(told, m.labels)
    return metrics


def _cas(m: Materials) -> dict[str, float]:
    """Real images in two halves: one to learn from, for 20 epochs, one to be tested on."""
    half = m.n // 2
    options = {"steps": max(50, 20 * half // 64), "batch_size": 64, "seed": m.seed}
    if m.asked_labels is not None:
        labels, generated_labels, suffix = m.labels, m.asked_labels, ""
    else:
        labels, generated_labels = (told[1].argmax(1) for told in (m.real_look, m.generated_look))
        suffix = f"_by_{m.net.name}"
    learn, test = (m.real[:half], labels[:half]), (m.real[half:], labels[half:])
    made_learn = (m.generated[:half], generated_labels[:half])
    made_test = (m.generated[half:], generated_labels[half:])
    return {
        f"cas{suffix}": classification_accuracy(made_learn, test, **options),
        f"cas_reverse{suffix}": classification_accuracy(learn, made_test, **options),
        f"cas_real{suffix}": classification_accuracy(learn, test, **options),
    }


def _inception(m: Materials) -> dict[str, float]:
    return {"inception-fid": inception_fid(m.real, m.generated)}


class Metric(NamedTuple):
    take: Callable[[Materials], dict[str, float]]
    default: bool
    encoder: bool
    meaning: str


METRICS = {
    "elbo": Metric(_elbo, True, True, "-ELBO; grey images as soft targets, others under N(x^, scale^2)"),
    "nll": Metric(_nll, False, True, "-ELBO and IWAE-k bound of binarised images"),
    "errors": Metric(_errors, True, True, "MSE, PSNR and SSIM of reconstructions"),
    "fd": Metric(_fd, True, False, "Frechet distance of features"),
    "kid": Metric(_kid, True, False, "kernel distance of features"),
    "prdc": Metric(_prdc, True, False, "precision, recall, density, coverage"),
    "classes": Metric(_classes, True, False, "top probability, entropy, balance of the samples' classes"),
    "agreement": Metric(_agreement, True, True, "reconstructions that keep their class"),
    "cas": Metric(_cas, False, False, "classification accuracy score, its reverse, and that of real images"),
    "inception-fid": Metric(_inception, False, False, "FID; the extra 'inception' and its download"),
}
"""The groups that ``metrics=`` chooses from."""


def evaluate(
    model: Any,
    dataset: Dataset,
    *,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    seed: int = 0,
    k: int = 200,
    net: str | None = None,
    batch_size: int = 250,
    on_metric: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Metrics of ``model`` on held-out images: docs/evaluation.md has each one's formula, source and limits.

    Real and generated images are both rounded to bytes first, as a picture file would hold them.

    Args:
        model: a ``VAEGAN``, or any module with its ``sample``, ``encode``, ``decode`` and ``reconstruct``; a ``sample``
            that takes ``labels=`` is asked for the dataset's classes. Put into evaluation mode for the call.
        dataset: what :func:`sdgan_ext.data.batches` takes, best a test split.
        metrics: names of :data:`METRICS`; None: all that are quick and that the model and the data have.
        n: real images, chosen by ``seed``, and as many generated ones; 10,000 or all there are unless given. Distances
            and manifold metrics compare at equal n alone.
        seed: of every random choice; the same seed, n and model give the same numbers on the same machine.
        k: draws of the IWAE bound.
        net: "lenet" or "photos"; None: what :func:`choose_net` says.
        batch_size: images at a time.
        on_metric: called with each group's name before it is taken.

    Returns:
        Names to numbers, all of them finite.

    Raises:
        EvaluationError: an unknown metric, one that the model or the data cannot have, n out of range, NaN.
    """
    check_whole(batch_size, "batch_size", 1)
    count = len(dataset)
    check_whole(count, "the number of images in the dataset", 1)
    n = min(count, _MOST_IMAGES) if n is None else n
    check_whole(n, "n", 1, count, ", the images of the dataset")
    check_whole(seed, "seed", 0)
    check_whole(k, "k", 1, MOST_K)
    if net is not None:
        load_net(net)
    reasons = refusals(model, dataset, n=n, net=net)
    if metrics is None:
        metrics = [name for name, metric in METRICS.items() if metric.default and name not in reasons]
    for name in metrics:
        if name not in METRICS:
            raise EvaluationError(
                f"there is no metric {name!r}{nearest(name, METRICS)}; there are {', '.join(METRICS)}"
            )
        if name in reasons:
            raise EvaluationError(f"metric {name!r} cannot be taken: {reasons[name]}")
    if not metrics:
        raise EvaluationError(f"metrics is empty; there are {', '.join(METRICS)}")
    materials = Materials(model, dataset, n, seed, net, batch_size, k)
    values: dict[str, float] = {}
    with _evaluating(model), torch.no_grad():
        for name in metrics:
            if on_metric is not None:
                on_metric(name)
            values |= METRICS[name].take(materials)
    return values


def refusals(model: Any, dataset: Dataset, *, n: int | None = None, net: str | None = None) -> dict[str, str]:
    """The metrics that cannot be taken of this model on n images of this data, and why."""
    reasons = {}
    n = min(len(dataset), _MOST_IMAGES) if n is None else n
    channels, size = (getattr(dataset, name, None) for name in ("channels", "image_size"))
    if channels is not None and size is not None:
        name = net or choose_net(channels, tuple(size))
        kind = NETS[name].build if name in NETS else None
        if kind and n <= kind.num_features:
            reasons["fd"] = f"n is {n}; with the {kind.num_features} features of {name} it needs more images than that"
        if kind and 2 * min(size) < kind.side:
            small = f"images of {size[0]}x{size[1]} are too small for the feature net {name!r}"
            reasons |= dict.fromkeys(("fd", "kid", "prdc", "classes", "agreement", "cas"), small)
    if channels not in (None, 1):
        reasons["nll"] = "binarised images are grey, these have colour"
    for name, least in (("kid", 2), ("prdc", 6), ("cas", 4), ("inception-fid", 2049)):
        if n < least:
            reasons[name] = f"n is {n}; it needs {least} images or more"
    if reason := missing():
        reasons["inception-fid"] = reason
    if getattr(getattr(model, "config", None), "classes", 0) and getattr(dataset, "num_classes", 0) is None:
        reasons |= dict.fromkeys(("elbo", "nll"), "the model has p(x | class), and these images have no classes")
    if getattr(model, "encoder", model) is None or not callable(getattr(model, "encode", None)):
        names = (name for name, metric in METRICS.items() if metric.encoder)
        reasons |= dict.fromkeys(names, "the model has no encoder (mode 'gan')")
    return reasons


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode (batch norm by its running statistics), and then each module's own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
