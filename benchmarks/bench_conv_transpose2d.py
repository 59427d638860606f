"""Transposed convolution, bias and activation, forward and backward, against the stock layer in both memory formats."""

from _harness import entry_points

from sdgan_ext.bench.cases import conv_case
from sdgan_ext.bench.work import Conv

# in, out, size, kernel, stride, padding, activation, output_padding
DCGAN_64 = [
    Conv(True, 512, 256, 8, 4, 2, 1, "relu"),
    Conv(True, 256, 128, 16, 4, 2, 1, "relu"),
    Conv(True, 128, 64, 32, 4, 2, 1, "relu"),
]
SEED = [Conv(True, 128, 128, 7, 5, 2, 2, "relu", 1), Conv(True, 128, 128, 14, 5, 2, 2, "relu", 1)]
TO_RGB = Conv(True, 64, 3, 32, 4, 2, 1, "tanh")
OTHERS = [
    Conv(True, 512, 256, 4, 4, 2, 1, "relu"),
    Conv(True, 256, 128, 8, 4, 2, 1, "relu"),
    Conv(True, 128, 64, 16, 4, 2, 1, "relu"),
    Conv(True, 128, 64, 14, 3, 2, 1, "relu", 1),
    Conv(True, 128, 64, 14, 2, 2, 0, "relu"),
    Conv(True, 100, 60, (9, 13), 4, 2, 1, "leaky_relu"),
    Conv(True, 32, 1, 14, 4, 2, 1, "tanh"),
]

CASES = [conv_case(conv, batch, nchw=batch == 16, quick=batch == 16) for conv in DCGAN_64 for batch in (16, 32)]
CASES += [conv_case(conv, 64, nchw=True, quick=True) for conv in SEED]
CASES += [conv_case(TO_RGB, batch, nchw=True, quick=batch == 16) for batch in (16, 64)]
CASES += [conv_case(conv, 64, nchw=conv.out == 1) for conv in OTHERS]
CASES += [conv_case(conv, 16, "bfloat16", nchw=True, quick=conv is TO_RGB) for conv in (*DCGAN_64, TO_RGB)]
CASES += [conv_case(conv, 64, "bfloat16") for conv in SEED]

test_speed, main = entry_points("bench_conv_transpose2d", CASES)

if __name__ == "__main__":
    main()
