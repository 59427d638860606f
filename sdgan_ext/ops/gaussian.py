"""Reparameterisation and KL divergence of a diagonal Gaussian posterior, in one pass. Math: docs/ops/gaussian.md."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._torch_internals import shares_storage, transformed
from . import reference
from ._autograd import differentiable, reference_vjp, register_autocast
from ._checks import check_batch, check_choice, check_like, check_pair, check_same_shape, check_tensor
from ._enums import REDUCTIONS, Reduction

__all__ = ["gaussian_kl", "sample_gaussian"]


def sample_gaussian(
    mean: Tensor,
    logvar: Tensor,
    *,
    seed: int | Tensor | None = None,
    generator: torch.Generator | None = None,
    eps: Tensor | None = None,
    reduction: Reduction = "batchmean",
    out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A sample ``z`` of N(mean, exp(logvar)), and the KL divergence of that distribution to N(0, I), in nats.

    Equivalent to::

        z = mean + (logvar / 2).exp() * torch.randn_like(mean)
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(mean)

    Args:
        mean: shape ``(batch, *)``. float32, bfloat16, float64, or float16 on CUDA.
        logvar: logarithm of the variance, same shape. It is not clamped: in float32 the KL is infinite where it is
            above 88, and ``z`` where it is above 177.
        seed: of the noise, an int or an int64 tensor of one element (which a CUDA graph can change between replays).
            The noise of an element depends on the seed and on the element's index only: it is the same on every
            device, in every memory layout and for any number of threads. Without a seed, one is drawn from
            ``generator``, or from torch's default generator, which ``torch.manual_seed`` governs.
        generator: where to draw the seed from.
        eps: the noise itself, same shape as ``mean``; differentiable like the other two. Stands instead of a seed.
        reduction: of the KL: ``batchmean`` (sum over everything but the batch, mean over the batch), ``sum``,
            ``mean`` (over all elements) or ``none`` (elementwise), as in :func:`torch.nn.functional.kl_div`.
        out: where to write ``z``: shape and dtype of ``mean``, any layout, though in that of ``mean`` without a copy.
            To sample again and again without fresh memory; as with torch's ``out=``, not where a gradient is required.

    Returns:
        ``(z, kl)``: ``z`` has the shape and layout of ``mean``; ``kl`` is a scalar, or has that shape too.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.
        RuntimeError: ``out`` is given and an argument requires a gradient, or :mod:`torch.func` is at work.

    Source: Kingma & Welling 2014; noise by Philox4x32-10 (Salmon et al. 2011) and Box-Muller.
    """
    _check(mean, logvar, reduction)
    if sum(source is not None for source in (seed, generator, eps)) > 1:
        raise ValueError("seed, generator and eps exclude each other; give one of them, or none")
    if eps is None:
        seed = _seed_tensor(seed, generator, mean.device)
    else:
        check_tensor("eps", eps)
        check_like("eps", eps, "mean", mean)
        check_same_shape("eps", eps, "mean", mean)
    if out is not None:
        _check_out(out, mean, logvar, eps)
        return out, torch.ops.sdgan_ext.gaussian_out(mean, logvar, eps, seed, REDUCTIONS[reduction], out)
    return _gaussian(mean, logvar, eps, seed, REDUCTIONS[reduction])


def gaussian_kl(mean: Tensor, logvar: Tensor, reduction: Reduction = "batchmean") -> Tensor:
    """KL divergence of N(mean, exp(logvar)) to N(0, I), in nats.

    Equivalent to, for the default reduction, ``0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(mean)``.

    Args:
        mean, logvar, reduction: as in :func:`sample_gaussian`.

    Returns:
        A scalar, or the shape of ``mean`` with ``reduction="none"``.

    Raises:
        TypeError, ValueError: naming the argument, what came and what is allowed.

    Source: Kingma & Welling 2014, appendix B.
    """
    _check(mean, logvar, reduction)
    return _gaussian(mean, logvar, None, None, REDUCTIONS[reduction])[1]


def draw_seed(generator: torch.Generator | None = None, device: torch.device | str = "cpu") -> Tensor:
    """A seed for :func:`sample_gaussian`, as it draws its own: a scalar of int64, of all 64 bits."""
    return torch.randint(-(2**63), 2**63 - 1, (), generator=generator, device=device)


def _check(mean: Tensor, logvar: Tensor, reduction: str) -> None:
    check_choice("reduction", reduction, REDUCTIONS)
    check_pair("logvar", logvar, "mean", mean)
    check_batch("mean", mean)


