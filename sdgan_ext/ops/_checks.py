"""Argument checks: each refusal is one sentence that names the argument, what came and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from .. import _native  # it registers torch.ops.sdgan_ext
from ._enums import ACTIVATIONS

FLOATS = (torch.float32, torch.bfloat16, torch.float64)
HALVES = (torch.float16,)


def check_choice(name: str, value: object, choices: Collection[object]) -> None:
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} is {value!r}; allowed are {allowed}")


def check_activation(activation: object, negative_slope: object) -> None:
    check_choice("activation", activation, ACTIVATIONS)
    if not isinstance(negative_slope, (float, int)) or not 0 <= negative_slope < math.inf:
        raise ValueError(f"negative_slope is {negative_slope!r}; it must be a finite number of at least 0")


def cuda_obstacle(build: _native.BuildInfo, running: str | None = torch.version.cuda) -> str | None:
    """Why a build of :func:`sdgan_ext.build_info` cannot work on CUDA tensors of this torch, and the fix; or None."""
    rebuild = f"SDGAN_CUDA=ON {_native.REBUILD}"
    if not build["cuda"] or build["cuda_architectures"] == ["host"]:
        return f"this build of sdgan_ext has no CUDA kernels ({build['cuda_reason']}); rebuild it with `{rebuild}`"
    compiled = build["cuda_version"].split(".")[0]
    wanted = (running or compiled).split(".")[0]
    if compiled == wanted:
        return None
    return (
        f"this build of sdgan_ext was compiled with CUDA {compiled}, torch {torch.__version__} runs CUDA {running}; "
        f"rebuild it with the nvcc of CUDA {wanted} (`CUDACXX=/usr/local/cuda-{wanted}/bin/nvcc {rebuild}`)"
    )


#: Of this build and this torch. Found once a process: a check must cost less than a small loss.
CUDA_OBSTACLE = cuda_obstacle(_native.build_info())


def check_tensor(name: str, value: object, *, dim: int | None = None, runs: bool = True) -> None:
    """A floating-point tensor of a dtype and, where a kernel ``runs`` on it, on a device that this build takes."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if runs and not value.is_cpu:
        _check_device(name, value)
    if value.dtype not in FLOATS and (value.is_cpu or value.dtype not in HALVES):
        raise TypeError(f"{name} has dtype {value.dtype}; allowed are float32, bfloat16, float64, and float16 on CUDA")
    if dim is not None and value.dim() != dim:
        raise ValueError(f"{name} must have {dim} dimensions, got shape {tuple(value.shape)}")


def _check_device(name: str, value: Tensor) -> None:
    if value.is_cuda:
        if CUDA_OBSTACLE is not None:
            raise ValueError(f"{name} is on {value.device}, but {CUDA_OBSTACLE}")
    elif not value.is_meta:
        raise ValueError(f"{name} is on {value.device}; allowed are cpu and cuda")


def check_like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Same dtype and device as another argument. Under autocast dtypes may differ: the op casts them."""
    if value.dtype != other.dtype and not torch.is_autocast_enabled(value.device.type):
        raise TypeError(f"{name} has dtype {value.dtype}, {other_name} has {other.dtype}; they must be the same")
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device}, {other_name} on {other.device}; they must be the same")


def check_same_shape(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    if value.shape != other.shape:
        raise ValueError(f"{name} has shape {tuple(value.shape)}, {other_name} {tuple(other.shape)}; they must match")


def check_batch(name: str, value: Tensor) -> None:
    if value.dim() == 0:
        raise ValueError(f"{name} is a scalar; its first dimension must be the batch")


def check_pair(name: str, value: Tensor, other_name: str, other: Tensor, *, same_shape: bool = True) -> None:
    """:func:`check_tensor` of both, ``check_like`` and ``check_same_shape``; quick where all is well, on the CPU."""
    if not (
        type(value) is Tensor is type(other)
        and value.is_cpu
        and other.is_cpu
        and value.dtype is other.dtype
        and value.dtype in FLOATS
    ):
        check_tensor(other_name, other)
        check_tensor(name, value)
        check_like(name, value, other_name, other)
    if same_shape:
        check_same_shape(name, value, other_name, other)
