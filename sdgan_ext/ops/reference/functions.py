"""The public functions of ``sdgan_ext.ops`` in stock torch. Their arguments are documented there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._torch_internals import legacy_reduction
from .._enums import Activation, Objective, Reconstruction, Reduction

_Pair = int | tuple[int, int]


def _reduce(x: Tensor, reduction: str) -> Tensor:
    """``batchmean`` is the sum over everything but the batch, averaged over the batch."""
    if reduction == "none":
        return x
    if reduction == "mean":
        return x.mean()
    if reduction == "sum":
        return x.sum()
    return x.sum() / x.shape[0]


# -------------------------------------------------------------------------------------------- adversarial_loss
def discriminator_loss(
    real_logits: Tensor,
    fake_logits: Tensor,
    objective: Objective = "non_saturating",
    *,
    real_target: float = 1.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """:func:`sdgan_ext.ops.discriminator_loss` in stock torch."""
    real, fake = {
        "non_saturating": lambda r, f: (F.softplus(r) - real_target * r, F.softplus(f)),
        "minimax": lambda r, f: (F.softplus(r) - real_target * r, F.softplus(f)),
        "hinge": lambda r, f: (F.relu(1 - r), F.relu(1 + f)),
        "least_squares": lambda r, f: (0.5 * (r - real_target) ** 2, 0.5 * f**2),
        "wasserstein": lambda r, f: (-r, f),
        "relativistic": lambda r, f: (F.softplus(f - r), torch.zeros_like(f)),
    }[objective](real_logits, fake_logits)
    return _reduce(real, reduction) + _reduce(fake, reduction)


def generator_loss(
    fake_logits: Tensor,
    real_logits: Tensor | None = None,
    objective: Objective = "non_saturating",
    *,
    reduction: Reduction = "mean",
) -> Tensor:
    """:func:`sdgan_ext.ops.generator_loss` in stock torch."""
    if objective == "relativistic":
        assert real_logits is not None
        return _reduce(F.softplus(real_logits - fake_logits), reduction)
    loss = {
        "non_saturating": lambda c: F.softplus(-c),
        "minimax": lambda c: -F.softplus(c),
        "hinge": lambda c: -c,
        "least_squares": lambda c: 0.5 * (c - 1) ** 2,
        "wasserstein": lambda c: -c,
    }[objective](fake_logits)
    return _reduce(loss, reduction)


# ---------------------------------------------------------------------------------------------------- gaussian
def sample_gaussian(
    mean: Tensor,
    logvar: Tensor,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    eps: Tensor | None = None,
    reduction: Reduction = "batchmean",
) -> tuple[Tensor, Tensor]:
    """:func:`sdgan_ext.ops.sample_gaussian` in stock torch."""
    if eps is None:
        if seed is None:
            seed = torch.randint(-(2**63), 2**63 - 1, (), generator=generator)
        eps = philox_normal(seed, mean.numel()).reshape(mean.shape).to(mean)
    return mean + (logvar / 2).exp() * eps, gaussian_kl(mean, logvar, reduction)


def gaussian_kl(mean: Tensor, logvar: Tensor, reduction: Reduction = "batchmean") -> Tensor:
    """:func:`sdgan_ext.ops.gaussian_kl` in stock torch."""
    return _reduce(0.5 * (mean**2 + logvar.exp() - 1 - logvar), reduction)


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Philox4x32-10 (Salmon et al. 2011): ``counter`` ``[n, 4]`` and ``key`` ``[2]`` hold 32-bit words in int64."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    low = 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & low, p1 & low, ((p0 >> 32) ^ c3 ^ k1) & low, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack((c0, c1, c2, c3), dim=-1)


def philox_normal(seed: int | Tensor, n: int) -> Tensor:
    """The first ``n`` normals of the stream of ``seed``, in float64: Box-Muller on the words of blocks 0, 1, 2, ..."""
    seed = torch.as_tensor(seed).reshape(())
    block = torch.arange((n + 3) // 4, device=seed.device)
    zero = torch.zeros_like(block)
    words = philox(torch.stack((block & 0xFFFFFFFF, block >> 32, zero, zero), dim=-1), torch.stack((seed, seed >> 32)))
    radius, angle = words[:, 0::2], words[:, 1::2].double()
    length = (-2 * (((radius >> 8) + 1).double() * 2.0**-24).log()).sqrt()
    turn = angle * (2 * torch.pi * 2.0**-32)
    return torch.stack((length * turn.cos(), length * turn.sin()), dim=-1).flatten()[:n]


# ----------------------------------------------------------------------------------------- reconstruction_loss
def reconstruction_loss(
    x_hat: Tensor, x: Tensor, kind: Reconstruction = "mse", reduction: Reduction = "batchmean"
) -> Tensor:
    """:func:`sdgan_ext.ops.reconstruction_loss` in stock torch."""
    loss = {
        "mse": lambda: (x_hat - x) ** 2,
        "l1": lambda: (x_hat - x).abs(),
        "bce": lambda: binary_cross_entropy_with_logits(x_hat, x, reduction="none"),
        "gaussian": lambda: 0.5 * ((x_hat - x) ** 2 + math.log(2 * math.pi)),
    }[kind]()
    return _reduce(loss, reduction)


# --------------------------------------------------------------------------------------------------------- bce
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """:func:`sdgan_ext.ops.binary_cross_entropy_with_logits` in stock torch."""
    pos_weight = torch.ones_like(input) if pos_weight is None else pos_weight
    loss = -(pos_weight * target * F.logsigmoid(input) + (1 - target) * F.logsigmoid(-input))
    return _reduce_weighted(loss, weight, size_average, reduce, reduction)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """:func:`sdgan_ext.ops.binary_cross_entropy` in stock torch."""
    loss = F.binary_cross_entropy(input, target, reduction="none")
    return _reduce_weighted(loss, weight, size_average, reduce, reduction)


def _reduce_weighted(
    loss: Tensor, weight: Tensor | None, size_average: bool | None, reduce: bool | None, reduction: str
) -> Tensor:
    if size_average is not None or reduce is not None:
        reduction = legacy_reduction(size_average, reduce)
    return _reduce(loss if weight is None else loss * weight, reduction)


# -------------------------------------------------------------------------------------- conv2d, conv_transpose2d
def activate(x: Tensor, activation: Activation | None, negative_slope: float = 0.2) -> Tensor:
    """``activation(x)``, elementwise; None is the identity."""
    if activation is None:
        return x
    functions = {
        "relu": F.relu,
        "leaky_relu": lambda x: F.leaky_relu(x, negative_slope),
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "silu": F.silu,
        "elu": F.elu,
    }
    return functions[activation](x)


def add_residual(x: Tensor, residual: Tensor | None, output_scale: float) -> Tensor:
    """``output_scale * (x + residual)``; a residual of None adds nothing."""
    x = x if residual is None else x + residual
    return x if output_scale == 1 else x * output_scale


def _sides(padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of an int, a (vertical, horizontal) pair or the four."""
    if isinstance(padding, int):
        return padding, padding, padding, padding
    if len(padding) == 2:
        vertical, horizontal = padding
        return vertical, vertical, horizontal, horizontal
    top, bottom, left, right = padding
    return top, bottom, left, right


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: int | tuple[int, ...] | str = 0,
    dilation: _Pair = 1,
    groups: int = 1,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
    residual: Tensor | None = None,
    output_scale: float = 1.0,
) -> Tensor:
    """:func:`sdgan_ext.ops.conv2d` in stock torch."""
    if not isinstance(padding, str):
        top, bottom, left, right = _sides(padding)
        input, padding = F.pad(input, (left, right, top, bottom)), 0
    y = F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return activate(add_residual(y, residual, output_scale), activation, negative_slope)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: _Pair = 1,
    padding: _Pair = 0,
    output_padding: _Pair = 0,
    groups: int = 1,
    dilation: _Pair = 1,
    *,
    crop: Sequence[int] | None = None,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """:func:`sdgan_ext.ops.conv_transpose2d` in stock torch."""
    if crop is None:
        y = F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    else:
        top, bottom, left, right = crop
        full = F.conv_transpose2d(input, weight, bias, stride, 0, 0, groups, dilation)
        y = F.pad(full, (-left, -right, -top, -bottom))
    return activate(y, activation, negative_slope)


