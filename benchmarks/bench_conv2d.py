"""Convolution, bias and activation, forward and backward, against the stock layer in both memory formats."""

from _harness import entry_points

from sdgan_ext.bench.cases import conv_case
from sdgan_ext.bench.work import Conv

# in, out, size, kernel, stride, padding, activation
DCGAN_64 = [
    Conv(False, 64, 128, 32, 4, 2, 1, "leaky_relu"),
    Conv(False, 128, 256, 16, 4, 2, 1, "leaky_relu"),
    Conv(False, 256, 512, 8, 4, 2, 1, "leaky_relu"),
]
SEED = Conv(False, 128, 128, 14, 5, 2, 2, "relu")
SMALL_CHANNEL = [
    (Conv(False, 128, 1, 28, 5, 1, 2, "tanh"), 64),
    (Conv(False, 1, 128, 28, 5, 2, 2, "relu"), 64),
    (Conv(False, 3, 64, 64, 4, 2, 1, "leaky_relu"), 16),
]
OTHERS = [
    Conv(False, 64, 128, 32, 5, 2, 2, "leaky_relu"),
    Conv(False, 128, 128, 14, 5, 2, (1, 2, 1, 2), "relu"),
    Conv(False, 64, 64, 32, 3, 1, 1, "silu"),
    Conv(False, 64, 128, 32, 3, 2, 1, "relu"),
    Conv(False, 60, 100, (18, 26), 4, 2, 1, "leaky_relu"),
]
#: The second convolution of a residual block: of Stable Diffusion's autoencoder, and of its small one.
BLOCKS = [(Conv(False, 256, 256, 64, 3, 1, 1, None), 1), (Conv(False, 64, 64, 64, 3, 1, 1, "relu"), 1)]

CASES = [conv_case(conv, batch, nchw=batch == 16, quick=batch == 16) for conv in DCGAN_64 for batch in (16, 32)]
CASES += [conv_case(SEED, 64, nchw=True, quick=True)]
CASES += [conv_case(conv, batch, nchw=True, quick=conv.out == 1) for conv, batch in SMALL_CHANNEL]
CASES += [conv_case(conv, 16) for conv in OTHERS]
CASES += [conv_case(conv, batch, residual=True) for conv, batch in BLOCKS]
CASES += [conv_case(conv, 16, "bfloat16", nchw=True) for conv in DCGAN_64]
CASES += [conv_case(SEED, 64, "bfloat16")]
CASES += [conv_case(conv, batch, "bfloat16", nchw=True, quick=conv.out == 1) for conv, batch in SMALL_CHANNEL]

test_speed, main = entry_points("bench_conv2d", CASES)

if __name__ == "__main__":
    main()
