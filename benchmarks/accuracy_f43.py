"""Errors of F(4x4, 3x3) against float64, beside F(2x2, 3x3), the library and bfloat16: the tables of docs/winograd.md.

    python benchmarks/accuracy_f43.py [--size 32]     prints them, writes results/accuracy_f43.csv

Layers: the 3x3 convolutions of a decoder of Stable Diffusion's size, on random images and on what they are given in a
decode with random weights, and those of a small autoencoder after some training on rendered digits. Then both decodes
as a whole; 1/255 of a pixel is 2/255 of the decoder's range. ``--size`` is the latents' side. Needs diffusers.
"""

import argparse
import copy
import statistics

import torch
import torch.nn.functional as F
from _harness import ROOT, conditions, write_rows
from diffusers import AutoencoderKL

import sdgan_ext as sd
from sdgan_ext import ops
from sdgan_ext.data import RenderedDigits, batches

PATHS = {"library": ("library", "highest"), "F(2x2)": ("winograd", "highest"), "F(4x4)": ("winograd", "high")}


def autoencoder(*channels: int, layers: int, latents: int, pixels: int = 3) -> AutoencoderKL:
    torch.manual_seed(0)
    n = len(channels)
    return AutoencoderKL(
        pixels,
        pixels,
        ("DownEncoderBlock2D",) * n,
        ("UpDecoderBlock2D",) * n,
        channels,
        layers_per_block=layers,
        latent_channels=latents,
    ).to(memory_format=torch.channels_last)


def trained() -> AutoencoderKL:
    """100 steps of 16 images."""
    model = autoencoder(32, 64, 64, layers=1, latents=4, pixels=1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    digits = batches(RenderedDigits(image_size=32), 16, seed=0)
    for step, (images, _) in zip(range(100), digits, strict=False):
        batch = images.contiguous(memory_format=torch.channels_last)
        loss = F.mse_loss(model(batch).sample, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 0:
            print(f"training: step {step}, squared error {loss.item():.4f}", flush=True)
    return model


def by_path(path: str) -> ops.conv_backend:
    backend, precision = PATHS[path]
    torch.set_float32_matmul_precision(precision)
    return ops.conv_backend(*dict.fromkeys((backend, "library")))


def errors(got: torch.Tensor, want: torch.Tensor) -> tuple[float, float]:
    error = got.double() - want
    return (error.norm() / want.norm()).item(), (error.abs().max() / want.abs().max()).item()


def layer_errors(x: torch.Tensor, weight: torch.Tensor) -> dict[tuple[str, str], tuple[float, float]]:
    """By product and path."""
    x, weight = x.detach(), weight.detach()
    upstream = torch.randn(x.shape[0], weight.shape[0], *x.shape[2:]).to(memory_format=torch.channels_last)

    def products(convolve, dtype):
        image = x.to(dtype).requires_grad_()
        y = convolve(image, weight.to(dtype), padding=1)
        return y.detach(), torch.autograd.grad(y, image, upstream.to(dtype))[0]

    exact = products(F.conv2d, torch.float64)
    out = {}
    for path in (*PATHS, "bfloat16"):
        if path in PATHS:
            with by_path(path):
                taken = ops.explain_conv(x, weight, sides=(1, 1, 1, 1))["forward"]
                if ("F(4x4" in taken) != (path == "F(4x4)"):
                    continue  # an image too small for it
                got = products(ops.conv2d, torch.float32)
        else:
            got = products(F.conv2d, torch.bfloat16)
        for product, a, b in zip(("forward", "dx"), got, exact, strict=True):
            out[product, path] = errors(a, b)
    return out


def layers_of(decoder: torch.nn.Module, latents: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Input and weight of its 3x3 convolutions, one for each shape."""
    found = {}

    def keep(module, inputs):
        key = (*inputs[0].shape, *module.weight.shape)
        if module.kernel_size == (3, 3) and min(module.weight.shape[:2]) >= 16:
            found.setdefault(key, (inputs[0], module.weight))

    convolutions = [module for module in decoder.modules() if isinstance(module, torch.nn.Conv2d)]
    hooks = [module.register_forward_pre_hook(keep) for module in convolutions]
    with torch.no_grad():
        decoder(latents)
    for hook in hooks:
        hook.remove()
    return list(found.values())


def decode_errors(model: AutoencoderKL, latents: torch.Tensor) -> dict[str, tuple[float, float, float]]:
    """Norm, maximum, and the largest error of a pixel in 255ths, by path."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double().decode(latents.double()).sample
        images = {"bfloat16": copy.deepcopy(model).bfloat16().decode(latents.bfloat16()).sample}
        ours = copy.deepcopy(model)
        sd.accelerate(ours)
        for path in PATHS:
            with by_path(path):
                images[path] = (model if path == "library" else ours).decode(latents).sample
    scale = 255 / (exact.max() - exact.min()).item()  # random weights do not fill [-1, 1]
    return {
        path: (*errors(image, exact), (image.double() - exact).abs().max().item() * scale)
        for path, image in images.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32, help="side of the latents")
    size = parser.parse_args().size
    rows = []
    small = trained()
    large = autoencoder(128, 256, 512, 512, layers=2, latents=4)
    latents = torch.randn(1, 4, size, size).to(memory_format=torch.channels_last)
    images, _ = next(batches(RenderedDigits(image_size=32), 8, seed=1))
    codes = small.encode(images).latent_dist.mode().detach()
    activations = layers_of(large.decoder, large.post_quant_conv(latents))
    kinds = {
        "random images": [(torch.randn_like(x), torch.randn_like(w) * w[0].numel() ** -0.5) for x, w in activations],
        "activations, random weights": activations,
        "activations, trained": layers_of(small.decoder, small.post_quant_conv(codes)),
    }
    print("| layers | product | path | norm, median | norm, worst | maximum, worst |\n|---|---|---|---|---|---|")
    for kind, layers in kinds.items():
        measured: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for x, weight in layers:
            for key, error in layer_errors(x, weight).items():
                measured.setdefault(key, []).append(error)
                shape = f"{weight.shape[1]}->{weight.shape[0]} @{x.shape[2]}"
                rows.append({"kind": kind, "shape": shape, "product": key[0], "path": key[1], "norm": error[0]})
                rows[-1] |= {"maximum": error[1], "of_255": ""}
        for (product, path), found in sorted(measured.items()):
            norms, maxima = zip(*found, strict=True)
            figures = statistics.median(norms), max(norms), max(maxima)
            print(f"| {kind} | {product} | {path} | {' | '.join(f'{x:.1e}' for x in figures)} |", flush=True)
    print("| decode | path | norm | maximum | largest, of 255 |\n|---|---|---|---|---|")
    for kind, model, given in (("random weights", large, latents), ("trained", small, codes)):
        for path, (norm, maximum, pixel) in decode_errors(model, given).items():
            rows.append({"kind": f"decode, {kind}", "shape": f"@{given.shape[2]}", "product": "forward", "path": path})
            rows[-1] |= {"norm": norm, "maximum": maximum, "of_255": pixel}
            print(f"| {kind} | {path} | {norm:.1e} | {maximum:.1e} | {pixel:.4f} |", flush=True)
    where = conditions()
    numbers = ("norm", "maximum", "of_255")
    rows = [row | {key: f"{row[key]:.3e}" for key in numbers if row[key] != ""} | where for row in rows]
    path = ROOT / "benchmarks" / "results" / "accuracy_f43.csv"
    write_rows(path, rows)
    print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
