"""The operators of ``torch.ops.sdgan_ext`` in stock torch, argument for argument as in csrc/ops/library.cpp.

What transforms a program and knows stock operators alone meets these instead of the kernels: :mod:`torch.func`,
forward-mode derivatives, and the decomposition for export and ONNX. The mathematics is that of :mod:`.reference`.
"""

import torch
import torch.nn.functional as F

from . import reference

__all__ = ["TWINS"]

#: Of the integers of csrc/kernels/activation.h and scalar.h; not of ._common, which needs this module.
_ACTIVATIONS = (None, "relu", "leaky_relu", "tanh", "sigmoid", "silu", "elu")
_SILU = _ACTIVATIONS.index("silu")
_REDUCTIONS = ("none", "mean", "sum", "batchmean")
_RECONSTRUCTIONS = ("mse", "l1", "bce", "gaussian")


def _gradients(function, tensors, grad_output):
    """Of ``function(*tensors)``, by a transform of its own, so that further transforms may lie around it."""
    return torch.func.vjp(function, *tensors)[1](grad_output)


def _kept(gradient, needed, like):
    return gradient if needed else like.new_empty((0,))


# ------------------------------------------------------------------------------------------------ convolutions
def _conv2d_linear(input, weight, bias, stride, padding, dilation, groups):
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return F.conv2d(input, weight, bias, stride, (top, left), dilation, groups)
    return F.conv2d(F.pad(input, (left, right, top, bottom)), weight, bias, stride, 0, dilation, groups)


def _conv_transpose2d_linear(input, weight, bias, stride, crop, dilation, groups):
    top, bottom, left, right = crop
    keeps = top - bottom, left - right
    if all(0 <= keep < max(s, d) for keep, s, d in zip(keeps, stride, dilation, strict=True)):
        return F.conv_transpose2d(input, weight, bias, stride, (top, left), keeps, groups, dilation)
    full = F.conv_transpose2d(input, weight, bias, stride, 0, 0, groups, dilation)
    return F.pad(full, (-left, -right, -top, -bottom))


def _convolution(linear):
    def forward(input, weight, bias, stride, sides, dilation, groups, activation, negative_slope):
        x = linear(input, weight, bias, stride, sides, dilation, groups)
        y = reference.activate(x, _ACTIVATIONS[activation], negative_slope)
        return y, x if activation == _SILU else x.new_empty((0,))

    def backward(grad_output, input, weight, saved, stride, sides, dilation, groups, activation, slope, *needs):
        slopes = reference.activation_slope(activation, slope, saved)
        v = grad_output if slopes is None else grad_output * slopes
        run = lambda x, w: linear(x, w, None, stride, sides, dilation, groups)  # noqa: E731
        d_input, d_weight = _gradients(run, (input, weight), v)
        return tuple(
            _kept(g, need, input) for g, need in zip((d_input, d_weight, v.sum((0, 2, 3))), needs, strict=True)
        )

    return forward, backward


# -------------------------------------------------------------------------------------------------- batch_norm
def _batch_norm(input, weight, bias, mean, var, eps, activation, negative_slope):
    vectors = [t for t in (weight, bias, mean, var) if t is not None]
    if mean is None or any(t.dtype != input.dtype for t in vectors):
        return reference.batch_norm_native(input, weight, bias, mean, var, eps, activation, negative_slope)
    y = F.batch_norm(input, mean, var, weight, bias, False, 0.0, eps)
    return reference.activate(y, _ACTIVATIONS[activation], negative_slope), mean.clone(), var.clone()


def _batch_norm_backward(grad_output, input, weight, bias, mean, var, training, *settings):
    given = [t for t in (weight, bias) if t is not None]

    def run(input, *vectors):
        vectors = iter(vectors)
        w, b = (None if t is None else next(vectors) for t in (weight, bias))
        return reference.batch_norm_native(input, w, b, *((None, None) if training else (mean, var)), *settings)[0]

    d_input, *grads = _gradients(run, (input, *given), grad_output)
    grads = iter(grads)
    return d_input, *(input.new_empty((0,)) if t is None else next(grads) for t in (weight, bias))


