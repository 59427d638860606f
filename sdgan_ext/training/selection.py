"""Metrics during a training: the best model is kept, and a training that no longer gets better can end.

Judged on held-out images, by the averaged (EMA) model: -ELBO, or the distance of features. Never by an adversarial
loss, which depends on the other network as much as on the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch.utils.data import Dataset

from .._errors import ConfigError, DataError
from .._files import replacing, to_json
from .._modes import evaluation_mode
from ..data import batches, hold_out, open_dataset
from ..evaluation import binarise, elbo, evaluate
from ..evaluation.evaluate import refusals
from .config import LoopConfig
from .runs import Run

__all__ = ["Selection", "held_out_images", "split"]


def split(dataset: Dataset, config: LoopConfig) -> tuple[Dataset, Dataset | None]:
    """What is trained on, and the ``config.validation_images`` that are not; None where there are none.

    Raises:
        ConfigError: there are not so many.
    """
    count = config.validation_images
    try:
        return hold_out(dataset, count) if count else (dataset, None)
    except DataError as error:
        raise ConfigError(f"validation_images is {count}, but {error}") from None


def held_out_images(
    config: LoopConfig,
    model: Any,
    source: str | None,
    given: Dataset | None,
    validation: Dataset | None,
    options: Mapping[str, Any],
) -> Dataset:
    """What ``config.evaluate_every`` judges by: images ``given``, of :func:`split`, or of the test split of ``source``.

    Args:
        options: of :func:`~sdgan_ext.data.open_dataset`, what the model asks of the data.

    Raises:
        ConfigError: there are none, or two; or what ``config`` evaluates cannot be taken of them, and the reason.
    """
    if given is not None and validation is not None:
        raise ConfigError(
            f"validation_images is {config.validation_images}, but held_out is given too: one of them decides"
        )
    images = validation if given is None else given
    if images is None:
        images = _test_split(config, model, source, options)
    n = min(config.evaluate_images, len(images))
    reason = refusals(model, images, n=n).get(config.evaluate_metric)
    if reason is not None:
        raise ConfigError(f"evaluate_metric {config.evaluate_metric!r} cannot be taken: {reason}")
    return images


def _test_split(config: LoopConfig, model: Any, source: str | None, options: Mapping[str, Any]) -> Dataset:
    if source is None:
        raise ConfigError(
            "evaluate_every needs held-out images; give fit(..., held_out=dataset), or set validation_images"
        )
    channels, *size = model.traits.image_shape
    try:
        return open_dataset(
            source,
            split="test",
            image_size=tuple(size),
            channels=channels,
            background=config.background,
            resize=config.resize,
            cache=config.cache,
            max_bad=config.max_bad,
            pad=config.pad,
            **options,
        )
    except DataError as error:
        raise ConfigError(
            f"evaluate_every needs held-out images, and {source} has none ({error}); set validation_images"
        ) from None


class Selection:
    """Evaluates every ``config.evaluate_every`` steps and keeps the best model in ``run.folder / "best"``.

    With ``config.binarise`` -ELBO is that of binarised images, drawn once from the held-out ones: what is trained.

    Args:
        held_out: images that are not trained on.
        run: where the best model is kept, beside ``best.json`` that says of which step it is.
        say: takes a line for the user.
    """

    def __init__(self, config: LoopConfig, held_out: Dataset, run: Run, say: Callable[[str], None]):
        self._config, self._held_out, self._run, self._say = config, held_out, run, say
        self._images = min(config.evaluate_images, len(held_out))

    def due(self, step: int) -> bool:
        return step % self._config.evaluate_every == 0

    def take(self, model: Any, step: int) -> dict[str, float]:
        """The metrics after ``step`` steps, named "evaluation/..."; the smaller the first, the better."""
        values = self._judge(model)
        name, value = next(iter(values.items()))
        best = self._run.best
        if value < best.get("value", math.inf):
            self._run.best = {"metric": name, "value": value, "step": step, "images": self._images, "since": 0}
            self._keep(model)
        else:
            self._run.best = {**best, "since": best["since"] + 1}
        return {f"evaluation/{key}": number for key, number in values.items()}

    def _judge(self, model: Any) -> dict[str, float]:
        if not (self._config.binarise and self._config.evaluate_metric == "elbo"):
            return evaluate(model, self._held_out, metrics=[self._config.evaluate_metric], n=self._images, seed=0)
        images, labels = next(batches(self._held_out, self._images, seed=0))
        labels = labels if model.traits.classes else None
        with evaluation_mode(model):
            values = elbo(model, binarise(images), labels=labels)
        return {f"binarised_{name}": value for name, value in values.items()}

    @property
    def exhausted(self) -> bool:
        """Whether ``config.patience`` evaluations have brought nothing better; says so."""
        best, patience = self._run.best, self._config.patience
        if not patience or best.get("since", 0) < patience:
            return False
        self._say(
            f"{best['metric']} has not improved in {patience} evaluations: the training ends; its best, "
            f"{best['value']:.4g}, is that of step {best['step']}"
        )
        return True

    def _keep(self, model: Any) -> None:
        if self._run.folder is None:
            return
        folder = self._run.folder / "best"
        model.save_pretrained(folder)
        with replacing(folder / "best.json") as file:
            file.write((to_json(self._run.best, indent=2) + "\n").encode())