def upsample_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: int = 2,
    padding: int | tuple[int, ...] | str = "same",
    groups: int = 1,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """:func:`sdgan_ext.ops.upsample_conv2d` in stock torch."""
    upsampled = input.repeat_interleave(scale, -2).repeat_interleave(scale, -1)
    y = conv2d(upsampled, weight, bias, 1, padding, groups=groups)
    return activate(y, activation, negative_slope)


# -------------------------------------------------------------------------------------------------- batch_norm
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """:func:`sdgan_ext.ops.batch_norm` in stock torch."""
    normalized = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return activate(normalized, activation, negative_slope)


def batch_statistics(input: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel, in float32 at least. [N, C, ...] -> [C], [C]"""
    dims = [d for d in range(input.dim()) if d != 1]
    return at_least_float(input).mean(dims), at_least_float(input).var(dims, correction=0)


# -------------------------------------------------------------------------------------------------- group_norm
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *,
    activation: Activation | None = None,
    negative_slope: float = 0.2,
) -> Tensor:
    """:func:`sdgan_ext.ops.group_norm` in stock torch."""
    return activate(F.group_norm(input, num_groups, weight, bias, eps), activation, negative_slope)


def group_statistics(input: Tensor, num_groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(biased variance + eps) of each group, in float32 at least. [N, C, ...] -> [N, G], [N, G]"""
    groups = at_least_float(input).unflatten(1, (num_groups, -1)).flatten(2)
    return groups.mean(2), torch.rsqrt(groups.var(2, correction=0) + eps)


def at_least_float(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is that."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
