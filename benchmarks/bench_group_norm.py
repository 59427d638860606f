"""group_norm with its activation, forward and backward, against stock group norm and silu."""

from _harness import entry_points

from sdgan_ext.bench.cases import group_norm_case

SHAPES = [(1, 128, 64, 64), (1, 256, 64, 64), (1, 512, 64, 64), (4, 128, 32, 32), (4, 512, 32, 32), (1, 128, 256, 256)]
CASES = [group_norm_case(shape, quick=shape == SHAPES[3]) for shape in SHAPES]
CASES += [group_norm_case(SHAPES[1], dtype="bfloat16"), group_norm_case(SHAPES[4], dtype="bfloat16")]

test_speed, main = entry_points("bench_group_norm", CASES)

if __name__ == "__main__":
    main()