# ------------------------------------------------------------------------------------------------------ losses
# The gradients that the kernels give beside a loss are left out: only the derivative of the operator reads them, and
# the twin's is torch's.


def _alone(loss):
    return loss, loss.new_empty((0,)), loss.new_empty((0,))


def _loss_gradients(loss, tensors, grad_loss):
    """Gradients of ``loss(*tensors)`` for a given one of the loss; an empty tensor stands for that of None."""
    given = [t for t in tensors if t is not None]

    def run(*given):
        given = iter(given)
        return loss(*(None if t is None else next(given) for t in tensors))

    grads = iter(_gradients(run, given, grad_loss))
    return tuple(given[0].new_empty((0,)) if t is None else next(grads) for t in tensors)


def _adversarial_loss(real, fake, objective, role, real_target, reduction, need_real, need_fake):
    return _alone(reference.adversarial_loss(real, fake, objective, role, real_target, reduction))


def _adversarial_loss_backward(grad_loss, real, fake, grad_real, grad_fake, *settings):
    return _loss_gradients(lambda r, f: reference.adversarial_loss(r, f, *settings), (real, fake), grad_loss)


def _bce(input, target, weight, pos_weight, logits, reduction, need_input, need_target):
    return _alone(reference.bce(input, target, weight, pos_weight, logits, reduction))


def _bce_backward(grad_loss, input, target, weight, pos_weight, logits, reduction, *needs):
    grads = _loss_gradients(
        lambda x, t: reference.bce(x, t, weight, pos_weight, logits, reduction), (input, target), grad_loss
    )
    return tuple(_kept(g, need, input) for g, need in zip(grads, needs, strict=True))


def _reconstruction(kind, reduction):
    return lambda a, b: reference.reconstruction_loss(a, b, _RECONSTRUCTIONS[kind], _REDUCTIONS[reduction])


def _reconstruction_loss(x_hat, x, kind, reduction, need_x_hat, need_x):
    return _alone(_reconstruction(kind, reduction)(x_hat, x))


def _reconstruction_loss_backward(grad_loss, x_hat, x, kind, reduction, *needs):
    grads = _loss_gradients(_reconstruction(kind, reduction), (x_hat, x), grad_loss)
    return tuple(_kept(g, need, x) for g, need in zip(grads, needs, strict=True))


# ---------------------------------------------------------------------------------------------------- gaussian
def _gaussian(mean, logvar, eps, seed, reduction):
    if eps is None and seed is None:
        return mean.new_empty((0,)), reference.gaussian_kl(mean, logvar, _REDUCTIONS[reduction])
    return reference.sample_gaussian(mean, logvar, seed=seed, eps=eps, reduction=_REDUCTIONS[reduction])


def _gaussian_backward(grad_z, grad_kl, mean, logvar, z, reduction, need_eps):
    grad_mean, grad_logvar, grad_eps = reference.gaussian_backward(
        grad_z, grad_kl, mean, logvar, z, reduction, need_eps
    )
    return grad_mean.clone(), grad_logvar.clone(), mean.new_empty((0,)) if grad_eps is None else grad_eps


_conv2d, _conv2d_backward = _convolution(_conv2d_linear)
_conv_transpose2d, _conv_transpose2d_backward = _convolution(_conv_transpose2d_linear)

#: By the name of the operator.
TWINS = {
    "adversarial_loss": _adversarial_loss,
    "adversarial_loss_backward": _adversarial_loss_backward,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "bce": _bce,
    "bce_backward": _bce_backward,
    "conv2d": _conv2d,
    "conv2d_backward": _conv2d_backward,
    "conv_transpose2d": _conv_transpose2d,
    "conv_transpose2d_backward": _conv_transpose2d_backward,
    "gaussian": _gaussian,
    "gaussian_backward": _gaussian_backward,
    "reconstruction_loss": _reconstruction_loss,
    "reconstruction_loss_backward": _reconstruction_loss_backward,
}
