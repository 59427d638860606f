"""Reparameterisation and KL divergence with their gradients, noise included, against stock torch."""

import torch
from _harness import Case, entry_points

from sdgan_ext import ops


def stock(mean, logvar):
    z = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
    return z, 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / len(mean)


def case(rows, columns):
    def build():
        inputs = tuple(torch.randn(rows, columns, requires_grad=True) for _ in range(2))
        return {"eager": (stock, inputs), "sdgan_ext": (ops.sample_gaussian, inputs)}

    return Case("sample_gaussian", f"{rows}x{columns}", build)


CASES = [case(64, 32), case(64, 100), case(512, 128), case(65536, 128)]

test_speed, main = entry_points("bench_gaussian", CASES)

if __name__ == "__main__":
    main()
