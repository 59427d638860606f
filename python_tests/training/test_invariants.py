"""The invariants (a) to (g) of docs/training.md, each with the published mistake that it catches.

``check_*`` take any implementation of the step that has the methods of ``Ours``. They pass on ours in every mode where
they say something, and fail on a ``Ours`` in which one mistake was put.
"""

import copy

import pytest
import torch
from torch.nn.functional import softplus

from sdgan_ext import losses
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.models.layers import ResidualBlock
from sdgan_ext.ops import reference
from sdgan_ext.training import steps
from sdgan_ext.training.config import MODES, TrainConfig
from sdgan_ext.training.optimizers import make_optimizers

pytestmark = pytest.mark.usefixtures("one_thread")

ALL_MODES = tuple(MODES)
ADVERSARIAL = ("gan", "vae-gan")
NORMS = {"none": ("none", "none"), "batch": ("batch", "batch"), "spectral": ("batch", "spectral")}
#: Changes of the model's configuration and of the training's; the checks pass with each.
SETTINGS = {
    "plain": ({}, {}),
    "R1, R2, relativistic": ({}, dict(r1_gamma=0.4, r2_gamma=0.3, r1_every=1, objective="relativistic")),
    "gradient penalty": ({"discriminator_activation": "tanh"}, dict(objective="wasserstein", gp_weight=0.7)),
    "minibatch deviation": ({"minibatch_stddev": 3}, {}),
    "free bits": ({}, dict(free_bits=0.05)),
    "learned scale, squared": ({"learned_variance": True}, {}),
    "learned scale, absolute": ({"learned_variance": True}, dict(pixel_loss="l1")),
    "weight penalties": ({}, dict(weight_l1=1e-3, weight_l2=2e-3)),
    "DiffAugment": ({}, dict(diffaugment=("color", "translation", "cutout"))),
    "adaptive weight": ({}, dict(adaptive_weight=0.5)),
    "without images of the prior": ({}, dict(prior_images=False)),
    "blocks, a map, patches": (
        dict(residual_blocks=1, discriminator_blocks=1, latent_map=True, latent_dim=4, discriminator_head="patch"), {},
    ),
    "latent diffusion's": (
        dict(residual_blocks=1, latent_map=True, latent_dim=4, discriminator_head="patch", learned_variance=True),
        dict(pixel_loss="l1", adaptive_weight=0.5, prior_images=False),
    ),
    "classes": ({"classes": 3}, {}),
    "all of them": (
        {"minibatch_stddev": 3, "learned_variance": True, "classes": 3},
        dict(r1_gamma=0.4, r2_gamma=0.3, r1_every=1, objective="relativistic", free_bits=0.05, weight_l2=1e-3,
             diffaugment=("color", "translation", "cutout"), adaptive_weight=0.5),
    ),
}  # fmt: skip
TRAIN = dict(lr_encoder=1e-2, lr_generator=1e-2, lr_discriminator=1e-2, kl_weight=0.3, pixel_weight=0.7, gamma=0.4)


class Ours:
    """The step as sdgan_ext takes it, in the four pieces that a mistake can be put into."""

    def forward(self, model, x, config, generator):
        labels = torch.arange(len(x)) % model.config.classes if model.config.classes else None
        return steps.forward(model, x, config, labels=labels, generator=generator)

    def discriminator_gradients(self, model, images, config):
        steps.discriminator_phase(model, images, config)

    def encoder_generator_gradients(self, model, images, config):
        steps.encoder_generator_phase(model, images, config)

    def update(self, optimizers, names):
        for name in names:
            if name in optimizers:
                optimizers[name].step()

    def discriminator_phase(self, model, optimizers, images, config):
        if config.mode != "vae":
            self.discriminator_gradients(model, images, config)
            self.update(optimizers, ["discriminator"])

    def encoder_generator_phase(self, model, optimizers, images, config):
        self.encoder_generator_gradients(model, images, config)
        self.update(optimizers, ["encoder", "generator"])


