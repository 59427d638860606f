"""Binary cross-entropy, with logits and on probabilities, with its gradient, against torch.nn.functional."""

from _harness import entry_points

from sdgan_ext.bench.cases import bce_case

NAMES = ("binary_cross_entropy_with_logits", "binary_cross_entropy")
SHAPES = [(64, 1), (1024, 1), (64, 1, 28, 28), (128, 3, 64, 64), (2**22,)]
CASES = [bce_case(name, shape, quick=shape == SHAPES[0], budget=10.0) for name in NAMES for shape in SHAPES]
CASES += [bce_case(NAMES[0], SHAPES[-1], "bfloat16", budget=10.0)]

test_speed, main = entry_points("bench_bce", CASES)

if __name__ == "__main__":
    main()
