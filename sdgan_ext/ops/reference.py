"""The specification: every public op written in stock torch, for reading, testing and exporting.

The public functions here take what ``sdgan_ext.ops`` takes and do what it does; ``adversarial_loss`` and its kin beside
them take the integers of the native schemas (csrc/ops/library.cpp).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import _reduction as _Reduction

__all__ = [
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv2d",
    "conv_transpose2d",
    "discriminator_loss",
    "gaussian_kl",
    "generator_loss",
    "philox_normal",
    "reconstruction_loss",
    "sample_gaussian",
]


def _reduce(x: Tensor, reduction: str) -> Tensor:
    """``batchmean`` is the sum over everything but the batch, averaged over the batch."""
    if reduction == "batchmean":
        return x.sum() / x.shape[0]
    return {"none": lambda: x, "mean": x.mean, "sum": x.sum}[reduction]()


# -------------------------------------------------------------------------------------------- adversarial_loss
def discriminator_loss(real_logits, fake_logits, objective="non_saturating", *, real_target=1.0, reduction="mean"):
    real, fake = {
        "non_saturating": lambda r, f: (F.softplus(r) - real_target * r, F.softplus(f)),
        "minimax": lambda r, f: (F.softplus(r) - real_target * r, F.softplus(f)),
        "hinge": lambda r, f: (F.relu(1 - r), F.relu(1 + f)),
        "least_squares": lambda r, f: (0.5 * (r - real_target) ** 2, 0.5 * f**2),
        "wasserstein": lambda r, f: (-r, f),
        "relativistic": lambda r, f: (F.softplus(f - r), torch.zeros_like(f)),
    }[objective](real_logits, fake_logits)
    return _reduce(real, reduction) + _reduce(fake, reduction)


def generator_loss(fake_logits, real_logits=None, objective="non_saturating", *, reduction="mean"):
    loss = {
        "non_saturating": lambda: F.softplus(-fake_logits),
        "minimax": lambda: -F.softplus(fake_logits),
        "hinge": lambda: -fake_logits,
        "least_squares": lambda: 0.5 * (fake_logits - 1) ** 2,
        "wasserstein": lambda: -fake_logits,
        "relativistic": lambda: F.softplus(real_logits - fake_logits),
    }[objective]()
    return _reduce(loss, reduction)


def adversarial_loss(real, fake, objective, role, real_target, reduction):
    objective = _OBJECTIVES[objective]
    reduction = _REDUCTIONS[reduction]
    if role == 0:
        return discriminator_loss(real, fake, objective, real_target=real_target, reduction=reduction)
    return generator_loss(fake, real, objective, reduction=reduction)


_OBJECTIVES = ("non_saturating", "minimax", "hinge", "least_squares", "wasserstein", "relativistic")
_REDUCTIONS = ("none", "mean", "sum", "batchmean")


# ---------------------------------------------------------------------------------------------------- gaussian
def sample_gaussian(mean, logvar, *, seed=None, generator=None, eps=None, reduction="batchmean"):
    if eps is None:
        if seed is None:
            seed = torch.randint(-(2**63), 2**63 - 1, (), generator=generator)
        eps = philox_normal(seed, mean.numel()).reshape(mean.shape).to(mean)
    return mean + (logvar / 2).exp() * eps, gaussian_kl(mean, logvar, reduction)


def gaussian_kl(mean, logvar, reduction="batchmean"):
    return _reduce(0.5 * (mean**2 + logvar.exp() - 1 - logvar), reduction)


def gaussian_backward(grad_z, grad_kl, mean, logvar, z, reduction, need_eps):
    grad_mean = grad_logvar = torch.zeros_like(mean)
    grad_eps = None
    if grad_z is not None:
        grad_mean = grad_z
        grad_logvar = 0.5 * grad_z * (z - mean)
        grad_eps = grad_z * (logvar / 2).exp() if need_eps else None
    if grad_kl is not None:
        grad_kl = grad_kl / {"batchmean": mean.shape[0], "mean": mean.numel()}.get(_REDUCTIONS[reduction], 1)
        grad_mean = grad_mean + grad_kl * mean
        grad_logvar = grad_logvar + 0.5 * grad_kl * (logvar.exp() - 1)
    return grad_mean, grad_logvar, grad_eps


def philox(counter, key):
    """Philox4x32-10 (Salmon et al. 2011): ``counter`` ``[n, 4]`` and ``key`` ``[2]`` hold 32-bit words in int64."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    low = 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) ^ c1 ^ k0) & low, p1 & low, ((p0 >> 32) ^ c3 ^ k1) & low, p0 & low
        k0, k1 = (k0 + 0x9E3779B9) & low, (k1 + 0xBB67AE85) & low
    return torch.stack((c0, c1, c2, c3), dim=-1)


def philox_normal(seed, n):
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
def reconstruction_loss(x_hat, x, kind="mse", reduction="batchmean"):
    loss = {
        "mse": lambda: (x_hat - x) ** 2,
        "l1": lambda: (x_hat - x).abs(),
        "bce": lambda: binary_cross_entropy_with_logits(x_hat, x, reduction="none"),
        "gaussian": lambda: 0.5 * ((x_hat - x) ** 2 + math.log(2 * math.pi)),
    }[kind]()
    return _reduce(loss, reduction)