class Bench:
    """A tiny model in float64 with everything that a step needs."""

    def __init__(self, mode, norm="none", setting="plain", **train):
        torch.manual_seed(0)
        generator_norm, discriminator_norm = NORMS[norm]
        of_model, of_train = SETTINGS[setting]
        given = {"batch_size": 6, "feature_weight": 0.5, **TRAIN, **of_train, **train}
        if mode != "vae-gan" or not given["gamma"]:
            given.pop("adaptive_weight", None)
        if mode == "gan":
            given.pop("prior_images", None)
        if not given["kl_weight"]:
            given.pop("free_bits", None)
        if mode == "gan":
            of_model = {**of_model, "learned_variance": False}
        self.config = TrainConfig(mode=mode, **given)
        base = dict(
            image_size=(7, 6),
            latent_dim=3,
            encoder_channels=(4, 5),
            generator_channels=(5, 4),
            discriminator_channels=(4, 6),
            kernel_size=4,
            encoder_norm=generator_norm,
            generator_norm=generator_norm,
            discriminator_norm=discriminator_norm,
            init="torch",
        )
        self.model = VAEGAN(VAEGANConfig(**{**base, **of_model})).double()
        for block in (module for module in self.model.modules() if isinstance(module, ResidualBlock)):
            torch.nn.init.normal_(block.last.weight, std=0.1)  # from zero nothing would reach the first convolution
        self.optimizers = make_optimizers(self.model, self.config)
        self.x = torch.rand(6, 1, 7, 6, dtype=torch.float64) * 2 - 1

    def forward(self, step, seed=1):
        return step.forward(self.model, self.x, self.config, torch.Generator().manual_seed(seed))

    def networks(self, *names):
        return {name: getattr(self.model, name) for name in names if name in MODES[self.config.mode]}

    def state(self, *names):
        return self._without_idle_bias(
            {
                f"{name}.{key}": value.clone()
                for name, network in self.networks(*names).items()
                for key, value in network.state_dict().items()
            }
        )

    def gradients(self, *names):
        return self._without_idle_bias(
            {
                f"{name}.{key}": None if value.grad is None else value.grad.clone()
                for name, network in self.networks(*names).items()
                for key, value in network.named_parameters()
            }
        )

    def _without_idle_bias(self, values):
        """Of a difference of logits the last bias is no part."""
        idle = self.config.objective in ("wasserstein", "relativistic")
        return {key: value for key, value in values.items() if not (idle and key == "discriminator.logit.bias")}

    def clear(self):
        self.model.zero_grad(set_to_none=True)


def logits_of(bench, images, labels=None, **options):
    with steps.frozen(bench.model.discriminator):
        return bench.model.discriminator(images, labels=labels, **options)


def augmented(images, config, row):
    """What D is shown in phase E+G: real and reconstructed images by the same draws, generated ones by others."""
    if config.diffaugment is None:
        return lambda image: image
    return lambda image: losses.diff_augment(image, images.noise.draws[1, row], config.diffaugment)


