"""The training step of a GAN, a VAE and a VAE-GAN, phase by phase. The reasons are in docs/training.md.

A step makes its images once (:func:`forward`). :func:`discriminator_phase` works on them detached from their graph;
:func:`encoder_generator_phase` goes on with the graph, which still holds because phase D changes nothing in E and G.
Each phase *sets* the gradients of the networks it trains and touches those of no other.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import losses, ops
from .._errors import ConfigError, DivergedError
from ..models.vae_gan import VAEGAN
from .config import TrainConfig
from .gradients import clip_gradients, frozen, set_gradients
from .noise import Noise, draw_noise, noise_of_rows
from .optimizers import set_learning_rates

if TYPE_CHECKING:
    from .distributed import Processes

__all__ = [
    "Images",
    "Kind",
    "Noise",
    "check_finite",
    "clip_gradients",
    "discriminator_phase",
    "draw_noise",
    "encoder_generator_phase",
    "forward",
    "forwards_of",
    "frozen",
    "kind_of",
    "kl_weight_at",
    "noise_of_rows",
    "precision",
    "take_step",
    "train_step",
]


@dataclass
class Images:
    """What a step works on; everything but ``real`` and ``labels`` carries its graph.

    Attributes:
        real: x, [N, C, H, W]; with ``binarise`` the -1 and 1 drawn from it.
        reconstructed: G(z) with z ~ q(z|x), [N, C, H, W]; None in mode "gan".
        generated: G(z_p) with z_p ~ N(0, I), [N, C, H, W]; None in mode "vae" and without ``prior_images``.
        z: [N, Z]; None in mode "gan".
        kl: KL(q(z|x) || N(0, I)), a scalar; None in mode "gan".
        kl_free_bits: what stands for it in the encoder's loss, with free bits; None without.
        labels: of the real images, and of those made from and beside them, [N]; None without classes.
        noise: what the phases need of it beside the images.
    """

    real: Tensor
    reconstructed: Tensor | None = None
    generated: Tensor | None = None
    z: Tensor | None = None
    kl: Tensor | None = None
    kl_free_bits: Tensor | None = None
    labels: Tensor | None = None
    noise: Noise | None = None


class Kind(NamedTuple):
    """All that the operations of a step depend on beside its tensors.

    Attributes:
        penalised: for every phase D, whether R1 and R2 are taken in it.
        encoder_generator: whether there is a phase E+G.
        adversarial: whether the game is part of it.
    """

    penalised: tuple[bool, ...]
    encoder_generator: bool = True
    adversarial: bool = True


def kind_of(config: TrainConfig, step: int) -> Kind:
    """Of the step ``step``: steps of one kind do the same operations."""
    if config.mode == "vae":
        return Kind((), adversarial=False)
    before = config.disc_start - step
    if before > config.disc_warmup:
        return Kind((), adversarial=False)
    phases = range(step * config.n_critic, (step + 1) * config.n_critic)
    penalised = tuple(_penalises(config, phase) for phase in phases)
    return Kind(penalised, encoder_generator=before <= 0, adversarial=before <= 0)


def forward(
    model: VAEGAN,
    x: Tensor,
    config: TrainConfig,
    *,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    noise: Noise | None = None,
) -> Images:
    """Encodes, samples and generates, once, with the graph.

    With batch norm in the generator both kinds of latent vectors go through it as one batch: they are normalised alike,
    and its running statistics, updated once a step, are of all that it sees later. With ``binarise`` all of it, and
    all that the phases see of ``x``, is of the drawn pixels.

    Args:
        model: in training mode.
        x: real images [N, C, H, W] in [-1, 1].
        labels: of ``x``, int64 [N]; needed by a conditional model, which generates images of the same classes.
        generator: where :func:`draw_noise` draws from.
        noise: drawn already.
    """
    noise = noise or draw_noise(model, len(x), config, generator=generator)
    if config.binarise:
        x = _binarised(x, noise.thresholds)
    images = Images(x, labels=labels, noise=noise)
    latents = []
    if config.mode != "gan":
        given = {"seed": noise.seed.to(x.device)} if noise.eps is None else {"eps": noise.eps.to(x)}
        posterior = model.encode(x, labels)
        if config.free_bits:
            images.z, kl = posterior.sample_with_kl(**given, reduction="none")
            images.kl, images.kl_free_bits = kl.detach().sum() / len(x), losses.free_bits(kl, config.free_bits)
        else:
            images.z, images.kl = posterior.sample_with_kl(**given)
        latents.append(images.z)
    if noise.latents is not None:
        latents.append(noise.latents.to(x))
    if model.config.generator_norm == "batch":
        together = None if labels is None else labels.repeat(len(latents))
        made = model.decode(torch.cat(latents), together).chunk(len(latents))
    else:
        made = [model.decode(z, labels) for z in latents]
    images.reconstructed = None if config.mode == "gan" else made[0]
    images.generated = None if noise.latents is None else made[-1]
    return images


def _binarised(x: Tensor, thresholds: Tensor) -> Tensor:
    """-1 and 1, every pixel from Bernoulli((x + 1) / 2) (Salakhutdinov & Murray 2008; Burda et al. 2016)."""
    return (thresholds.to(x.device) < (x + 1) / 2).to(x.dtype) * 2 - 1


def discriminator_phase(model: VAEGAN, images: Images, config: TrainConfig, *, step: int = 0) -> dict[str, Tensor]:
    """Sets the gradients of D, and of D alone.

    ``lD = sp(-D(x)) + 1/2 (sp(D(G(z))) + sp(D(G(z_p))))`` for the default objective (Larsen et al. 2016); every
    ``r1_every`` steps also R1 and R2, times ``r1_every`` (Karras et al. 2020); with ``gp_weight`` the gradient penalty.
    R2 and the gradient penalty are means over both kinds of generated images. With DiffAugment all of it is taken at
    the augmented images.

    Args:
        step: discriminator steps taken so far.

    Returns:
        "discriminator/..." ``total``, ``adversarial``, the penalties that were taken (``r1``, ``r2``,
        ``gradient_penalty``, ``weights``), and the mean logits ``real`` and ``fake``: scalars without a graph.

    Raises:
        ConfigError: in mode "vae", which has no phase D.
    """
    if config.mode == "vae":
        raise ConfigError("mode is 'vae'; a discriminator is trained in modes 'gan' and 'vae-gan' only")
    fakes = [fake.detach() for fake in (images.reconstructed, images.generated) if fake is not None]
    real, *fakes = _augmented([images.real.detach(), *fakes], images, config, phase=0)
    penalised = _penalises(config, step)
    real = real.requires_grad_(penalised and config.r1_gamma > 0)
    fakes = [fake.requires_grad_(penalised and config.r2_gamma > 0) for fake in fakes]
    if penalised or model.config.discriminator_mixes_images:  # R1 and R2 need their images alone
        real_logits, *fakes_logits = [_discriminate(model, batch, images.labels) for batch in (real, *fakes)]
    else:
        together = _discriminate(model, torch.cat([real, *fakes]), images.labels)
        real_logits, *fakes_logits = together.split(len(real))
    fake_logits = torch.cat(fakes_logits)
    pairs = len(fakes) if config.objective == "relativistic" else 1
    terms = {
        "adversarial": losses.discriminator_loss(
            torch.cat([real_logits] * pairs), fake_logits, config.objective, real_target=config.real_target
        )
    }
    if penalised and config.r1_gamma:
        terms["r1"] = config.r1_every * losses.r1_penalty(real_logits, real, config.r1_gamma)
    if penalised and config.r2_gamma:
        gamma = config.r1_every * config.r2_gamma / len(fakes)
        terms["r2"] = sum(losses.r2_penalty(*at, gamma) for at in zip(fakes_logits, fakes, strict=True))
    if config.gp_weight:
        x, x_hat = real.repeat(len(fakes), 1, 1, 1), torch.cat(fakes)
        see, points = functools.partial(_discriminate, model, labels=images.labels), images.noise.points.to(real)
        terms["gradient_penalty"] = losses.gradient_penalty(see, x, x_hat, config.gp_weight, t=points.flatten())
    total = sum(terms.values())
    weights = set_gradients([model.discriminator], [total], None, config)
    if weights:
        terms |= weights
        total = total + weights["weights"]
    terms |= {"total": total, "real": real_logits.mean(), "fake": fake_logits.mean()}
    return _named("discriminator", terms)


def encoder_generator_phase(
    model: VAEGAN,
    images: Images,
    config: TrainConfig,
    *,
    step: int = 0,
    kl_weight: Tensor | None = None,
    processes: Processes | None = None,
) -> dict[str, Tensor]:
    """Sets the gradients of E and G, each its own; D is looked through, not changed.

    ::

        rec = feature_weight * 1/2 |D_l(x) - D_l(G(z))|^2 + pixel_weight * 1/2 |x - G(z)|^2
        E <- grad(kl_weight * KL + rec)
        G <- grad(gamma * rec + adv(G(z)) + adv(G(z_p)))      z as a constant; in mode "vae": grad(rec)

    Without ``prior_images`` there is no adv(G(z_p)), as in the autoencoder of latent diffusion (Rombach et al. 2022).

    The losses are differentiated as far as the images, with D frozen: no weight gradient of D is computed. From the
    images one backward pass through G serves its parameters, and one that skips them leads to z and on to E. A learned
    scale takes the gradient of rec, whatever gamma is. With ``adaptive_weight`` both adversarial terms are weighed as
    in :func:`~sdgan_ext.losses.adaptive_weight`, by gamma * rec.

    Args:
        step: steps taken so far; decides the weight of the KL divergence while it warms up, and whether the game has
            begun (``disc_start``).
        kl_weight: that weight as a scalar where ``images`` are, in place of the one of ``step``.
        processes: that take the phase together; the adaptive weight is that of all their images.

    Returns:
        "encoder_generator/..." and, of ``kl``, ``kl_free_bits``, ``pixel``, ``scale`` (the learned one), ``feature``,
        ``reconstruction`` (the weighted sum of pixels and features), ``adversarial_reconstructed``,
        ``adversarial_generated``, ``adaptive_weight`` and ``weights``, those there are: scalars without a graph.
    """
    game = kind_of(config, step).adversarial
    sees = game or _compares_features(config)
    with frozen(model.discriminator) if sees else contextlib.nullcontext():
        terms, slopes = _image_gradients(model, images, config, game)
    if config.mode == "gan":
        terms |= set_gradients([model.generator], [images.generated], [slopes.adv_generated], config)
        return _named("encoder_generator", terms)
    prior = images.kl if images.kl_free_bits is None else images.kl_free_bits
    if kl_weight is None:
        kl_slope = torch.full_like(prior, kl_weight_at(config, step))
    else:
        kl_slope = kl_weight.to(prior)
    scale = [] if slopes.scale is None else [model.generator.log_scale]
    scale_slope = [] if slopes.scale is None else [slopes.scale]
    if config.mode == "vae" or (not game and config.gamma == 1):  # E and G have one loss: one backward pass
        outputs, of_outputs = [images.reconstructed, prior], [slopes.rec, kl_slope]
        terms |= set_gradients([model.encoder, model.generator], outputs + scale, of_outputs + scale_slope, config)
    else:
        with ops.no_weight_gradients():
            (z_slope,) = torch.autograd.grad(images.reconstructed, images.z, slopes.rec, retain_graph=True)
        outputs, of_outputs = [images.reconstructed], [config.gamma * slopes.rec]
        if game:
            adversarial = [slopes.adv_reconstructed, slopes.adv_generated][: 1 + config.prior_images]
            if config.adaptive_weight:
                terms["adaptive_weight"] = _adaptive_weight(model, images, config, of_outputs, adversarial, processes)
                adversarial = [terms["adaptive_weight"] * slope for slope in adversarial]
            of_outputs = [of_outputs[0] + adversarial[0], *adversarial[1:]]
            outputs += [images.generated] if config.prior_images else []
        of_generator = set_gradients([model.generator], outputs + scale, of_outputs + scale_slope, config)
        of_encoder = set_gradients([model.encoder], [images.z, prior], [z_slope, kl_slope], config)
        terms |= {name: value + of_encoder[name] for name, value in of_generator.items()}
    free = {} if images.kl_free_bits is None else {"kl_free_bits": images.kl_free_bits}
    return _named("encoder_generator", {"kl": images.kl, **free, **terms})


class _Slopes(NamedTuple):
    """Gradients of the losses that look at images; None for what the mode does not have."""

    rec: Tensor | None = None  # d rec / d G(z)
    scale: Tensor | None = None  # d rec / d log_scale
    adv_reconstructed: Tensor | None = None  # d adv(G(z)) / d G(z)
    adv_generated: Tensor | None = None  # d adv(G(z_p)) / d G(z_p)


def _image_gradients(model: VAEGAN, images: Images, config: TrainConfig, game: bool) -> tuple[dict, _Slopes]:
    """The losses of phase E+G that look at images, and their gradients there."""
    compares_features = _compares_features(config)
    see = functools.partial(_discriminate, model, labels=images.labels)
    slopes, terms, real_logits = {}, {}, None
    if compares_features or (game and config.objective == "relativistic"):
        with torch.no_grad():  # augmented like x~, so that their features can be compared
            (real,) = _augmented([images.real], images, config, phase=1)
            real_logits, real_features = see(real, return_features=True)
    if config.mode != "gan":
        x_hat = images.reconstructed.detach().requires_grad_()
        if game or compares_features:
            (seen,) = _augmented([x_hat], images, config, phase=1)
            logits, features = see(seen, return_features=True)
        if game:
            loss = terms["adversarial_reconstructed"] = losses.generator_loss(logits, real_logits, config.objective)
            (slopes["adv_reconstructed"],) = torch.autograd.grad(loss, x_hat, retain_graph=compares_features)
        rec, own = _pixels(model, x_hat, images.real, config)
        terms |= own
        if compares_features:
            layer = config.feature_layer
            terms["feature"] = losses.feature_loss(features[layer], real_features[layer])
            rec = rec + config.feature_weight * terms["feature"]
        terms["reconstruction"] = rec
        scale = [model.generator.log_scale] if model.config.learned_variance else []
        slopes |= zip(("rec", "scale"), torch.autograd.grad(rec, [x_hat, *scale]), strict=False)
    if game and images.generated is not None:
        x_p = images.generated.detach().requires_grad_()
        _, seen = _augmented([None, x_p], images, config, phase=1)
        loss = terms["adversarial_generated"] = losses.generator_loss(see(seen), real_logits, config.objective)
        (slopes["adv_generated"],) = torch.autograd.grad(loss, x_p)
    return terms, _Slopes(**slopes)


def _pixels(model: VAEGAN, x_hat: Tensor, x: Tensor, config: TrainConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted distance of pixels, and what is told of it."""
    if model.config.learned_variance:
        log_scale = model.generator.log_scale
        loss = losses.pixel_nll(x_hat, x, log_scale, config.pixel_loss)
        return config.pixel_weight * loss, {"pixel": loss, "scale": log_scale.detach().exp()}
    loss = losses.pixel_loss(x_hat, x, config.pixel_loss)
    return config.pixel_weight * loss, {"pixel": loss}


