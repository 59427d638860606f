"""batch_norm with its activation, training, forward and backward, against stock batch norm and relu."""

from _harness import entry_points

from sdgan_ext.bench.cases import batch_norm_case

SHAPES = [(64, 64, 14, 14), (64, 128, 14, 14), (16, 128, 32, 32), (64, 128, 7, 7), (64, 6272), (64, 512, 2, 2)]
CASES = [batch_norm_case(shape, quick=shape == SHAPES[2]) for shape in SHAPES]
CASES += [
    batch_norm_case(SHAPES[1], dtype="bfloat16"),
    batch_norm_case(SHAPES[1], "silu", nchw=False),
    batch_norm_case((64, 3, 32, 32), nchw=False),
]

test_speed, main = entry_points("bench_batch_norm", CASES)

if __name__ == "__main__":
    main()