def plain_losses(bench, seed=1):
    """The terms of phase E+G in plain autograd on a fresh graph: (of E, of G, adversarial alone)."""
    model, config, x = bench.model, bench.config, bench.x
    images = Ours().forward(model, x, config, torch.Generator().manual_seed(seed))
    labels = images.labels
    latents = [] if images.z is None else [images.z.detach()]
    latents += [] if images.noise.latents is None else [images.noise.latents.to(x)]
    made = list(model.decode(torch.cat(latents), None if labels is None else labels.repeat(len(latents))).split(len(x)))

    def reconstruction(x_hat):
        error = (x_hat - x).square().sum() / 2 if config.pixel_loss == "mse" else (x_hat - x).abs().sum()
        pixel = error / len(x)
        if model.config.learned_variance:
            s = model.generator.log_scale
            pixel = pixel / s.exp() ** (2 if config.pixel_loss == "mse" else 1) + 42 * s
        if config.mode == "vae":
            return config.pixel_weight * pixel
        show = augmented(images, config, 0)
        features = logits_of(bench, show(x_hat), labels, return_features=True)[1][-1]
        target = logits_of(bench, show(x), labels, return_features=True)[1][-1].detach()
        feature = 0.5 * (features - target).square().sum() / len(x)
        return config.pixel_weight * pixel + config.feature_weight * feature

    def adversarial_loss(image, row):
        real = logits_of(bench, augmented(images, config, 0)(x), labels).detach()
        logits = logits_of(bench, augmented(images, config, row)(image), labels)
        return reference.generator_loss(logits, real, config.objective)

    def weights(network):
        every = [w for w in network.parameters() if w.dim() > 1]
        return sum(config.weight_l1 * w.abs().sum() + config.weight_l2 / 2 * w.square().sum() for w in every)

    adversarial = 0
    if config.mode != "vae":
        rows = [1] if config.mode == "gan" else [0, 1][: len(made)]
        adversarial = sum(adversarial_loss(image, row) for image, row in zip(made, rows, strict=True))
    if config.mode == "gan":
        return None, adversarial + weights(model.generator), adversarial
    of_encoder = config.kl_weight * images.kl
    if config.free_bits:
        posterior = model.encode(x, labels)
        kl = 0.5 * (posterior.mean**2 + posterior.logvar.exp() - 1 - posterior.logvar).mean(0)
        of_encoder = config.kl_weight * sum(max(one, torch.full_like(one, config.free_bits)) for one in kl)
    of_encoder = of_encoder + reconstruction(images.reconstructed) + weights(model.encoder)
    gamma = config.gamma if config.mode == "vae-gan" else 1.0
    rec = gamma * reconstruction(made[0])
    if config.adaptive_weight:
        last = model.generator.up_blocks[-1].weight
        nll, g = (torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (rec, adversarial))
        adversarial = config.adaptive_weight * (nll / (g + 1e-4)).clamp(0, 1e4).detach() * adversarial
    return of_encoder, rec + adversarial + weights(model.generator), adversarial


def plain_gradients(bench, seed=1):
    of_encoder, of_generator, _ = plain_losses(bench, seed)
    losses_of = {"encoder": of_encoder, "generator": of_generator}
    gradients = {}
    for name, network in bench.networks("encoder", "generator").items():
        parameters = dict(network.named_parameters())
        values = list(torch.autograd.grad(losses_of[name], list(parameters.values()), retain_graph=True))
        if name == "generator" and "log_scale" in parameters:  # the likelihood's own: gamma has no part in it
            gamma = bench.config.gamma if bench.config.mode == "vae-gan" else 1.0
            values[list(parameters).index("log_scale")] /= gamma
        gradients |= {f"{name}.{key}": value for key, value in zip(parameters, values, strict=True)}
    return gradients


def assert_same_bits(before, after):
    changed = [key for key in before if not torch.equal(before[key], after[key])]
    assert not changed, f"changed: {changed}"


def assert_moved(before, after):
    """Of every parameter some number is another one now; buffers may be as they were."""
    buffers = ("running_mean", "running_var", "num_batches_tracked", "_u", "_v")
    unmoved = [key for key in before if torch.equal(before[key], after[key]) and not key.endswith(buffers)]
    assert not unmoved, f"not trained: {unmoved}"


def assert_trained(gradients):
    idle = [key for key, grad in gradients.items() if grad is None or not grad.any()]
    assert not idle, f"without a gradient: {idle}"


def assert_close(got, expected):
    assert_trained(got)
    assert got.keys() == expected.keys()
    for key in got:
        torch.testing.assert_close(
            got[key], expected[key], rtol=1e-6, atol=1e-9, msg=lambda text, k=key: f"{k}: {text}"
        )


