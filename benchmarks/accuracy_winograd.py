"""Errors of the Winograd kernels and of the library against float64: the table of docs/winograd.md.

    python benchmarks/accuracy_winograd.py      prints them by kernel, writes results/accuracy_winograd.csv

Images are standard normal, or that through a relu; weights have variance 1 / fan-in, gradients are standard normal.
"""

import torch
import torch.nn.functional as F
from _harness import ROOT, conditions, write_rows

from sdgan_ext import ops

# transposed, kernel, stride, padding, output_padding, channels in, channels out, size
LAYERS = [
    (True, 4, 2, 1, 0, 512, 256, 8),
    (True, 4, 2, 1, 0, 256, 128, 16),
    (True, 4, 2, 1, 0, 128, 64, 32),
    (True, 4, 2, 2, 0, 64, 64, 16),
    (True, 5, 2, 2, 1, 128, 128, 7),
    (True, 5, 2, 2, 1, 128, 128, 14),
    (True, 3, 2, 1, 1, 128, 64, 16),
    (False, 4, 2, 1, 0, 64, 128, 32),
    (False, 4, 2, 1, 0, 256, 512, 8),
    (False, 5, 2, 2, 0, 128, 128, 14),
    (False, 3, 2, 1, 0, 128, 128, 32),
    (False, 3, 1, 1, 0, 64, 64, 32),
    (False, 3, 1, 1, 0, 256, 256, 16),
]
BATCH = 4


def products(layer, path: str, x, w, upstream) -> list[torch.Tensor]:
    """Output and gradients of image and weight; in double by torch."""
    transposed, _, stride, padding, output_padding, *_ = layer
    ops.conv_backend(path)
    module = ops if x.dtype == torch.float32 else F
    x, w = x.requires_grad_(), w.requires_grad_()
    if transposed:
        y = module.conv_transpose2d(x, w, None, stride, padding, output_padding)
    else:
        y = module.conv2d(x, w, None, stride, padding)
    return [y.detach(), *torch.autograd.grad(y, (x, w), upstream.to(x.dtype))]


def rows_of(layer, relu: bool) -> list[dict]:
    transposed, kernel, stride, padding, output_padding, into, out, size = layer
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, into, size, size, generator=generator)
    x = (x.relu() if relu else x).to(memory_format=torch.channels_last)
    fan_in = into * kernel * kernel / (stride**2 if transposed else 1)
    w = torch.randn(*((into, out) if transposed else (out, into)), kernel, kernel, generator=generator) * fan_in**-0.5
    edge = (
        (size - 1) * stride + kernel - 2 * padding + output_padding
        if transposed
        else (size + 2 * padding - kernel) // stride + 1
    )
    upstream = torch.randn(BATCH, out, edge, edge, generator=generator)
    exact = products(layer, "library", x.double(), w.double(), upstream)
    rows = []
    for path in ("library", "winograd"):
        for name, got, want in zip(("forward", "dx", "dw"), products(layer, path, x, w, upstream), exact, strict=True):
            error = got.double() - want
            rows.append(
                {
                    "op": "conv_transpose2d" if transposed else "conv2d",
                    "layer": f"{into}->{out} {kernel}x{kernel} s{stride} @{size}",
                    "images": "relu" if relu else "normal",
                    "product": name,
                    "path": path,
                    "frobenius": f"{(error.norm() / want.norm()).item():.3e}",
                    "maximum": f"{(error.abs().max() / want.abs().max()).item():.3e}",
                }
            )
    return rows


def main() -> None:
    rows = [row for layer in LAYERS for relu in (False, True) for row in rows_of(layer, relu)]
    errors: dict[tuple, dict[str, list[float]]] = {}
    for row in rows:
        kernel = " ".join(row["layer"].split()[1:3])
        errors.setdefault((kernel, row["product"]), {}).setdefault(row["path"], []).append(float(row["frobenius"]))
    print("| kernel | product | library | Winograd | largest ratio |\n|---|---|---|---|---|")
    for (kernel, product), paths in sorted(errors.items()):
        library, ours = paths["library"], paths["winograd"]
        ratio = max(a / b for a, b in zip(ours, library, strict=True))
        spans = [f"{min(e):.1e} to {max(e):.1e}" for e in (library, ours)]
        print(f"| {kernel} | {product} | {spans[0]} | {spans[1]} | {ratio:.1f} |")
    where = conditions()
    path = ROOT / "benchmarks" / "results" / "accuracy_winograd.csv"
    write_rows(path, [{**row, **where} for row in rows])
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
