"""How good is a model? Metrics that need no download, as pure functions that return numbers.

::

    sd.evaluation.evaluate(model, sd.data.open_dataset("mnist", split="test"))  # {"neg_elbo": ..., ...}

docs/evaluation.md has each metric's formula, source and limits. torchmetrics is imported when a metric first needs it.
"""

from .classes import agreement, class_metrics, classification_accuracy, train_classifier
from .distances import frechet_distance, kernel_distance
from .evaluate import METRICS, evaluate, refusals
from .features import NETS, FeatureNet, choose_net, load_net, look
from .image_errors import image_errors
from .inception import inception_fid
from .likelihood import binarise, elbo, iwae
from .manifold import manifold_metrics

__all__ = [
    "METRICS",
    "NETS",
    "FeatureNet",
    "agreement",
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
    "load_net",
    "look",
    "manifold_metrics",
    "refusals",
    "train_classifier",
]