# ------------------------------------------------------------------------------------------------- the invariants
def check_a_discriminator_loss_reaches_nobody_else(step, mode, norm="none", setting="plain"):
    bench = Bench(mode, norm, setting)
    images = bench.forward(step)
    step.discriminator_gradients(bench.model, images, bench.config)
    reached = [key for key, grad in bench.gradients("encoder", "generator").items() if grad is not None]
    assert not reached, f"the discriminator's loss reached {reached}"
    assert_trained(bench.gradients("discriminator"))


def check_b_adversarial_term_does_not_reach_encoder(step, mode, norm="none", setting="plain"):
    bench = Bench(mode, norm, setting)
    images = bench.forward(step)
    step.encoder_generator_gradients(bench.model, images, bench.config)
    got = bench.gradients("encoder")
    without_adversarial_term, _, _ = plain_losses(bench)
    encoder = dict(bench.model.encoder.named_parameters())
    expected = torch.autograd.grad(without_adversarial_term, list(encoder.values()))
    assert_close(got, {f"encoder.{key}": value for key, value in zip(encoder, expected, strict=True)})


def check_c_each_phase_changes_its_own_networks(step, mode, norm="none", setting="plain"):
    bench = Bench(mode, norm, setting)
    images = bench.forward(step)
    if mode != "vae":
        others = bench.state("encoder", "generator")
        step.discriminator_phase(bench.model, bench.optimizers, images, bench.config)
        assert_same_bits(others, bench.state("encoder", "generator"))
    discriminator, own = bench.state("discriminator"), bench.state("encoder", "generator")
    step.encoder_generator_phase(bench.model, bench.optimizers, images, bench.config)
    assert_same_bits(discriminator, bench.state("discriminator"))
    assert_moved(own, bench.state("encoder", "generator"))


def check_d_small_steps_lower_their_losses(step, mode, norm="none", setting="plain"):
    bench = Bench(mode, norm, setting, gamma=0.0)  # of the generator's loss the adversarial terms are left

    def discriminator_loss():
        copied = copy.deepcopy(bench.model)
        return steps.discriminator_phase(copied, bench.forward(Ours()), bench.config)["discriminator/total"]

    def descend(network):
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-4 * parameter.grad

    before = discriminator_loss()
    step.discriminator_gradients(bench.model, bench.forward(step), bench.config)
    descend(bench.model.discriminator)
    assert discriminator_loss() < before, "a step of the discriminator raised its loss"

    bench.clear()
    before = plain_losses(bench)[1].detach()
    step.encoder_generator_gradients(bench.model, bench.forward(step), bench.config)
    descend(bench.model.generator)
    assert plain_losses(bench)[1] < before, "a step of the generator raised its adversarial loss"


def check_e_nothing_stale(step, mode, norm="none", setting="plain"):
    bench = Bench(mode, norm, setting)
    for seed in (1, 2):  # the second step could find leftovers of the first
        images = bench.forward(step, seed)
        step.discriminator_phase(bench.model, bench.optimizers, images, bench.config)
        step.encoder_generator_gradients(bench.model, images, bench.config)
        assert_close(bench.gradients("encoder", "generator"), plain_gradients(bench, seed))
        step.update(bench.optimizers, ["encoder", "generator"])


def check_f_discriminator_learns_from_real_and_generated(step, mode, norm="none", setting="plain"):
    bench = Bench(mode, norm, setting)
    images = bench.forward(Ours())

    def gradients(**changed):
        given = steps.Images(**{**vars(images), **changed})
        bench.clear()
        step.discriminator_gradients(bench.model, given, bench.config)
        return bench.gradients("discriminator")

    before = gradients()
    for kind in ("real", "reconstructed", "generated"):
        if getattr(images, kind) is not None:
            after = gradients(**{kind: torch.rand_like(bench.x)})
            same = all(torch.allclose(before[key], after[key]) for key in before)
            assert not same, f"the {kind} images make no difference to the discriminator"

    bench.clear()
    state = bench.state("discriminator")
    step.discriminator_phase(bench.model, bench.optimizers, bench.forward(step), bench.config)
    assert_moved(state, bench.state("discriminator"))