def _check_out(out: Tensor, mean: Tensor, logvar: Tensor, eps: Tensor | None) -> None:
    check_tensor("out", out)
    if transformed():
        raise RuntimeError("out is given under torch.func or in forward mode, which write to no tensor; leave it out")
    if out.dtype != mean.dtype:
        raise TypeError(f"out has dtype {out.dtype}, mean has {mean.dtype}; they must be the same")
    check_like("out", out, "mean", mean)
    check_same_shape("out", out, "mean", mean)
    arguments = {"mean": mean, "logvar": logvar, "eps": eps}
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (*arguments.values(), out)):
        raise RuntimeError(
            "sample_gaussian(): functions with out=... arguments don't support automatic differentiation, but one of "
            "the arguments requires grad."
        )
    if torch.compiler.is_compiling() or out.is_meta:
        return
    if any(step == 0 and size > 1 for size, step in zip(out.shape, out.stride(), strict=True)):
        raise ValueError(
            f"out has shape {tuple(out.shape)} and strides {out.stride()}: more than one element shares its memory; "
            "pass a tensor that is not expanded"
        )
    written = _elements(out)
    for name, value in arguments.items():
        if value is not None and value.numel() > 0 and shares_storage(out, value):
            read = _elements(value)
            if read.start < written.stop and written.start < read.stop:
                raise ValueError(f"out shares memory with {name}; pass a tensor of its own")


def _elements(t: Tensor) -> range:
    """The part of its storage in which ``t`` lies."""
    start = t.storage_offset()
    length = 1 + sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return range(start, start + length)


def _seed_tensor(seed: object, generator: torch.Generator | None, device: torch.device) -> Tensor:
    if seed is None:
        return draw_seed(generator, device if generator is None else generator.device).to(device)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1:
            raise ValueError(f"seed must be one int64 element, got shape {tuple(seed.shape)} of {seed.dtype}")
        if seed.device != device:
            raise ValueError(f"seed is on {seed.device}, mean on {device}; they must be the same")
        return seed
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"seed must be an int or an int64 tensor, got {type(seed).__name__}")
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed is {seed}; it must fit in 64 bits, signed")
    return torch.full((), seed, dtype=torch.int64, device=device)


# ------------------------------------------------------------------------------------------------ registration
@torch.library.register_fake("sdgan_ext::gaussian")
def _fake(
    mean: Tensor, logvar: Tensor, eps: Tensor | None, seed: Tensor | None, reduction: int
) -> tuple[Tensor, Tensor]:
    z = mean.new_empty((0,)) if eps is None and seed is None else torch.empty_like(mean)
    return z, torch.empty_like(mean) if reduction == REDUCTIONS["none"] else mean.new_empty(())


@torch.library.register_fake("sdgan_ext::gaussian_out")
def _fake_out(
    mean: Tensor, logvar: Tensor, eps: Tensor | None, seed: Tensor | None, reduction: int, z: Tensor
) -> Tensor:
    return torch.empty_like(mean) if reduction == REDUCTIONS["none"] else mean.new_empty(())


@torch.library.register_fake("sdgan_ext::gaussian_backward")
def _fake_backward(
    grad_z: Tensor | None,
    grad_kl: Tensor | None,
    mean: Tensor,
    logvar: Tensor,
    z: Tensor | None,
    reduction: int,
    need_eps: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_eps = torch.empty_like(mean) if need_eps else mean.new_empty((0,))
    return torch.empty_like(mean), torch.empty_like(mean), grad_eps


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    mean, logvar, eps, seed, ctx.reduction = inputs
    if eps is None and seed is None:
        ctx.mark_non_differentiable(output[0])
    ctx.save_for_backward(mean, logvar, output[0])
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_z: Tensor | None, grad_kl: Tensor | None) -> tuple[Tensor | None, ...]:
    mean, logvar, z = ctx.saved_tensors
    need_eps = ctx.needs_input_grad[2] and grad_z is not None
    grad_mean, grad_logvar, grad_eps = _gaussian_backward(
        grad_z, grad_kl, mean, logvar, None if grad_z is None else z, ctx.reduction, need_eps
    )
    return grad_mean, grad_logvar, grad_eps if need_eps else None, None, None


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.reduction, ctx.need_eps = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _double_backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
    def first_derivative(
        grad_z: Tensor | None, grad_kl: Tensor | None, mean: Tensor, logvar: Tensor, z: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        return reference.gaussian_backward(grad_z, grad_kl, mean, logvar, z, ctx.reduction, ctx.need_eps)

    return *reference_vjp(first_derivative, ctx.saved_tensors, grad_outputs), None, None


_gaussian = differentiable("gaussian", _backward, _setup)
_gaussian_backward = differentiable("gaussian_backward", _double_backward, _setup_backward)
register_autocast("gaussian")
