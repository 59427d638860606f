"""The training step of a GAN, a VAE and a VAE-GAN, phase by phase. The reasons are in docs/training.md.

A step makes its images once (:func:`forward`). :func:`discriminator_phase` works on them detached from their graph;
:func:`encoder_generator_phase` goes on with the graph, which still holds because phase D changes nothing in E and G.
Each phase *sets* the gradients of the networks it trains and touches those of no other.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized
from torch.optim import Optimizer

from .. import losses, ops
from .._errors import ConfigError, DivergedError
from ..models.vae_gan import VAEGAN
from ..ops.gaussian import draw_seed
from .config import TrainConfig
from .optimizers import set_learning_rates

if TYPE_CHECKING:
    from .distributed import Processes

__all__ = [
    "Images",
    "Noise",
    "check_finite",
    "discriminator_phase",
    "draw_noise",
    "encoder_generator_phase",
    "forward",
    "forwards_of",
    "frozen",
    "kl_weight_at",
    "noise_of_rows",
    "precision",
    "r1_phases",
    "take_step",
    "train_step",
]


@dataclass(frozen=True)
class Noise:
    """What one :func:`forward` has of chance, on the CPU or where the model is.

    Attributes:
        seed: of z ~ q(z|x), a scalar of int64; None in mode "gan".
        latents: z_p ~ N(0, I), [N, Z]; None in mode "vae".
        eps: in place of the seed, the numbers that it stands for, [N, Z].
    """

    seed: Tensor | None = None
    latents: Tensor | None = None
    eps: Tensor | None = None


def draw_noise(model: VAEGAN, n: int, config: TrainConfig, *, generator: torch.Generator | None = None) -> Noise:
    """The noise of one :func:`forward` of ``n`` images.

    Args:
        generator: its source, on the CPU: the same numbers on every device. torch's own state by default.
    """
    return Noise(
        None if config.mode == "gan" else draw_seed(generator),
        None if config.mode == "vae" else torch.randn(n, model.config.latent_dim, generator=generator),
    )


@dataclass
class Images:
    """What a step works on; everything but ``real`` carries its graph.

    Attributes:
        real: x, [N, C, H, W].
        reconstructed: G(z) with z ~ q(z|x), [N, C, H, W]; None in mode "gan".
        generated: G(z_p) with z_p ~ N(0, I), [N, C, H, W]; None in mode "vae".
        z: [N, Z]; None in mode "gan".
        kl: KL(q(z|x) || N(0, I)), a scalar; None in mode "gan".
    """

    real: Tensor
    reconstructed: Tensor | None = None
    generated: Tensor | None = None
    z: Tensor | None = None
    kl: Tensor | None = None


def forward(
    model: VAEGAN,
    x: Tensor,
    config: TrainConfig,
    *,
    generator: torch.Generator | None = None,
    noise: Noise | None = None,
) -> Images:
    """Encodes, samples and generates, once, with the graph.

    With batch norm in the generator both kinds of latent vectors go through it as one batch: they are normalised alike,
    and its running statistics, updated once a step, are of all that it sees later.

    Args:
        model: in training mode.
        x: real images [N, C, H, W] in [-1, 1].
        generator: where :func:`draw_noise` draws from.
        noise: drawn already.
    """
    noise = noise or draw_noise(model, len(x), config, generator=generator)
    images = Images(x)
    latents = []
    if config.mode != "gan":
        given = {"seed": noise.seed.to(x.device)} if noise.eps is None else {"eps": noise.eps.to(x)}
        images.z, images.kl = model.encode(x).sample_with_kl(**given)
        latents.append(images.z)
    if config.mode != "vae":
        latents.append(noise.latents.to(x))
    if model.config.generator_norm == "batch":
        made = model.decode(torch.cat(latents)).chunk(len(latents))
    else:
        made = [model.decode(z) for z in latents]
    images.reconstructed = None if config.mode == "gan" else made[0]
    images.generated = None if config.mode == "vae" else made[-1]
    return images


def discriminator_phase(model: VAEGAN, images: Images, config: TrainConfig, *, step: int = 0) -> dict[str, Tensor]:
    """Sets the gradients of D, and of D alone.

    ``lD = sp(-D(x)) + 1/2 (sp(D(G(z))) + sp(D(G(z_p))))`` for the default objective (Larsen et al. 2016); every
    ``r1_every`` steps also R1, times ``r1_every`` (Karras et al. 2020).

    Args:
        step: discriminator steps taken so far.

    Returns:
        "discriminator/..." ``total``, ``adversarial``, ``r1`` where it was taken, and the mean logits ``real`` and
        ``fake``: scalars without a graph.

    Raises:
        ConfigError: in mode "vae", which has no phase D.
    """
    if config.mode == "vae":
        raise ConfigError("mode is 'vae'; a discriminator is trained in modes 'gan' and 'vae-gan' only")
    fakes = [fake.detach() for fake in (images.reconstructed, images.generated) if fake is not None]
    penalised = _takes_r1(config, step)
    real = images.real.detach().requires_grad_(penalised)
    if penalised or model.config.discriminator_norm == "batch":  # R1 needs the real half alone; batch norm mixes images
        real_logits, *fake_logits = [model.discriminator(batch) for batch in (real, *fakes)]
    else:
        real_logits, *fake_logits = model.discriminator(torch.cat([real, *fakes])).split(len(real))
    fake_logits = torch.cat(fake_logits)
    pairs = len(fakes) if config.objective == "relativistic" else 1
    terms = {
        "adversarial": losses.discriminator_loss(
            real_logits.repeat(pairs, 1), fake_logits, config.objective, real_target=config.real_target
        )
    }
    if penalised:
        terms["r1"] = config.r1_every * losses.r1_penalty(real_logits, real, config.r1_gamma)
    total = sum(terms.values())
    _set_gradients([model.discriminator], total)
    terms |= {"total": total, "real": real_logits.float().mean(), "fake": fake_logits.float().mean()}
    return _named("discriminator", terms)


def encoder_generator_phase(
    model: VAEGAN, images: Images, config: TrainConfig, *, step: int = 0, kl_weight: Tensor | None = None
) -> dict[str, Tensor]:
    """Sets the gradients of E and G, each its own; D is looked through, not changed.

    ::

        rec = feature_weight * 1/2 |D_l(x) - D_l(G(z))|^2 + pixel_weight * 1/2 |x - G(z)|^2
        E <- grad(kl_weight * KL + rec)
        G <- grad(gamma * rec + adv(G(z)) + adv(G(z_p)))      z as a constant; in mode "vae": grad(rec)

    The losses are differentiated as far as the images, with D frozen: no weight gradient of D is computed. From the
    images one backward pass through G serves its parameters, and one that skips them leads to z and on to E.

    Args:
        step: steps taken so far; decides the weight of the KL divergence while it warms up.
        kl_weight: that weight as a scalar where ``images`` are, in place of the one of ``step``.

    Returns:
        "encoder_generator/..." and, of ``kl``, ``pixel``, ``feature``, ``reconstruction`` (the weighted sum of both),
        ``adversarial_reconstructed`` and ``adversarial_generated``, those of the mode: scalars without a graph.
    """
    with contextlib.nullcontext() if config.mode == "vae" else frozen(model.discriminator):
        terms, rec_slope, adv_slope, prior_adv_slope = _image_gradients(model, images, config)
    if config.mode == "gan":
        _set_gradients([model.generator], [images.generated], [prior_adv_slope])
        return _named("encoder_generator", terms)
    if kl_weight is None:
        kl_slope = torch.full_like(images.kl, kl_weight_at(config, step))
    else:
        kl_slope = kl_weight.to(images.kl)
    if config.mode == "vae":
        _set_gradients([model.encoder, model.generator], [images.reconstructed, images.kl], [rec_slope, kl_slope])
    else:
        with ops.no_weight_gradients():
            (z_slope,) = torch.autograd.grad(images.reconstructed, images.z, rec_slope, retain_graph=True)
        _set_gradients(
            [model.generator],
            [images.reconstructed, images.generated],
            [config.gamma * rec_slope + adv_slope, prior_adv_slope],
        )
        _set_gradients([model.encoder], [images.z, images.kl], [z_slope, kl_slope])
    return _named("encoder_generator", {"kl": images.kl, **terms})


def _image_gradients(model: VAEGAN, images: Images, config: TrainConfig):
    """The losses of phase E+G that look at images, and their gradients there.

    Returns ``(terms, d rec / d G(z), d adv / d G(z), d adv / d G(z_p))``, None for what the mode does not have.
    """
    compares_features = config.mode == "vae-gan" and config.feature_weight > 0
    rec_slope = adv_slope = prior_adv_slope = real_logits = None
    terms = {}
    if compares_features or (config.mode != "vae" and config.objective == "relativistic"):
        with torch.no_grad():
            real_logits, real_features = model.discriminator(images.real, return_features=True)
    if config.mode != "gan":
        x_hat = images.reconstructed.detach().requires_grad_()
        if config.mode == "vae-gan":
            logits, features = model.discriminator(x_hat, return_features=True)
            loss = terms["adversarial_reconstructed"] = losses.generator_loss(logits, real_logits, config.objective)
            (adv_slope,) = torch.autograd.grad(loss, x_hat, retain_graph=compares_features)
        terms["pixel"] = losses.pixel_loss(x_hat, images.real)
        rec = config.pixel_weight * terms["pixel"]
        if compares_features:
            layer = config.feature_layer
            terms["feature"] = losses.feature_loss(features[layer], real_features[layer])
            rec = rec + config.feature_weight * terms["feature"]
        terms["reconstruction"] = rec
        (rec_slope,) = torch.autograd.grad(rec, x_hat)
    if config.mode != "vae":
        x_p = images.generated.detach().requires_grad_()
        logits = model.discriminator(x_p)
        loss = terms["adversarial_generated"] = losses.generator_loss(logits, real_logits, config.objective)
        (prior_adv_slope,) = torch.autograd.grad(loss, x_p)
    return terms, rec_slope, adv_slope, prior_adv_slope


def train_step(
    model: VAEGAN,
    optimizers: dict[str, Optimizer],
    x: Tensor,
    config: TrainConfig,
    *,
    step: int,
    generator: torch.Generator | None = None,
    processes: Processes | None = None,
) -> dict[str, Tensor]:
    """One step: ``n_critic`` times phase D, then phase E+G, each followed by its optimizers.

    Args:
        optimizers: of :func:`~sdgan_ext.training.optimizers.make_optimizers`; their learning rates are set to those of
            ``step``.
        x: real images [N, C, H, W] in [-1, 1].
        step: steps taken so far.
        generator: source of all noise, on the CPU; torch's own state by default.
        processes: that take the step together, each with its rows ``x`` of the batch and a ``generator`` in one state.

    Returns:
        The losses of both phases, scalars without a graph; give them to :func:`check_finite` now and then.
    """
    set_learning_rates(optimizers, config, step)
    size = len(x) * (1 if processes is None else processes.size)
    noise = [draw_noise(model, size, config, generator=generator) for _ in range(forwards_of(config))]
    if processes is not None:
        noise = [noise_of_rows(drawn, processes.rows(size), size, model.config.latent_dim) for drawn in noise]
    reduce = None if processes is None else processes.average_gradients
    return take_step(model, optimizers, x, noise, config, step=step, reduce=reduce)


def take_step(
    model: VAEGAN,
    optimizers: dict[str, Optimizer],
    x: Tensor,
    noise: Sequence[Noise],
    config: TrainConfig,
    *,
    step: int,
    kl_weight: Tensor | None = None,
    reduce: Callable[[Sequence[torch.nn.Module]], None] | None = None,
) -> dict[str, Tensor]:
    """:func:`train_step` with all that changes from step to step given; the learning rates are those of the optimizers.

    Given ``kl_weight``, ``step`` decides :func:`r1_phases` and nothing else: with tensors for learning rates, a CUDA
    graph of it is a step like any other of the same phases.

    Args:
        noise: of every forward pass, :func:`forwards_of` in all.
        kl_weight: as in :func:`encoder_generator_phase`.
        reduce: called with the networks whose gradients a phase has set, before their optimizers step.
    """
    model.train()
    phases = _discriminator_phases(config)
    trained = [name for name in ("encoder", "generator") if name in optimizers]
    parts = _parts(x, noise, config, model.config.latent_dim)
    images: list[Images] = []  # of the last phase D, with their graphs, where phase E+G can go on with them

    def discriminate(x: Tensor, noise: Noise, phase: int) -> dict[str, Tensor]:
        if phase == phases - 1 and len(parts) == 1:
            images.append(forward(model, x, config, noise=noise))
            made = images[0]
        else:  # images for D alone: no graph, and E and G stay as they are
            with torch.no_grad(), frozen(model):
                made = forward(model, x, config, noise=noise)
        return discriminator_phase(model, made, config, step=step * phases + phase)

    def encode_and_generate(x: Tensor, noise: Noise, phase: int) -> dict[str, Tensor]:
        made = images.pop() if images else forward(model, x, config, noise=noise)
        return encoder_generator_phase(model, made, config, step=step, kl_weight=kl_weight)

    def update(names: list[str], set_gradients: Callable, phase: int) -> dict[str, Tensor]:
        networks = [getattr(model, name) for name in names]
        terms = _mean([lambda x=x, noise=noise: set_gradients(x, noise[phase], phase) for x, noise in parts], networks)
        if reduce is not None:
            reduce(networks)
        for name in names:
            optimizers[name].step()
        return terms

    terms = {}
    with precision(config, x.device):
        for phase in range(phases):
            terms = update(["discriminator"], discriminate, phase)
        return terms | update(trained, encode_and_generate, -1)


def _parts(x: Tensor, noise: Sequence[Noise], config: TrainConfig, latent_dim: int) -> list[tuple[Tensor, list[Noise]]]:
    """The batch in ``config.accumulate`` parts, each with its rows of the noise."""
    if config.accumulate == 1:
        return [(x, list(noise))]
    size = len(x) // config.accumulate
    rows = [slice(i * size, (i + 1) * size) for i in range(config.accumulate)]
    return [(x[part], [noise_of_rows(drawn, part, len(x), latent_dim) for drawn in noise]) for part in rows]


def _mean(runs: Sequence[Callable[[], dict[str, Tensor]]], networks) -> dict[str, Tensor]:
    """The mean of the losses, and in the parameters of the gradients, that runs return and set one after another."""
    terms = runs[0]()
    if len(runs) == 1:
        return terms
    parameters = list(itertools.chain.from_iterable(network.parameters() for network in networks))
    sums = [p.grad for p in parameters]  # each run makes its own
    for run in runs[1:]:
        more = run()
        terms = {name: terms[name] + more[name] for name in terms}
        torch._foreach_add_(sums, [p.grad for p in parameters])
    torch._foreach_div_(sums, len(runs))
    for parameter, grad in zip(parameters, sums, strict=True):
        parameter.grad = grad
    return {name: term / len(runs) for name, term in terms.items()}


def noise_of_rows(noise: Noise, rows: slice, batch_size: int, latent_dim: int) -> Noise:
    """The part of a whole batch's noise that belongs to some of its rows.

    A seed stands for the numbers of the whole batch, so those are made and ``eps`` takes its place.
    """
    eps = noise.eps
    if noise.seed is not None:
        zeros = torch.zeros(batch_size, latent_dim, device=noise.seed.device)
        eps = ops.sample_gaussian(zeros, zeros, seed=noise.seed)[0]
    latents, eps = (None if t is None else t[rows] for t in (noise.latents, eps))
    return Noise(None, latents, eps)


def precision(config: TrainConfig, device: torch.device):
    """Autocast to ``config.precision``; the weights, their gradients and the losses stay float32."""
    if config.precision == "float32":
        return contextlib.nullcontext()
    graphs = device.type == "cuda"  # a cast that was kept would not be made anew in a replay
    return torch.autocast(device.type, getattr(torch, config.precision), cache_enabled=not graphs)


def forwards_of(config: TrainConfig) -> int:
    """Forward passes of E and G in a step."""
    return max(1, _discriminator_phases(config))


def r1_phases(config: TrainConfig, step: int) -> tuple[bool, ...]:
    """For every phase D of ``step``, whether R1 is taken in it: all that the operations of a step depend on."""
    phases = _discriminator_phases(config)
    return tuple(_takes_r1(config, step * phases + phase) for phase in range(phases))


def _discriminator_phases(config: TrainConfig) -> int:
    return 0 if config.mode == "vae" else config.n_critic


def _takes_r1(config: TrainConfig, discriminator_step: int) -> bool:
    return config.r1_gamma > 0 and discriminator_step % config.r1_every == 0


def kl_weight_at(config: TrainConfig, step: int) -> float:
    """The weight of the KL divergence at ``step``: it grows over ``kl_warmup_steps`` (Bowman et al. 2016)."""
    return config.kl_weight * min(1.0, (step + 1) / max(1, config.kl_warmup_steps))


def check_finite(terms: dict[str, Tensor], step: int) -> None:
    """Raises DivergedError, naming phase, term and step, if a loss is NaN or infinite. Waits for the device once."""
    finite = torch.stack(list(terms.values())).isfinite().tolist()
    for name, ok in zip(terms, finite, strict=True):
        if not ok:
            phase, term = name.split("/")
            raise DivergedError(
                f"training diverged at step {step}: {term} of the {phase} phase is {terms[name].item()}; "
                "smaller learning rates may help"
            )


@contextlib.contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """``network`` as a fixed function: its parameters take no gradient, and its buffers come back as they were.

    Batch norm goes on normalising by the batch, but the batches seen here leave no trace in its running statistics;
    spectral norm divides by the singular values that it last found.
    """
    modules = list(network.modules())
    buffers = [(module, name, buffer) for module in modules for name, buffer in module.named_buffers(recurse=False)]
    parametrizations = [module.parametrizations for module in modules if is_parametrized(module)]
    modes = [(part, part.training) for whole in parametrizations for part in whole.modules()]
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    try:
        for module, name, buffer in buffers:  # replaced, not restored in place: a graph may have saved them
            setattr(module, name, buffer.clone())
        for part, _ in modes:
            part.training = False
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part, training in modes:
            part.training = training
        for module, name, buffer in buffers:
            setattr(module, name, buffer)


def _set_gradients(networks, outputs, slopes=None) -> None:
    """Parameters of ``networks`` get the gradient of ``outputs`` weighted by ``slopes``, in place of what they had."""
    parameters = list(itertools.chain.from_iterable(network.parameters() for network in networks))
    for parameter in parameters:
        parameter.grad = None
    torch.autograd.backward(outputs, slopes, inputs=parameters)


def _named(phase: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{phase}/{name}": value.detach() for name, value in terms.items()}
