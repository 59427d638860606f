"""The classes of generated images by a classifier, and whether a reconstruction keeps the class of its image."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from .._errors import EvaluationError
from ..data.values import to_float
from ._images import check_images, check_whole, float_parts
from .features import NETS, FeatureNet, choose_net, fit

__all__ = ["agreement", "class_metrics", "classification_accuracy", "train_classifier"]


def class_metrics(probabilities: Tensor, real_probabilities: Tensor | None = None) -> dict[str, float]:
    """How a classifier's answers for generated images are spread.

    Args:
        probabilities: [N, K], each row's sum 1, as from :func:`apply_net`.
        real_probabilities: of real images, [M, K].

    Returns:
        ``top_probability``, the mean of the largest; ``class_entropy = -sum s_c log s_c`` of the shares s of the most
        likely classes, in nats, log K at most; ``rarest_class``, the least share; and, with real images,
        ``class_balance = 1/2 sum |s_c - r_c|``, the total variation from their shares, 0 at best.

    Raises:
        EvaluationError: no probabilities, NaN, two numbers of classes.
    """
    shares = _shares(probabilities, "probabilities")
    metrics = {
        "top_probability": probabilities.max(1).values.double().mean().item(),
        "class_entropy": -torch.special.xlogy(shares, shares).sum().item() + 0.0,
        "rarest_class": shares.min().item(),
    }
    if real_probabilities is not None:
        real = _shares(real_probabilities, "real_probabilities")
        if len(real) != len(shares):
            raise EvaluationError(
                f"probabilities are of {len(shares)} classes and real_probabilities of {len(real)}; "
                "both must come from one net"
            )
        metrics["class_balance"] = 0.5 * (shares - real).abs().sum().item()
    return metrics


def _shares(probabilities: Tensor, name: str) -> Tensor:
    if probabilities.dim() != 2 or 0 in probabilities.shape:
        raise EvaluationError(f"{name} has shape {tuple(probabilities.shape)}; it must be [N, classes], N at least 1")
    if not ((probabilities.sum(1) - 1).abs() < 1e-3).all():  # false for NaN
        raise EvaluationError(f"{name} has rows whose sum is not 1; it must hold probabilities")
    return probabilities.argmax(1).bincount(minlength=probabilities.shape[1]).double() / len(probabilities)


def agreement(probabilities_hat: Tensor, classes: Tensor) -> float:
    """Share of reconstructions with the class of their image.

    Args:
        probabilities_hat: [N, K], of the reconstructions.
        classes: [N], true labels, or the net's own answer for the images, ``probabilities.argmax(1)``.
    """
    _shares(probabilities_hat, "probabilities_hat")
    if classes.shape != probabilities_hat.shape[:1]:
        raise EvaluationError(
            f"classes has shape {tuple(classes.shape)}; it must be [{len(probabilities_hat)}], one of each image"
        )
    return (probabilities_hat.argmax(1) == classes).double().mean().item()


def train_classifier(
    images: Tensor, labels: Tensor, *, steps: int = 1000, batch_size: int = 64, seed: int = 0
) -> FeatureNet:
    """A classifier of the shipped nets' architecture, trained on these images from nothing.

    Args:
        images: [N, C, H, W], uint8 or floats in [-1, 1], fitted to the net that :func:`choose_net` names.
        labels: int64 [N], from 0.
        steps, batch_size, seed: Adam, 2e-3 in one cycle.

    Returns:
        The net, in evaluation mode.

    Raises:
        EvaluationError: not images, labels of another length or below 0.
    """
    check_images(images, "images", 2)
    check_whole(steps, "steps", 4)
    check_whole(batch_size, "batch_size", 2)
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.min() < 0:
        raise EvaluationError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; they must be [{len(images)}] integers >= 0"
        )
    if (labels == labels[0]).all():
        warnings.warn(f"labels are all {int(labels[0])}; the classifier will know no other class", stacklevel=2)
    build = NETS[choose_net(images.shape[1], images.shape[2:])].build
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        net = build(tuple(map(str, range(int(labels.max()) + 1))))
        images = fit(images, net).cpu()
        order = _order(len(images), batch_size)
        optimizer = torch.optim.Adam(net.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
        for _ in range(steps):
            pick = next(order)
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(net(to_float(images[pick]))[1], labels[pick])
            loss.backward()
            optimizer.step()
            schedule.step()
    if not math.isfinite(loss.item()):
        raise EvaluationError("the classifier's loss is NaN or infinite; the images cannot be learnt from")
    return net.eval()


def _order(count: int, batch_size: int) -> Iterator[Tensor]:
    while True:
        yield from torch.split(torch.randperm(count), batch_size)


@torch.no_grad()
def classification_accuracy(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], *, steps: int = 1000, batch_size: int = 64, seed: int = 0
) -> float:
    """Accuracy on ``test`` of a classifier trained on ``train``, both (images, labels): Ravuri & Vinyals 2019.

    Their classification accuracy score trains on generated images and tests on real ones: what is missing or wrong in
    the generated ones costs accuracy. The reverse measures whether generated images are of their class, and not whether
    they show all of it. Arguments as in :func:`train_classifier`.
    """
    net = train_classifier(*train, steps=steps, batch_size=batch_size, seed=seed)
    images, labels = test
    check_images(images, "test images")
    if labels.shape != images.shape[:1]:
        raise EvaluationError(f"test labels have shape {tuple(labels.shape)}; they must be [{len(images)}]")
    fitted = fit(images, net, "test images").cpu()
    answers = torch.cat([net(part)[1].argmax(1) for part in float_parts(fitted, 500)])
    return (answers == labels).double().mean().item()