def _adaptive_weight(
    model: VAEGAN,
    images: Images,
    config: TrainConfig,
    reconstruction: Sequence[Tensor],
    adversarial: Sequence[Tensor],
    processes: Processes | None,
) -> Tensor:
    """By the slopes at the images, the two terms' gradients at the generator's last weight: one layer back."""
    weight, made = model.generator.last_weight, [images.reconstructed, images.generated][: len(adversarial)]
    nll = torch.autograd.grad(made[:1], weight, reconstruction, retain_graph=True)
    g = torch.autograd.grad(made, weight, adversarial, retain_graph=True)
    if processes is not None:
        processes.average_tensors([*nll, *g])
    return config.adaptive_weight * losses.adaptive_weight(nll, g)


def _compares_features(config: TrainConfig) -> bool:
    return config.mode == "vae-gan" and config.feature_weight > 0


def _discriminate(model: VAEGAN, x: Tensor, labels: Tensor | None, **options):
    """D's answer; ``x`` may be several batches of the same labels."""
    if labels is not None:
        options["labels"] = labels if len(x) == len(labels) else labels.repeat(len(x) // len(labels))
    return model.discriminator(x, **options)


def _augmented(batches: Sequence[Tensor | None], images: Images, config: TrainConfig, *, phase: int) -> list:
    """What D is shown of each batch; in phase E+G (1) of real or reconstructed images, then of generated ones."""
    if config.diffaugment is None:
        return list(batches)
    return [
        None if batch is None else losses.diff_augment(batch, draws, config.diffaugment)
        for batch, draws in zip(batches, images.noise.draws[phase], strict=False)
    ]


def train_step(
    model: VAEGAN,
    optimizers: dict[str, Optimizer],
    x: Tensor,
    config: TrainConfig,
    *,
    step: int,
    labels: Tensor | None = None,
    generator: torch.Generator | None = None,
    processes: Processes | None = None,
) -> dict[str, Tensor]:
    """One step: ``n_critic`` times phase D, then phase E+G, each followed by its optimizers.

    Before ``disc_start`` there is no phase D, and then for ``disc_warmup`` steps no phase E+G.

    Args:
        optimizers: of :func:`~sdgan_ext.training.optimizers.make_optimizers`; their learning rates are set to those of
            ``step``.
        x: real images [N, C, H, W] in [-1, 1].
        step: steps taken so far.
        labels: of ``x``, int64 [N], where ``x`` is; for a conditional model.
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
    return take_step(model, optimizers, x, noise, config, step=step, labels=labels, processes=processes)


def take_step(
    model: VAEGAN,
    optimizers: dict[str, Optimizer],
    x: Tensor,
    noise: Sequence[Noise],
    config: TrainConfig,
    *,
    step: int,
    labels: Tensor | None = None,
    kl_weight: Tensor | None = None,
    processes: Processes | None = None,
) -> dict[str, Tensor]:
    """:func:`train_step` with all that changes from step to step given; the learning rates are those of the optimizers.

    Given ``kl_weight``, ``step`` decides :func:`kind_of` and nothing else: with tensors for learning rates, a CUDA
    graph of it is a step like any other of the same kind.

    Args:
        noise: of every forward pass, :func:`forwards_of` in all.
        kl_weight: as in :func:`encoder_generator_phase`.
        processes: as in :func:`train_step`; their gradients are averaged before they are clipped.
    """
    model.train()
    kind = kind_of(config, step)
    phases = len(kind.penalised)
    trained = [name for name in ("encoder", "generator") if name in optimizers]
    parts = _parts(x, labels, noise, config, model.config.latent_dim)
    images: list[Images] = []  # of the last phase D, with their graphs, where phase E+G can go on with them

    def discriminate(x: Tensor, labels: Tensor | None, noise: Noise, phase: int) -> dict[str, Tensor]:
        if phase == phases - 1 and kind.encoder_generator and len(parts) == 1:
            images.append(forward(model, x, config, labels=labels, noise=noise))
            made = images[0]
        else:  # images for D alone: no graph, and E and G stay as they are
            with torch.no_grad(), frozen(model):
                made = forward(model, x, config, labels=labels, noise=noise)
        return discriminator_phase(model, made, config, step=step * phases + phase)

    def encode_and_generate(x: Tensor, labels: Tensor | None, noise: Noise, phase: int) -> dict[str, Tensor]:
        made = images.pop() if images else forward(model, x, config, labels=labels, noise=noise)
        return encoder_generator_phase(model, made, config, step=step, kl_weight=kl_weight, processes=processes)

    def update(names: list[str], set_gradients: Callable, phase: int) -> dict[str, Tensor]:
        networks = [getattr(model, name) for name in names]
        runs = [functools.partial(set_gradients, *part, noise[phase], phase) for *part, noise in parts]
        terms = _mean(runs, networks)
        if processes is not None:
            processes.average_gradients(networks)
        prefix = next(iter(terms)).partition("/")[0]
        terms |= _named(prefix, clip_gradients(model, names, config))
        for name in names:
            optimizers[name].step()
        return terms

    terms = {}
    with precision(config, x.device):
        for phase in range(phases):
            terms = update(["discriminator"], discriminate, phase)
        if kind.encoder_generator:
            terms |= update(trained, encode_and_generate, -1)
    return terms


def _parts(
    x: Tensor, labels: Tensor | None, noise: Sequence[Noise], config: TrainConfig, latent_dim: int
) -> list[tuple[Tensor, Tensor | None, list[Noise]]]:
    """The batch in ``config.accumulate`` parts, each with its labels and its rows of the noise."""
    if config.accumulate == 1:
        return [(x, labels, list(noise))]
    size = len(x) // config.accumulate
    rows = [slice(i * size, (i + 1) * size) for i in range(config.accumulate)]
    return [
        (
            x[part],
            None if labels is None else labels[part],
            [noise_of_rows(drawn, part, len(x), latent_dim) for drawn in noise],
        )
        for part in rows
    ]


def _mean(runs: Sequence[Callable[[], dict[str, Tensor]]], networks) -> dict[str, Tensor]:
    """The mean of the losses, and in the parameters of the gradients, that runs return and set one after another."""
    terms = runs[0]()
    if len(runs) == 1:
        return terms
    parameters = [p for p in itertools.chain.from_iterable(n.parameters() for n in networks) if p.grad is not None]
    sums = [p.grad for p in parameters]  # each run makes its own
    for run in runs[1:]:
        more = run()
        terms = {name: terms[name] + more[name] for name in terms}
        torch._foreach_add_(sums, [p.grad for p in parameters])
    torch._foreach_div_(sums, len(runs))
    for parameter, grad in zip(parameters, sums, strict=True):
        parameter.grad = grad
    return {name: term / len(runs) for name, term in terms.items()}


def precision(config: TrainConfig, device: torch.device):
    """Autocast to ``config.precision``; the weights, their gradients and the losses stay float32."""
    if config.precision == "float32":
        return contextlib.nullcontext()
    graphs = device.type == "cuda"  # a cast that was kept would not be made anew in a replay
    return torch.autocast(device.type, getattr(torch, config.precision), cache_enabled=not graphs)


def forwards_of(config: TrainConfig) -> int:
    """Forward passes of E and G that a step has noise for."""
    return 1 if config.mode == "vae" else config.n_critic


def _penalises(config: TrainConfig, discriminator_step: int) -> bool:
    return (config.r1_gamma > 0 or config.r2_gamma > 0) and discriminator_step % config.r1_every == 0


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


def _named(phase: str, terms: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{phase}/{name}": value.detach() for name, value in terms.items()}