# --------------------------------------------------------------------------------------------------------- bce
def binary_cross_entropy_with_logits(
    input, target, weight=None, size_average=None, reduce=None, reduction="mean", pos_weight=None
):
    pos_weight = torch.ones_like(input) if pos_weight is None else pos_weight
    loss = -(pos_weight * target * F.logsigmoid(input) + (1 - target) * F.logsigmoid(-input))
    return _reduce_weighted(loss, weight, size_average, reduce, reduction)


def binary_cross_entropy(input, target, weight=None, size_average=None, reduce=None, reduction="mean"):
    loss = F.binary_cross_entropy(input, target, reduction="none")
    return _reduce_weighted(loss, weight, size_average, reduce, reduction)


def _reduce_weighted(loss, weight, size_average, reduce, reduction):
    if size_average is not None or reduce is not None:
        reduction = _Reduction.legacy_get_string(size_average, reduce)
    return _reduce(loss if weight is None else loss * weight, reduction)


def bce(input, target, weight, pos_weight, logits, reduction):
    reduction = _REDUCTIONS[reduction]
    if logits:
        return binary_cross_entropy_with_logits(input, target, weight, reduction=reduction, pos_weight=pos_weight)
    return binary_cross_entropy(input, target, weight, reduction=reduction)


# -------------------------------------------------------------------------------------- conv2d, conv_transpose2d
def activate(x, activation, negative_slope=0.2):
    return {
        None: lambda: x,
        "relu": lambda: F.relu(x),
        "leaky_relu": lambda: F.leaky_relu(x, negative_slope),
        "tanh": lambda: torch.tanh(x),
        "sigmoid": lambda: torch.sigmoid(x),
        "silu": lambda: F.silu(x),
        "elu": lambda: F.elu(x),
    }[activation]()


def activation_slope(activation, negative_slope, saved):
    """act' from the output, or for silu from the input; None stands for 1. Takes the integer of the schemas."""
    one = torch.ones_like(saved)
    slope = {
        "relu": lambda y: (y > 0).to(y.dtype),
        "leaky_relu": lambda y: torch.where(y > 0, one, one * negative_slope),
        "tanh": lambda y: 1 - y * y,
        "sigmoid": lambda y: y * (1 - y),
        "silu": lambda x: torch.sigmoid(x) * (1 + x * (1 - torch.sigmoid(x))),
        "elu": lambda y: torch.where(y < 0, y + 1, one),
    }.get(_ACTIVATIONS[activation])
    return None if slope is None else slope(saved)


def activation_curvature(activation, saved):
    """The derivative of :func:`activation_slope` by ``saved``; None stands for 0."""
    curvature = {
        "tanh": lambda y: -2 * y,
        "sigmoid": lambda y: 1 - 2 * y,
        "silu": lambda x: torch.sigmoid(x) * torch.sigmoid(-x) * (2 - x * torch.tanh(x / 2)),
        "elu": lambda y: (y < 0).to(y.dtype),
    }.get(_ACTIVATIONS[activation])
    return None if curvature is None else curvature(saved)


def _sides(value):
    value = (value, value) if isinstance(value, int) else tuple(value)
    return value if len(value) == 4 else (value[0], value[0], value[1], value[1])


def conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1, *, activation=None, negative_slope=0.2):
    if not isinstance(padding, str):
        top, bottom, left, right = _sides(padding)
        input, padding = F.pad(input, (left, right, top, bottom)), 0
    return activate(F.conv2d(input, weight, bias, stride, padding, dilation, groups), activation, negative_slope)


def conv_transpose2d(
    input,
    weight,
    bias=None,
    stride=1,
    padding=0,
    output_padding=0,
    groups=1,
    dilation=1,
    *,
    crop=None,
    activation=None,
    negative_slope=0.2,
):
    if crop is None:
        y = F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)
    else:
        top, bottom, left, right = crop
        full = F.conv_transpose2d(input, weight, bias, stride, 0, 0, groups, dilation)
        y = F.pad(full, (-left, -right, -top, -bottom))
    return activate(y, activation, negative_slope)


_ACTIVATIONS = (None, "relu", "leaky_relu", "tanh", "sigmoid", "silu", "elu")


# -------------------------------------------------------------------------------------------------- batch_norm
def batch_norm(
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *,
    activation=None,
    negative_slope=0.2,
):
    normalized = F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    return activate(normalized, activation, negative_slope)


def batch_norm_native(input, weight, bias, mean, var, eps, activation, negative_slope):
    """The operator: without given statistics it takes those of the batch; the ones in use come back, at least float."""
    if mean is None:
        mean, var = batch_statistics(input)
    x, mean, var = _at_least_float(input), _at_least_float(mean), _at_least_float(var)
    channels = (1, -1, *[1] * (x.dim() - 2))
    y = (x - mean.view(channels)) * torch.rsqrt(var + eps).view(channels)
    y = y if weight is None else y * weight.view(channels)
    y = y if bias is None else y + bias.view(channels)
    return activate(y, _ACTIVATIONS[activation], negative_slope).to(input.dtype), mean, var


def batch_statistics(input):
    """Mean and biased variance of each channel."""
    dims = [d for d in range(input.dim()) if d != 1]
    return _at_least_float(input).mean(dims), _at_least_float(input).var(dims, correction=0)


def _at_least_float(x):
    return x.to(torch.promote_types(x.dtype, torch.float32))
