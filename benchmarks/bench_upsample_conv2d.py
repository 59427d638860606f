"""Nearest upsampling by 2 and a convolution against stock's two calls, forward and backward, in both memory formats."""

from _harness import entry_points

from sdgan_ext.bench.cases import upsample_conv_case
from sdgan_ext.bench.work import Conv

# in, out, size before the upsampling, kernel, stride, padding, activation
STABLE_DIFFUSION = [Conv(False, 512, 512, 64, 3, 1, 1), Conv(False, 256, 256, 128, 3, 1, 1)]
SMALL = [
    (Conv(False, 64, 64, 32, 3, 1, 1, "silu"), 4),
    (Conv(False, 128, 64, 16, 3, 1, 1, "leaky_relu"), 16),
    (Conv(False, 64, 3, 32, 3, 1, 1, "tanh"), 16),
    (Conv(False, 64, 64, 32, 5, 1, 2, "silu"), 4),
]

CASES = [upsample_conv_case(conv, 1, budget=15) for conv in STABLE_DIFFUSION]
CASES += [upsample_conv_case(conv, batch, quick=conv.out == 64) for conv, batch in SMALL]
CASES += [upsample_conv_case(conv, batch, "bfloat16") for conv, batch in SMALL]

test_speed, main = entry_points("bench_upsample_conv2d", CASES)

if __name__ == "__main__":
    main()
