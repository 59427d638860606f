"""Convolution, bias and activation, forward and backward, against the stock layer in both memory formats."""

import torch
import torch.nn.functional as F
from _harness import Case, entry_points, in_format

from sdgan_ext import ops

# batch, channels in, size, channels out, kernel, stride, padding, activation
SHAPES = [
    (64, 1, 28, 128, 5, 2, 2, "relu"),
    (64, 128, 14, 128, 5, 2, 2, "relu"),
    (64, 128, 28, 1, 5, 1, 2, "tanh"),
    (64, 3, 64, 64, 4, 2, 1, "leaky_relu"),
    (64, 64, 32, 128, 4, 2, 1, "leaky_relu"),
    (64, 256, 8, 512, 4, 2, 1, "leaky_relu"),
]


def case(batch, into, size, out, kernel, stride, padding, activation):
    slope = {"negative_slope": 0.2} if activation == "leaky_relu" else {}

    def stock(x, weight, bias):
        return getattr(F, activation)(F.conv2d(x, weight, bias, stride, padding), **slope)

    def ours(x, weight, bias):
        return ops.conv2d(x, weight, bias, stride, padding, activation=activation, **slope)

    def build():
        tensors = torch.randn(batch, into, size, size), torch.randn(out, into, kernel, kernel) * 0.05, torch.randn(out)
        return {
            "eager": (stock, in_format(torch.contiguous_format, tensors)),
            "eager channels_last": (stock, in_format(torch.channels_last, tensors)),
            "sdgan_ext": (ours, in_format(torch.channels_last, tensors)),
        }

    return Case("conv2d", f"{batch}x{into}x{size}x{size} to {out}, {kernel}x{kernel} s{stride} {activation}", build)


CASES = [case(*shape) for shape in SHAPES]

test_speed, main = entry_points("bench_conv2d", CASES)

if __name__ == "__main__":
    main()
