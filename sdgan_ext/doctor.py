"""``sdgan-ext doctor``: what is installed, what was compiled in, what runs here, and whether it is right."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import TYPE_CHECKING, Any

from sdgan_ext import _env
from sdgan_ext._errors import nearest

if TYPE_CHECKING:
    import torch

__all__ = ["examine"]

_REQUIRED = ("torch", "numpy", "Pillow", "PyYAML", "safetensors", "tqdm")
_OTHERS_WATCHED = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def examine(write: Callable[[str], None]) -> bool:
    """Reports line by line; True when everything works.

    Nothing that is broken stops it: a missing torch or compiled part is a line, with its mending, like any other.
    """
    fine = True

    def line(name: str, value: object, mark: str = "") -> None:
        write(f"  {mark:5}{name:34}{value}".rstrip())

    def check(name: str, test: Callable[[], str | None]) -> bool:
        nonlocal fine
        try:
            line(name, test() or "", "ok")
            return True
        except Exception as error:  # whatever it is, the user needs to read it
            line(name, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}", "FAIL")
            fine = False
            return False

    write("versions")
    line("python", f"{platform.python_version()}, {platform.system()} {platform.machine()}")
    for package in _REQUIRED:
        check(package, lambda: metadata.version(package))  # noqa: B023

    try:
        line("tensorboard", metadata.version("tensorboard"))
    except metadata.PackageNotFoundError:
        line("tensorboard", "not installed; training works without it and writes no event files")

    write("environment")
    for name in _env.__all__:
        reader = getattr(_env, name)
        variable = reader.__doc__.partition(":")[0]
        check(variable, lambda: f"{reader()}{'' if variable in os.environ else ' (not set)'}")  # noqa: B023
    known = [getattr(_env, name).__doc__.partition(":")[0] for name in _env.__all__]
    for variable in sorted(os.environ):
        if variable.startswith("SDGAN_") and variable not in known:
            line(variable, f"{os.environ[variable]}; not read at run time{nearest(variable, known)}")
        elif variable in _OTHERS_WATCHED:
            line(variable, os.environ[variable])

    write("compiled part")
    if not check("loads", _load):
        return False
    import torch

    from sdgan_ext._native import build_info

    info = build_info()
    line("sdgan_ext", info["version"])
    line("compiler", info["compiler"])
    line("CPU instruction sets", f"{', '.join(info['cpu_isa_compiled'])}; here: {', '.join(info['cpu_isa_usable'])}")
    line("in use", f"{info['cpu_isa']}, {torch.get_num_threads()} threads")
    line("CUDA kernels", " ".join(info["cuda_architectures"]) if info["cuda"] else f"no: {info['cuda_reason']}")
    line("CUDA devices", _devices())

    for device in ["cpu", "cuda"] if info["cuda"] and torch.cuda.is_available() else ["cpu"]:
        write(f"self-test on {device}")
        for name, function, inputs in _cases():
            check(name, lambda: _compare(function, inputs, device))  # noqa: B023
    check("training step", _train)
    write("all is well" if fine else "something is wrong, see the lines marked FAIL")
    return fine


def _load() -> None:
    import sdgan_ext._native  # noqa: F401
    import sdgan_ext.ops  # noqa: F401


def _devices() -> str:
    import torch

    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _cases() -> Iterator[tuple[str, Callable[..., Any], tuple[torch.Tensor, ...]]]:
    """Every operation: its name, a function of a namespace (fused or reference) and of inputs, and those."""
    import torch

    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    image, noise = random(2, 3, 7, 6), random(4, 5)
    yield (
        "conv2d",
        lambda f, x, w, b: f.conv2d(x, w, b, stride=2, padding=(1, 2, 1, 2), activation="leaky_relu"),
        (image, random(5, 3, 5, 5), random(5)),
    )
    yield (
        "conv_transpose2d",
        lambda f, x, w, b: f.conv_transpose2d(x, w, b, stride=2, crop=(1, 2, 1, 2), activation="tanh"),
        (image, random(3, 5, 5, 5), random(5)),
    )
    yield (
        "upsample_conv2d",
        lambda f, x, w, b: f.upsample_conv2d(x, w, b, activation="silu"),
        (image, random(5, 3, 3, 3), random(5)),
    )
    yield (
        "batch_norm",
        lambda f, x, w, b: f.batch_norm(x, torch.zeros_like(w), torch.ones_like(w), w, b, True, activation="relu"),
        (image, random(3), random(3)),
    )
    yield (
        "group_norm",
        lambda f, x, w, b: f.group_norm(x, 3, w, b, activation="silu"),
        (image, random(3), random(3)),
    )
    yield "discriminator_loss", lambda f, real, fake: f.discriminator_loss(real, fake), (random(9), random(9))
    yield "generator_loss", lambda f, fake: f.generator_loss(fake), (random(9),)
    yield (
        "binary_cross_entropy_with_logits",
        lambda f, x, y: f.binary_cross_entropy_with_logits(x, y.sigmoid()),
        (random(9), random(9)),
    )
    yield (
        "binary_cross_entropy",
        lambda f, x, y: f.binary_cross_entropy(x.sigmoid(), y.sigmoid()),
        (random(9), random(9)),
    )
    yield (
        "sample_gaussian",
        lambda f, mean, logvar: f.sample_gaussian(mean, logvar, eps=noise.to(mean.device)),
        (random(4, 5), random(4, 5)),
    )
    yield "gaussian_kl", lambda f, mean, logvar: f.gaussian_kl(mean, logvar), (random(4, 5), random(4, 5))
    yield "reconstruction_loss", lambda f, x_hat, x: f.reconstruction_loss(x_hat, x), (image, random(*image.shape))


def _compare(function: Callable[..., Any], inputs: tuple[torch.Tensor, ...], device: str) -> str:
    """Values and gradients of the fused operation against those of its reference in plain torch."""
    import torch

    from sdgan_ext import ops

    results = []
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # whose 10 bits would not do here
        for namespace in (ops, ops.reference):
            leaves = [tensor.to(device, copy=True).requires_grad_() for tensor in inputs]
            outputs = function(namespace, *leaves)
            outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
            total = torch.stack([(output * output.detach().cos()).sum() for output in outputs]).sum()
            results.append([*(output.detach() for output in outputs), *torch.autograd.grad(total, leaves)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    return "agrees with its reference"


def _train() -> str:
    import torch

    from sdgan_ext.models import VAEGAN, VAEGANConfig
    from sdgan_ext.training.config import TrainConfig
    from sdgan_ext.training.optimizers import make_optimizers
    from sdgan_ext.training.steps import check_finite, train_step

    config = TrainConfig(batch_size=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VAEGAN(VAEGANConfig(image_size=8, latent_dim=4, encoder_channels=(4,), discriminator_channels=(4,)))
        images = torch.rand(4, 1, 8, 8) * 2 - 1
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    losses = train_step(model, make_optimizers(model, config), images, config, step=0, generator=generator)
    check_finite(losses, 1)
    still = [name for name, weight in model.named_parameters() if torch.equal(weight, before[name])]
    if still:
        raise RuntimeError(f"{still[0]} did not move")
    return "all losses finite, all weights move"
