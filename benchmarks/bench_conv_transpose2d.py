"""Transposed convolution, bias and activation, forward and backward, against the stock layer in both memory formats."""

import torch
import torch.nn.functional as F
from _harness import Case, entry_points, in_format

from sdgan_ext import ops

# batch, channels in, size, channels out, kernel, stride, padding, output_padding, activation
SHAPES = [
    (64, 128, 7, 128, 5, 2, 2, 1, "relu"),
    (64, 128, 14, 128, 5, 2, 2, 1, "relu"),
    (64, 512, 4, 256, 4, 2, 1, 0, "relu"),
    (64, 256, 8, 128, 4, 2, 1, 0, "relu"),
    (64, 128, 16, 64, 4, 2, 1, 0, "relu"),
    (64, 64, 32, 3, 4, 2, 1, 0, "tanh"),
    (64, 32, 14, 1, 4, 2, 1, 0, "tanh"),
]


def case(batch, into, size, out, kernel, stride, padding, output_padding, activation):
    def stock(x, weight, bias):
        return getattr(F, activation)(F.conv_transpose2d(x, weight, bias, stride, padding, output_padding))

    def ours(x, weight, bias):
        return ops.conv_transpose2d(x, weight, bias, stride, padding, output_padding, activation=activation)

    def build():
        tensors = torch.randn(batch, into, size, size), torch.randn(into, out, kernel, kernel) * 0.05, torch.randn(out)
        return {
            "eager": (stock, in_format(torch.contiguous_format, tensors)),
            "eager channels_last": (stock, in_format(torch.channels_last, tensors)),
            "sdgan_ext": (ours, in_format(torch.channels_last, tensors)),
        }

    shape = f"{batch}x{into}x{size}x{size} to {out}, {kernel}x{kernel} s{stride} {activation}"
    return Case("conv_transpose2d", shape, build)


CASES = [case(*shape) for shape in SHAPES]

test_speed, main = entry_points("bench_conv_transpose2d", CASES)

if __name__ == "__main__":
    main()
