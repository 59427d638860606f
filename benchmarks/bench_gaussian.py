"""Reparameterisation and KL divergence with their gradients, noise included, against stock torch."""

from _harness import entry_points

from sdgan_ext.bench.cases import gaussian_case

LARGE = (65536, 128)
CASES = [gaussian_case(shape, quick=shape[1] >= 100) for shape in [(64, 32), (64, 100), (512, 128), LARGE]]
CASES += [gaussian_case(LARGE, "bfloat16")]

test_speed, main = entry_points("bench_gaussian", CASES)

if __name__ == "__main__":
    main()
