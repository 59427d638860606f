"""The enumerations of the operators: names in Python, integers in the schemas of csrc/ops/library.cpp.

The order of the names is that of the C++ enumerations; python_tests/ops/test_enums.py compares them.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import torch

__all__ = [
    "ACTIVATIONS",
    "ACTIVATION_NAMES",
    "Activation",
    "DISCRIMINATOR",
    "DTYPES",
    "GENERATOR",
    "OBJECTIVES",
    "OBJECTIVE_NAMES",
    "Objective",
    "RECONSTRUCTIONS",
    "RECONSTRUCTION_NAMES",
    "REDUCTIONS",
    "REDUCTION_NAMES",
    "Reconstruction",
    "Reduction",
    "TORCH_REDUCTIONS",
    "TorchReduction",
]

#: What :func:`~sdgan_ext.ops.conv2d` and others apply to their result; None for nothing.
Activation = Literal["relu", "leaky_relu", "tanh", "sigmoid", "silu", "elu"]
#: Of a loss: ``batchmean`` is the sum over everything but the batch, averaged over the batch.
Reduction = Literal["none", "mean", "sum", "batchmean"]
#: Of a loss whose signature is torch's.
TorchReduction = Literal["none", "mean", "sum"]
#: Of a GAN.
Objective = Literal["non_saturating", "minimax", "hinge", "least_squares", "wasserstein", "relativistic"]
#: The error of a reconstruction.
Reconstruction = Literal["mse", "l1", "bce", "gaussian"]

ACTIVATION_NAMES: Final[tuple[Activation | None, ...]] = (None, *get_args(Activation))
REDUCTION_NAMES: Final[tuple[Reduction, ...]] = get_args(Reduction)
TORCH_REDUCTIONS: Final[tuple[TorchReduction, ...]] = get_args(TorchReduction)
OBJECTIVE_NAMES: Final[tuple[Objective, ...]] = get_args(Objective)
RECONSTRUCTION_NAMES: Final[tuple[Reconstruction, ...]] = get_args(Reconstruction)

#: csrc/kernels/activation.h
ACTIVATIONS: Final[dict[Activation | None, int]] = {name: i for i, name in enumerate(ACTIVATION_NAMES)}
#: csrc/kernels/scalar.h
REDUCTIONS: Final[dict[Reduction, int]] = {name: i for i, name in enumerate(REDUCTION_NAMES)}
#: csrc/kernels/scalar.h
DTYPES: Final[dict[torch.dtype, int]] = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
#: csrc/kernels/adversarial_loss.h
OBJECTIVES: Final[dict[Objective, int]] = {name: i for i, name in enumerate(OBJECTIVE_NAMES)}
#: csrc/kernels/adversarial_loss.h, ``Role``
DISCRIMINATOR: Final = 0
GENERATOR: Final = 1
#: csrc/kernels/reconstruction_loss.h
RECONSTRUCTIONS: Final[dict[Reconstruction, int]] = {name: i for i, name in enumerate(RECONSTRUCTION_NAMES)}
