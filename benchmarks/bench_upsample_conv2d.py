"""Nearest upsampling by 2 and a convolution against stock's two calls, forward and backward, in both memory formats."""

from _harness import entry_points

from sdgan_ext.bench.cases import upsample_conv_case

CASES = [
    upsample_conv_case(512, 512, 64, budget=15),  # Stable Diffusion's decoder
    upsample_conv_case(256, 256, 128, budget=15),
    upsample_conv_case(64, 64, 32, 4, activation="silu", quick=True),
    upsample_conv_case(128, 64, 16, 16, activation="leaky_relu", quick=True),
    upsample_conv_case(64, 3, 32, 16, activation="tanh"),
    upsample_conv_case(64, 64, 32, 4, kernel=5, activation="silu"),
]

test_speed, main = entry_points("bench_upsample_conv2d", CASES)

if __name__ == "__main__":
    main()
