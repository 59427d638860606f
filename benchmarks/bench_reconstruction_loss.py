"""Reconstruction error summed per image, with its gradient, against torch.nn.functional."""

import torch
import torch.nn.functional as F
from _harness import Case, entry_points

from sdgan_ext import ops

STOCK = {"mse": F.mse_loss, "l1": F.l1_loss, "bce": F.binary_cross_entropy_with_logits}


def case(kind, shape):
    def build():
        inputs = (torch.randn(shape, requires_grad=True), torch.rand(shape))
        return {
            "eager": (lambda x_hat, x: STOCK[kind](x_hat, x, reduction="sum") / len(x), inputs),
            "sdgan_ext": (lambda x_hat, x: ops.reconstruction_loss(x_hat, x, kind), inputs),
        }

    return Case("reconstruction_loss", f"{'x'.join(map(str, shape))} {kind}", build)


CASES = [case(kind, shape) for kind in STOCK for shape in [(64, 1, 28, 28), (128, 3, 64, 64)]]

test_speed, main = entry_points("bench_reconstruction_loss", CASES)

if __name__ == "__main__":
    main()
