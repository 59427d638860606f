"""How good is a model? Metrics that need no download, as pure functions that return numbers.

::

    sd.evaluation.evaluate(model, sd.data.open_dataset("mnist", split="test"))  # {"neg_elbo": ..., ...}

docs/evaluation.md has each metric's formula, source and limits. torchmetrics is imported when a metric first needs it.
"""

from typing import Any

from .classes import agreement, class_metrics, classification_accuracy, train_classifier
from .distances import frechet_distance, kernel_distance
from .evaluate import METRICS, EvalContext, evaluate, refusals
from .features import NETS, FeatureNet, NetOutput, apply_net, choose_net, load_net
from .image_errors import image_errors
from .inception import inception_fid
from .latents import latent_statistics
from .likelihood import binarise, elbo, iwae
from .manifold import manifold_metrics

__all__ = [
    "METRICS",
    "NETS",
    "EvalContext",
    "FeatureNet",
    "NetOutput",
    "agreement",
    "apply_net",
    "binarise",
    "choose_net",
    "class_metrics",
    "classification_accuracy",
    "elbo",
    "evaluate",
    "frechet_distance",
    "image_errors",
    "inception_fid",
    "iwae",
    "kernel_distance",
    "latent_statistics",
    "load_net",
    "manifold_metrics",
    "refusals",
    "train_classifier",
]


def __getattr__(name: str) -> Any:
    if name != "look":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import warnings

    warnings.warn("evaluation.look is called apply_net; the old name goes with the next release", DeprecationWarning, 2)
    return apply_net