def check_g_reconstruction_has_a_gradient(step, mode, norm="none", setting="plain"):
    bench = Bench(mode, norm, setting, kl_weight=0.0)
    step.encoder_generator_gradients(bench.model, bench.forward(step), bench.config)
    assert_trained(bench.gradients("encoder"))


# ------------------------------------------------------------------------------------------------- the mistakes
def plain_phase_d(model, images, config, *, detach=True, real=True, kinds=("reconstructed", "generated")):
    """Phase D in plain autograd, every ``backward`` adding to what is there."""
    fakes = [image for kind in kinds if (image := getattr(images, kind)) is not None]
    fake = torch.cat([model.discriminator(image.detach() if detach else image) for image in fakes])
    loss = softplus(fake).mean()
    if real:
        loss = loss + softplus(-model.discriminator(images.real)).mean()
    loss.backward(retain_graph=True)


class UndetachedDiscriminatorBranch(Ours):  # (a) diffusers' autoencoder script
    def discriminator_gradients(self, model, images, config):
        model.discriminator.zero_grad()
        plain_phase_d(model, images, config, detach=False)


def plain_phase_eg(model, images, config, *, reconstruct=True):
    """Phase E+G in plain autograd, with one loss for both networks."""
    loss = 0.0
    for image in (images.reconstructed, images.generated):
        if image is not None and config.mode != "vae":
            loss = loss + softplus(-model.discriminator(image)).mean()
    if images.reconstructed is not None:
        with torch.set_grad_enabled(reconstruct):
            rec = 0.5 * (images.reconstructed - images.real).square().sum() / len(images.real)
        loss = loss + config.kl_weight * images.kl + rec
    model.generator.zero_grad()
    model.encoder.zero_grad()
    loss.backward()


class OneLossForBoth(Ours):  # (b) the encoder sees the adversarial term
    def encoder_generator_gradients(self, model, images, config):
        plain_phase_eg(model, images, config)


class DiscriminatorSteppedWithGenerator(Ours):  # (c)
    def encoder_generator_phase(self, model, optimizers, images, config):
        plain_phase_eg(model, images, config)
        self.update(optimizers, ["encoder", "generator", "discriminator"])


class GeneratorSteppedWithDiscriminator(Ours):  # (c)
    def discriminator_phase(self, model, optimizers, images, config):
        plain_phase_d(model, images, config, detach=False)
        self.update(optimizers, ["discriminator", "generator"])


class DiscriminatorSeesGeneratedInPassing(Ours):  # (c) its running statistics and singular vectors move on
    def encoder_generator_gradients(self, model, images, config):
        model.discriminator(images.real)
        super().encoder_generator_gradients(model, images, config)


class DecoderTrainedWithDiscriminatorLoss(Ours):  # (d) pythae's VAEGAN
    def encoder_generator_gradients(self, model, images, config):
        model.generator.zero_grad()
        plain_phase_d(model, images, config, detach=False)


class DiscriminatorTrainedUphill(Ours):  # (d)
    def discriminator_gradients(self, model, images, config):
        super().discriminator_gradients(model, images, config)
        for parameter in model.discriminator.parameters():
            parameter.grad.neg_()


class GradientsAddedToOldOnes(Ours):  # (e) no zero_grad
    def encoder_generator_gradients(self, model, images, config):
        old = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
        super().encoder_generator_gradients(model, images, config)
        for parameter, grad in zip(model.parameters(), old, strict=True):
            if grad is not None and parameter.grad is not None:
                parameter.grad += grad


