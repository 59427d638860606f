"""Reconstruction error summed per image, with its gradient, against torch.nn.functional."""

from _harness import entry_points

from sdgan_ext.bench.cases import RECONSTRUCTION_LOSSES, reconstruction_loss_case

SHAPES = [(64, 1, 28, 28), (128, 3, 64, 64)]
CASES = [
    reconstruction_loss_case(shape, kind, quick=kind == "mse", budget=10.0)
    for kind in RECONSTRUCTION_LOSSES
    for shape in SHAPES
]
CASES += [reconstruction_loss_case(SHAPES[-1], "mse", "bfloat16", budget=10.0)]

test_speed, main = entry_points("bench_reconstruction_loss", CASES)

if __name__ == "__main__":
    main()
