"""Pictures, or their latents, from noise: whole, from another one, or within a mask."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from .._errors import ConfigError, shown
from .._modes import evaluation_mode
from .guidance import guided
from .paths import DiffusionNetwork, Parametrization
from .solvers import SolverName, check_steps, make_solver

__all__ = ["first_step", "keep_known", "sample", "seeded_noise"]


def seeded_noise(seeds: Sequence[int], shape: Sequence[int]) -> Tensor:
    """One latent's noise from each seed: [len(seeds), *shape] on the CPU. A seed's noise is the same in every batch.

    Equivalent to ``torch.cat([torch.randn(1, *shape, generator=torch.Generator().manual_seed(s)) for s in seeds])``,
    which is what a pipeline of diffusers draws with a list of such generators.

    Raises:
        ConfigError: no seeds.
    """
    if not seeds:
        raise ConfigError("seeds is empty; give one seed for each picture")
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def first_step(steps: int, strength: float) -> int:
    """The first of ``steps`` that is taken when a picture is changed with this strength: all at 1, few near 0.

    Raises:
        ConfigError: the strength is not in (0, 1], no step would be left, or there are none.

    Source: SDEdit, Meng et al. 2022; rounded as diffusers' image-to-image pipelines do.
    """
    if not 0 < strength <= 1:
        raise ConfigError(f"strength is {shown(strength)}; it must be a number above 0 and at most 1")
    check_steps(steps)
    taken = int(steps * strength)
    if taken == 0:
        raise ConfigError(
            f"strength {shown(strength)} leaves none of {steps} steps; it must be at least {1 / steps:.3g}"
        )
    return steps - taken


def keep_known(x_t: Tensor, path: Parametrization, x_0: Tensor, eps: Tensor, mask: Tensor, t: Tensor) -> Tensor:
    """``mask x_t + (1 - mask) add_noise(x_0, eps, t)``: x_t where the mask is 1, and elsewhere what is known, as noisy.

    Args:
        x_0: the known latents, [N, ...], or one for all.
        mask: in [0, 1], of x_t's shape or broadcast to it.

    Source: Lugmayr et al. 2022, equation 8.
    """
    return torch.lerp(path.add_noise(x_0, eps, t), x_t, mask.to(x_t))


@torch.no_grad()
def sample(
    network: DiffusionNetwork,
    path: Parametrization,
    noise: Tensor,
    condition: Tensor | None = None,
    *,
    steps: int = 10,
    solver: SolverName = "euler",
    shift: float = 1.0,
    guidance: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    null: Tensor | None = None,
    negative: Tensor | None = None,
    init: Tensor | None = None,
    strength: float = 1.0,
    mask: Tensor | None = None,
) -> Tensor:
    """Latents from noise, [N, ...], as the network was trained on them: normalised.

    The same noise gives the same latents, on the same machine and for the same batch to the last bit; in another batch
    up to the rounding of the network's sums.

    Args:
        network: called in evaluation mode; the averaged weights, as a rule.
        noise: of :func:`seeded_noise`, [N, ...].
        condition: [N, ...]; None for an unconditional network.
        solver: "euler" and "heun" need nothing, "ddim", "dpm++" and "unipc" are diffusers'.
        shift: of :func:`~sdgan_ext.diffusion.shift_times`, as in training or more; for "flow".
        guidance, interval, null, negative: of :func:`~sdgan_ext.diffusion.guided`, ``guidance`` as its scale.
        init: latents to begin from, [N, ...]; their noisy version of :func:`first_step` is the first x_t.
        strength: of the change to ``init``; 1 begins from the noise alone.
        mask: 1 where ``init`` is made anew, 0 where it is kept, of the latents' shape or broadcast to it.

    Raises:
        ConfigError: settings that are unknown, out of range or at odds with each other.
        ImportError: the solver is diffusers', which is not installed.
        ValueError: the condition has another number of rows than the noise.
    """
    if init is None and (mask is not None or strength != 1):
        given = "mask" if mask is not None else "strength"
        raise ConfigError(f"{given} is for a picture that is changed; give its latents as init")
    if condition is not None and len(condition) != len(noise):
        raise ValueError(f"condition has {len(condition)} rows, and the noise has {len(noise)}; each image needs one")
    predict = guided(network, path, condition, scale=guidance, interval=interval, null=null, negative=negative)
    start = first_step(steps, strength)
    stepping = make_solver(path, solver, steps, shift=shift, start=start)
    times = [torch.tensor(t, dtype=torch.float64) for t in stepping.times]
    x = noise if init is None or strength == 1 else path.add_noise(init, noise, times[start])
    with evaluation_mode(network) if isinstance(network, torch.nn.Module) else contextlib.nullcontext():
        for i in range(start, steps):
            x = stepping.step(predict, x, i)
            if init is not None and mask is not None:
                x = keep_known(x, path, init, noise, mask, times[i + 1])
    return x