class LeftoversOfPhaseD(GradientsAddedToOldOnes):  # (e) diffusers' autoencoder script again
    discriminator_gradients = UndetachedDiscriminatorBranch.discriminator_gradients


class RealImagesNeverShown(Ours):  # (f) the founding document
    def discriminator_gradients(self, model, images, config):
        model.discriminator.zero_grad()
        plain_phase_d(model, images, config, real=False)


class ReconstructionsNeverShown(Ours):  # (f)
    def discriminator_gradients(self, model, images, config):
        model.discriminator.zero_grad()
        plain_phase_d(model, images, config, kinds=("generated",))


class DiscriminatorNeverStepped(Ours):  # (f) diffusers' script, for two months
    def discriminator_phase(self, model, optimizers, images, config):
        self.discriminator_gradients(model, images, config)


class ReconstructionUnderNoGrad(Ours):  # (g) LPIPS under no_grad
    def encoder_generator_gradients(self, model, images, config):
        images.reconstructed = images.reconstructed.detach()
        plain_phase_eg(model, images, config, reconstruct=False)


A = check_a_discriminator_loss_reaches_nobody_else
B = check_b_adversarial_term_does_not_reach_encoder
C = check_c_each_phase_changes_its_own_networks
D = check_d_small_steps_lower_their_losses
E = check_e_nothing_stale
F = check_f_discriminator_learns_from_real_and_generated
G = check_g_reconstruction_has_a_gradient

INVARIANTS = [
    *((check, mode) for check in (A, D, F) for mode in ADVERSARIAL),
    (B, "vae-gan"),
    *((check, mode) for check in (C, E) for mode in ALL_MODES),
    *((G, mode) for mode in ("vae", "vae-gan")),
]

MISTAKES = [
    (A, ADVERSARIAL, UndetachedDiscriminatorBranch, "loss reached .*generator"),
    (B, ["vae-gan"], OneLossForBoth, "encoder.* not close"),
    (C, ADVERSARIAL, DiscriminatorSteppedWithGenerator, "changed: .*discriminator"),
    (C, ADVERSARIAL, GeneratorSteppedWithDiscriminator, "changed: .*generator"),
    (D, ADVERSARIAL, DecoderTrainedWithDiscriminatorLoss, "generator raised"),
    (D, ADVERSARIAL, DiscriminatorTrainedUphill, "discriminator raised"),
    (E, ALL_MODES, GradientsAddedToOldOnes, "not close"),
    (E, ADVERSARIAL, LeftoversOfPhaseD, "not close"),
    (F, ADVERSARIAL, RealImagesNeverShown, "real images make no difference"),
    (F, ["vae-gan"], ReconstructionsNeverShown, "reconstructed images make no difference"),
    (F, ADVERSARIAL, DiscriminatorNeverStepped, "not trained"),
    (G, ["vae", "vae-gan"], ReconstructionUnderNoGrad, "without a gradient"),
]


def name(value):
    return getattr(value, "__name__", value)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("check", "mode"), INVARIANTS, ids=name)
def test_invariant_holds(check, mode, norm):
    check(Ours(), mode, norm)


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting != "plain"])
@pytest.mark.parametrize(("check", "mode"), INVARIANTS, ids=name)
def test_invariant_holds_with(check, mode, setting):
    check(Ours(), mode, setting=setting)


@pytest.mark.parametrize(
    ("check", "mode", "mistake", "words"),
    [(check, mode, mistake, words) for check, modes, mistake, words in MISTAKES for mode in modes],
    ids=name,
)
def test_mistake_is_caught(check, mode, mistake, words):
    with pytest.raises(AssertionError, match=words):
        check(mistake(), mode)


@pytest.mark.parametrize("norm", ["batch", "spectral"])
def test_discriminator_that_moves_on_in_passing_is_caught(norm):
    with pytest.raises(AssertionError, match="changed: .*discriminator"):
        C(DiscriminatorSeesGeneratedInPassing(), "vae-gan", norm)
