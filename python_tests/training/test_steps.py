"""Phases, schedules and their options against formulas; the loops of docs/training.md, run as printed."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdgan_ext import losses
from sdgan_ext._errors import ConfigError, DivergedError
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.ops import reference
from sdgan_ext.training import step as step_module
from sdgan_ext.training import steps
from sdgan_ext.training.config import MODES, TrainConfig
from sdgan_ext.training.optimizers import make_optimizers

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = dict(
    image_size=(7, 6),
    latent_dim=3,
    encoder_channels=(4, 5),
    generator_channels=(5, 4),
    discriminator_channels=(4, 6),
    generator_norm="none",
    init="torch",
)


def tiny(seed=0, dtype=torch.float64, **changes):
    torch.manual_seed(seed)
    return VAEGAN(VAEGANConfig(**{**TINY, **changes})).to(dtype)


def images_like(model, n=6, seed=3):
    generator = torch.Generator().manual_seed(seed)
    size = (n, model.config.channels, *model.config.image_size)
    return (torch.rand(size, generator=generator, dtype=torch.float64) * 2 - 1).to(next(model.parameters()))


def noise(seed=5):
    return torch.Generator().manual_seed(seed)


def gradients(network):
    return {name: parameter.grad.clone() for name, parameter in network.named_parameters()}


# --------------------------------------------------------------------------------------------------- phase D
@pytest.mark.parametrize("objective", ["non_saturating", "hinge", "relativistic"])
def test_discriminator_loss_is_that_of_the_paper(objective):
    model, config = tiny(), TrainConfig(objective=objective)
    images = steps.forward(model, images_like(model), config, generator=noise())
    terms = steps.discriminator_phase(model, images, config)
    d = model.discriminator
    halves = [
        reference.discriminator_loss(d(images.real), d(fake.detach()), objective)
        for fake in (images.reconstructed, images.generated)
    ]
    expected = (halves[0] + halves[1]) / 2
    torch.testing.assert_close(terms["discriminator/total"], expected.detach())
    torch.testing.assert_close(terms["discriminator/real"], d(images.real).mean().detach())
    wanted = torch.autograd.grad(expected, list(d.parameters()))
    for got, want in zip(gradients(d).values(), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_r1_is_lazy_and_as_often_stronger():
    model, config = tiny(), TrainConfig(mode="gan", r1_gamma=0.7, r1_every=4)
    x = images_like(model)
    images = steps.forward(model, x, config, generator=noise())
    plain = steps.discriminator_phase(model, images, config, step=3)
    assert "discriminator/r1" not in plain
    terms = steps.discriminator_phase(model, images, config, step=8)
    d, real = model.discriminator, x.clone().requires_grad_()
    gradient = torch.autograd.grad(d(real).sum(), real, create_graph=True)[0]
    r1 = 4 * 0.7 / 2 * gradient.square().sum() / len(x)
    torch.testing.assert_close(terms["discriminator/r1"], r1.detach())
    loss = r1 + reference.discriminator_loss(d(x), d(images.generated.detach()))
    wanted = torch.autograd.grad(loss, list(d.parameters()), allow_unused=True)
    for got, want in zip(gradients(d).values(), wanted, strict=True):
        torch.testing.assert_close(got, want)


def gradients_of(d, x, **labels):
    x = x.detach().clone().requires_grad_()
    return torch.autograd.grad(d(x, **labels).sum(), x, create_graph=True)[0]


def test_r2_is_the_mean_over_both_kinds_of_generated_images():
    model, config = tiny(), TrainConfig(r1_gamma=0.7, r2_gamma=0.3, r1_every=4, objective="relativistic")
    x = images_like(model)
    images = steps.forward(model, x, config, generator=noise())
    terms = steps.discriminator_phase(model, images, config, step=4)
    d, made = model.discriminator, (images.reconstructed.detach(), images.generated.detach())
    r1 = 4 * 0.7 / 2 * gradients_of(d, x).square().sum() / 6
    r2 = 4 * 0.3 / 2 * sum(gradients_of(d, image).square().sum() / 6 for image in made) / 2
    torch.testing.assert_close(terms["discriminator/r1"], r1.detach())
    torch.testing.assert_close(terms["discriminator/r2"], r2.detach())
    adversarial = sum(reference.discriminator_loss(d(x), d(image), "relativistic") for image in made) / 2
    wanted = torch.autograd.grad(adversarial + r1 + r2, list(d.parameters()), allow_unused=True)
    for got, want in zip(gradients(d).values(), wanted, strict=True):
        torch.testing.assert_close(got, want)
    assert not {"discriminator/r1", "discriminator/r2"} & set(steps.discriminator_phase(model, images, config, step=5))


@pytest.mark.parametrize("mode", ["gan", "vae-gan"])
def test_gradient_penalty_lies_between_real_and_generated_images(mode):
    model = tiny(discriminator_activation="tanh")
    config = TrainConfig(mode=mode, objective="wasserstein", gp_weight=10.0)
    x = images_like(model)
    images = steps.forward(model, x, config, generator=noise())
    terms = steps.discriminator_phase(model, images, config, step=1)
    d, penalty, adversarial = model.discriminator, 0, []
    made = [image.detach() for image in (images.reconstructed, images.generated) if image is not None]
    for image, t in zip(made, images.noise.points.double(), strict=True):
        t = t.reshape(6, 1, 1, 1)
        norms = gradients_of(d, (1 - t) * x + t * image).flatten(1).norm(dim=1)
        penalty = penalty + 10 * (norms - 1).square().mean() / len(made)
        adversarial.append((d(image).mean() - d(x).mean()) / len(made))
    torch.testing.assert_close(terms["discriminator/gradient_penalty"], penalty.detach())
    wanted = torch.autograd.grad(sum(adversarial) + penalty, list(d.parameters()), allow_unused=True)
    for (name, got), want in zip(gradients(d).items(), wanted, strict=True):
        torch.testing.assert_close(got, want, msg=lambda text, name=name: f"{name}: {text}")


def test_penalties_are_taken_at_the_augmented_images():
    kinds = ("color", "translation", "cutout")
    model, config = tiny(), TrainConfig(r1_gamma=0.7, r2_gamma=0.3, r1_every=1, diffaugment=kinds)
    images = steps.forward(model, images_like(model), config, generator=noise())
    terms = steps.discriminator_phase(model, images, config)
    three = (images.real, images.reconstructed.detach(), images.generated.detach())
    x, *made = (losses.diff_augment(image, u, kinds) for image, u in zip(three, images.noise.draws[0], strict=True))
    d = model.discriminator
    adversarial = sum(reference.discriminator_loss(d(x), d(image)) for image in made) / 2
    torch.testing.assert_close(terms["discriminator/adversarial"], adversarial.detach())
    torch.testing.assert_close(terms["discriminator/r1"], 0.35 * gradients_of(d, x).square().sum().detach() / 6)
    r2 = 0.15 * sum(gradients_of(d, image).square().sum() for image in made) / 12
    torch.testing.assert_close(terms["discriminator/r2"], r2.detach())


def test_labels_reach_the_discriminator_with_every_batch():
    model, config = tiny(classes=3), TrainConfig()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    images = steps.forward(model, images_like(model), config, labels=labels, generator=noise())
    terms = steps.discriminator_phase(model, images, config)
    d = model.discriminator
    made = (images.reconstructed.detach(), images.generated.detach())
    adversarial = [reference.discriminator_loss(d(images.real, labels=labels), d(x, labels=labels)) for x in made]
    torch.testing.assert_close(terms["discriminator/total"], ((adversarial[0] + adversarial[1]) / 2).detach())
    with pytest.raises(ValueError, match="labels are missing: this model is conditioned on 3 classes"):
        steps.forward(model, images_like(model), config)


def test_minibatch_deviation_keeps_the_batches_apart():
    model, config = tiny(minibatch_stddev=3), TrainConfig()
    images = steps.forward(model, images_like(model, n=5), config, generator=noise())  # 3 divides 15, and not 5
    terms = steps.discriminator_phase(model, images, config)
    torch.testing.assert_close(terms["discriminator/real"], model.discriminator(images.real).mean().detach())


def test_label_smoothing_reaches_the_loss():
    model = tiny()
    totals = []
    for target in (1.0, 0.9):
        config = TrainConfig(mode="gan", real_target=target)
        images = steps.forward(model, images_like(model), config, generator=noise())
        totals.append(steps.discriminator_phase(model, images, config)["discriminator/total"])
    assert totals[0] != totals[1]


def test_batch_norm_in_discriminator_keeps_the_batches_apart():
    model, config = tiny(discriminator_norm="batch"), TrainConfig()
    images = steps.forward(model, images_like(model), config, generator=noise())
    terms = steps.discriminator_phase(model, images, config)
    torch.testing.assert_close(terms["discriminator/real"], model.discriminator(images.real).mean().detach())


# ------------------------------------------------------------------------------------------------- phase E+G
class Counter(TorchDispatchMode):
    """Counts the backward passes of the convolutions of ``owner``, and the gradients that they compute."""

    def __init__(self, owner):
        super().__init__()
        self.weights = {parameter.data_ptr() for parameter in owner.parameters()}
        self.calls = self.input_gradients = self.weight_gradients = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.name() in ("sdgan_ext::conv2d_backward", "sdgan_ext::conv_transpose2d_backward"):
            if args[2].data_ptr() in self.weights:
                wants_input, wants_weight, _ = args[-3:]
                self.calls += 1
                self.input_gradients += wants_input
                self.weight_gradients += wants_weight
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["gan", "vae-gan"])
def test_no_weight_gradient_of_the_discriminator_in_phase_eg(mode):
    model, config = tiny(), TrainConfig(mode=mode, feature_weight=1.0)
    images = steps.forward(model, images_like(model), config, generator=noise())
    with Counter(model.discriminator) as phase_d:
        steps.discriminator_phase(model, images, config)
    assert phase_d.calls == phase_d.weight_gradients == 2  # one a layer
    assert phase_d.input_gradients == 1  # none of the images
    model.zero_grad()
    with Counter(model.discriminator) as phase_eg:
        steps.encoder_generator_phase(model, images, config)
    assert phase_eg.calls > 0 and phase_eg.weight_gradients == 0
    assert all(parameter.grad is None for parameter in model.discriminator.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_generator_weight_gradients_are_computed_once():
    model, config = tiny(), TrainConfig(feature_weight=1.0)
    images = steps.forward(model, images_like(model), config, generator=noise())
    with Counter(model.generator) as counter:
        steps.encoder_generator_phase(model, images, config)
    layers, batches = 2, 2  # G(z) and G(z_p)
    assert counter.weight_gradients == layers * batches
    assert counter.calls == layers * (batches + 1)  # the way to z besides


@pytest.mark.parametrize("layer", [0, 1, -1, -2])
def test_feature_layer_and_weights(layer):
    model = tiny()
    config = TrainConfig(feature_weight=0.3, pixel_weight=0.2, feature_layer=layer)
    x = images_like(model)
    images = steps.forward(model, x, config, generator=noise())
    x_hat = images.reconstructed.detach()
    terms = steps.encoder_generator_phase(model, images, config)
    with torch.no_grad():
        real, fake = (model.discriminator(batch, return_features=True)[1][layer] for batch in (x, x_hat))
    feature = 0.5 * (real - fake).square().sum() / len(x)
    pixel = 0.5 * (x - x_hat).square().sum() / len(x)
    torch.testing.assert_close(terms["encoder_generator/feature"], feature)
    torch.testing.assert_close(terms["encoder_generator/pixel"], pixel)
    torch.testing.assert_close(terms["encoder_generator/reconstruction"], 0.3 * feature + 0.2 * pixel)


def test_relativistic_generator_looks_at_real_logits():
    model, config = tiny(), TrainConfig(mode="gan", objective="relativistic")
    images = steps.forward(model, images_like(model), config, generator=noise())
    loss = reference.generator_loss(
        model.discriminator(images.generated), model.discriminator(images.real), "relativistic"
    )
    wanted = torch.autograd.grad(loss, list(model.generator.parameters()), retain_graph=True)
    terms = steps.encoder_generator_phase(model, images, config)
    torch.testing.assert_close(terms["encoder_generator/adversarial_generated"], loss.detach())
    for got, want in zip(gradients(model.generator).values(), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_gamma_weighs_the_reconstruction_in_the_generator_alone():
    model = tiny()
    encoder, generator = [], []
    for gamma in (0.0, 1.0, 2.0):
        config = TrainConfig(gamma=gamma)
        images = steps.forward(model, images_like(model), config, generator=noise())
        steps.encoder_generator_phase(model, images, config)
        encoder.append(gradients(model.encoder))
        generator.append(gradients(model.generator))
    for key in encoder[0]:
        assert torch.equal(encoder[0][key], encoder[2][key])
    for key in generator[0]:
        torch.testing.assert_close(generator[2][key], 2 * generator[1][key] - generator[0][key])


def test_kl_weight_warms_up():
    config = TrainConfig(kl_weight=0.5, kl_warmup_steps=10)
    assert [steps.kl_weight_at(config, step) for step in (0, 4, 9, 100)] == [0.05, 0.25, 0.5, 0.5]
    assert steps.kl_weight_at(TrainConfig(kl_weight=0.5), 0) == 0.5

    model, base = tiny(), dict(mode="vae", pixel_weight=1e-9)
    grads = []
    for step, config in ((0, TrainConfig(kl_warmup_steps=10, **base)), (0, TrainConfig(kl_weight=0.1, **base))):
        images = steps.forward(model, images_like(model), config, generator=noise())
        steps.encoder_generator_phase(model, images, config, step=step)
        grads.append(gradients(model.encoder))
    for key in grads[0]:
        torch.testing.assert_close(grads[0][key], grads[1][key])


@pytest.mark.parametrize("mode", ["vae", "vae-gan"])
@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_the_learned_scale_is_trained_and_finds_the_deviation(mode, kind):
    model = tiny(learned_variance=True, dtype=torch.float32)
    config = TrainConfig(mode=mode, pixel_loss=kind, lr_generator=0.02, lr_encoder=1e-9, gamma=0.01)
    optimizers = make_optimizers(model, config)
    optimizers["generator"].param_groups[0]["params"] = [model.generator.log_scale]  # the images stay as they are
    x = images_like(model)
    for step in range(120):
        terms = steps.train_step(model, optimizers, x, config, step=step, generator=noise(step))
    error = model.reconstruct(x) - x
    deviation = error.square().mean().sqrt() if kind == "mse" else error.abs().mean()
    assert terms["encoder_generator/scale"].item() == pytest.approx(deviation.item(), rel=0.05)


def test_adaptive_weight_is_logged():
    model, config = tiny(), TrainConfig(adaptive_weight=0.5)
    images = steps.forward(model, images_like(model), config, generator=noise())
    last = model.generator.up_blocks[-1].weight
    pixel = (images.reconstructed - images.real).square().sum() / 12
    d = model.discriminator
    adversarial = sum(reference.generator_loss(d(image)) for image in (images.reconstructed, images.generated))
    nll, g = (torch.autograd.grad(term, last, retain_graph=True)[0].norm() for term in (pixel, adversarial))
    terms = steps.encoder_generator_phase(model, images, config)
    torch.testing.assert_close(terms["encoder_generator/adaptive_weight"], 0.5 * (nll / (g + 1e-4)))


def test_free_bits_reports_both():
    model, config = tiny(), TrainConfig(mode="vae", free_bits=0.2)
    images = steps.forward(model, images_like(model), config, generator=noise())
    terms = steps.encoder_generator_phase(model, images, config)
    kl = model.encode(images.real).kl("none")
    torch.testing.assert_close(terms["encoder_generator/kl"], kl.sum().detach() / 6)
    torch.testing.assert_close(terms["encoder_generator/kl_free_bits"], kl.mean(0).clamp(min=0.2).sum().detach())


# ------------------------------------------------------------------------------------------------ the whole step
@pytest.mark.parametrize("mode", MODES)
def test_clipping_bounds_each_network_for_itself(mode):
    model, bounds = tiny(), {"encoder": 1e-3, "generator": 2e-3, "discriminator": 3e-3}
    config = TrainConfig(mode=mode, **{f"clip_{name}": bound for name, bound in bounds.items()})
    terms = steps.train_step(model, make_optimizers(model, config), images_like(model), config, step=0)
    for name in MODES[mode]:
        grads = [p.grad for p in getattr(model, name).parameters() if p.grad is not None]
        assert torch.nn.utils.get_total_norm(grads).item() == pytest.approx(bounds[name], rel=0.01)
        phase = "discriminator" if name == "discriminator" else "encoder_generator"
        assert terms[f"{phase}/gradient_norm_{name}"] > bounds[name]


def test_a_bound_that_is_wide_changes_nothing():
    states = []
    for bound in (0.0, 1e9):
        model, config = tiny(), TrainConfig(clip_encoder=bound, clip_generator=bound, clip_discriminator=bound)
        steps.train_step(model, make_optimizers(model, config), images_like(model), config, step=0, generator=noise())
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))


@pytest.mark.parametrize("mode", ["gan", "vae-gan"])
def test_the_discriminator_trains_alone_before_the_adversarial_terms_begin(mode):
    model, start = tiny(dtype=torch.float32, generator_norm="batch"), 4 if mode == "vae-gan" else 2
    config = TrainConfig(mode=mode, disc_start=start, disc_warmup=2, n_critic=2, r1_gamma=1.0, r1_every=3)
    optimizers, generator = make_optimizers(model, config), noise()
    for step in range(6):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        terms = steps.train_step(model, optimizers, images_like(model), config, step=step, generator=generator)
        moved = {
            name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(before[name], value)
        }
        everyone = set(MODES[mode])
        alone = start - 2 <= step < start
        assert moved == ({"discriminator"} if alone else everyone - {"discriminator"} if step < start else everyone)
        assert any("adversarial_" in name for name in terms) == (step >= start)
        kind = steps.kind_of(config, step)
        assert kind.adversarial == (step >= start) and kind.encoder_generator == (not alone)
        assert kind.penalised == (tuple((2 * step + i) % 3 == 0 for i in range(2)) if step >= start - 2 else ())


@pytest.mark.parametrize("mode", MODES)
def test_train_step_trains_what_the_mode_names(mode):
    model = tiny(generator_norm="batch", encoder_norm="batch", dtype=torch.float32)
    config = TrainConfig(mode=mode, feature_weight=1.0 if mode == "vae-gan" else 0.0)
    optimizers = make_optimizers(model, config)
    assert tuple(optimizers) == MODES[mode]
    before = {name: value.clone() for name, value in model.named_parameters()}
    model.eval()  # as after drawing samples
    terms = steps.train_step(model, optimizers, images_like(model), config, step=0, generator=noise())
    assert model.training
    for name, value in model.named_parameters():
        assert torch.equal(before[name], value) != name.startswith(MODES[mode]), name
    phases = {name.split("/")[0] for name in terms}
    assert phases == {"encoder_generator"} | ({"discriminator"} if mode != "vae" else set())
    assert all(value.dim() == 0 and not value.requires_grad for value in terms.values())


@pytest.mark.parametrize("mode", MODES)
def test_same_seeds_same_bits(mode):
    runs = []
    for _ in range(2):
        model, config, generator = tiny(dtype=torch.float32), TrainConfig(mode=mode), noise()
        optimizers = make_optimizers(model, config)
        for step in range(3):
            terms = steps.train_step(model, optimizers, images_like(model), config, step=step, generator=generator)
        runs.append([*terms.values(), *model.state_dict().values()])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_n_critic_phases_draw_their_own_images_and_leave_no_trace():
    config = TrainConfig(n_critic=3, lr_discriminator=1e-12, lr_encoder=1e-12, lr_generator=1e-12)
    model = tiny(generator_norm="batch", dtype=torch.float32)
    seen = []
    hook = model.discriminator.register_forward_hook(lambda *call: seen.append(call[1][0].detach().clone()))
    steps.train_step(model, make_optimizers(model, config), images_like(model), config, step=0, generator=noise())
    hook.remove()
    phases = [batch for batch in seen if len(batch) == 18]  # real, reconstructed and generated
    assert len(phases) == 3
    assert all(torch.equal(phases[0][:6], batch[:6]) for batch in phases)
    assert not torch.allclose(phases[0][6:], phases[1][6:])
    updates = [value for name, value in model.named_buffers() if "num_batches" in name]
    assert updates and all(value == 1 for value in updates)


def test_lazy_r1_counts_discriminator_steps():
    model, config = tiny(), TrainConfig(mode="gan", n_critic=2, r1_gamma=1.0, r1_every=3)
    optimizers = make_optimizers(model, config)
    taken = []
    phase = steps.discriminator_phase
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            step_module, "discriminator_phase", lambda *a, step, **k: taken.append(step) or phase(*a, step=step, **k)
        )
        for step in range(3):
            steps.train_step(model, optimizers, images_like(model), config, step=step)
    assert taken == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("mode", MODES)
def test_a_few_steps_learn_something(mode):
    model = tiny(dtype=torch.float32, generator_norm="batch")
    rates = dict(lr_encoder=1e-2, lr_generator=1e-2, lr_discriminator=5e-3)
    tame = dict(r1_gamma=3.0, r1_every=1, betas=(0.0, 0.9)) if mode == "gan" else {}
    config = TrainConfig(mode=mode, steps=80, kl_weight=0.1, **rates, **tame)
    picture = torch.linspace(-0.9, 0.9, 42).reshape(1, 1, 7, 6)
    x = picture * torch.linspace(0.5, 1, 16).reshape(16, 1, 1, 1)
    optimizers, generator = make_optimizers(model, config), noise()

    def distance():
        return (model.sample(64, seed=0) - x.mean(0)).square().mean()

    before = distance()
    history = [
        steps.train_step(model, optimizers, x, config, step=step, generator=generator) for step in range(config.steps)
    ]
    for step, terms in enumerate(history):
        steps.check_finite(terms, step)
    assert distance() < 0.5 * before
    if mode != "gan":
        assert history[-1]["encoder_generator/pixel"] < 0.5 * history[0]["encoder_generator/pixel"]


# -------------------------------------------------------------------------------------------- frozen, divergence
def test_frozen_network_comes_back_as_it_was():
    model = tiny(discriminator_norm="spectral", encoder_norm="batch")
    next(model.parameters()).requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    buffers = [id(buffer) for buffer in model.buffers()]
    x = images_like(model)
    with pytest.raises(KeyError), steps.frozen(model):
        first, second = model.discriminator(x), model.discriminator(x)
        assert torch.equal(first, second) and not first.requires_grad
        model.encode(x)
        raise KeyError
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert buffers == [id(buffer) for buffer in model.buffers()]
    assert all(module.training for module in model.modules())


def test_graph_from_before_survives_frozen():
    model = tiny(encoder_norm="batch")
    mean = model.encode(images_like(model)).mean
    with steps.frozen(model):
        model.encode(images_like(model, seed=4))
    mean.sum().backward()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_names_phase_term_and_step(bad):
    terms = {"discriminator/total": torch.tensor(1.0), "encoder_generator/kl": torch.tensor(bad)}
    with pytest.raises(DivergedError, match=rf"step 12: kl of the encoder_generator phase is {bad}"):
        steps.check_finite(terms, 12)
    steps.check_finite({"discriminator/total": torch.tensor(1.0)}, 12)


@pytest.mark.parametrize("mode", ["vae", "vae-gan"])
@pytest.mark.parametrize("logvar", [100, 1e4])  # only the KL is infinite, and z too
def test_divergence_names_the_logvar_in_a_real_step(mode, logvar):
    config = TrainConfig(mode=mode)
    model = tiny(dtype=torch.float32)
    with torch.no_grad():
        model.encoder.logvar.bias.fill_(logvar)
    terms = steps.train_step(model, make_optimizers(model, config), images_like(model), config, step=7)
    with pytest.raises(DivergedError, match="step 7: kl of the .* is inf: the encoder's logvar is so large"):
        steps.check_finite(terms, 7)


def test_vae_has_no_phase_d():
    model, config = tiny(), TrainConfig(mode="vae")
    images = steps.forward(model, images_like(model), config)
    with pytest.raises(ConfigError, match="a discriminator is trained in modes 'gan' and 'vae-gan' only"):
        steps.discriminator_phase(model, images, config)


def test_gradients_lie_like_their_weights():
    """The fused Adam reads both in memory order."""
    model, config = tiny(channels=3, discriminator_norm="spectral"), TrainConfig(feature_weight=1.0)
    steps.train_step(model, make_optimizers(model, config), images_like(model), config, step=0)
    assert all(parameter.grad.stride() == parameter.stride() for parameter in model.parameters())


def test_modes_run_without_the_network_they_do_not_need():
    for mode in ("gan", "vae"):
        config = TrainConfig(mode=mode)
        model = VAEGAN(VAEGANConfig(**TINY).for_mode(mode))
        steps.train_step(model, make_optimizers(model, config), images_like(model), config, step=0)


# ------------------------------------------------------------------------------------------- the loops of the docs
def printed_functions():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    namespace = {}
    for block in blocks:
        exec(block, namespace)
    return blocks, namespace


def test_own_loop_as_printed():
    blocks, namespace = printed_functions()
    assert len([line for line in blocks[0].splitlines() if line.strip()]) <= 15
    model, config = tiny(generator_norm="batch", dtype=torch.float32), TrainConfig()
    other, optimizers = copy.deepcopy(model), None
    batches = [(images_like(model, seed=seed), None) for seed in range(3)]
    torch.manual_seed(1)
    average = namespace["train"](model, config, batches)
    torch.manual_seed(1)
    optimizers = make_optimizers(other, config)
    for step, (x, _) in enumerate(batches):
        steps.train_step(other, optimizers, x, config, step=step)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert average.sample(2, seed=0).shape == (2, 1, 7, 6)


def test_own_phase_as_printed():
    _, namespace = printed_functions()
    model, config = tiny(dtype=torch.float32), TrainConfig(mode="gan")
    before = [parameter.clone() for parameter in model.generator.parameters()]
    batches = [(images_like(model, seed=seed), None) for seed in range(2)]
    namespace["train_r3gan"](model, make_optimizers(model, config), batches)
    assert not any(torch.equal(a, b) for a, b in zip(before, model.generator.parameters(), strict=True))
