"""Dynamic binarisation: what a step sees, that it is drawn anew, and that every way to train draws the same."""

import pytest
import torch
from tiny import make_config, make_dataset, make_model

from sdgan_ext import evaluation, losses
from sdgan_ext._errors import ConfigError
from sdgan_ext.training import step as step_module
from sdgan_ext.training import steps
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


def grey(n=6):
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def drawn(model, x, config, seed):
    return steps.forward(model, x, config, generator=torch.Generator().manual_seed(seed)).real


@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
def test_pixels_are_drawn_with_their_grey_value_as_probability(mode):
    model, config, x = make_model(mode), make_config(mode=mode, binarise=True), grey()
    x[0, 0, 0, :2] = torch.tensor([-1.0, 1.0])
    draws = torch.stack([drawn(model, x, config, seed) for seed in range(1000)])
    assert set(draws.unique().tolist()) == {-1.0, 1.0} and draws.dtype == x.dtype
    p = (x + 1) / 2
    deviations = (((draws + 1) / 2).mean(0) - p) / (p * (1 - p) / 1000).sqrt().clamp_min(1e-9)
    assert deviations.abs().max() < 5 and 0.8 < deviations[p.clamp(0, 1).mul(1 - p) > 0].std() < 1.2
    assert (draws[:, 0, 0, 0, 0] == -1).all() and (draws[:, 0, 0, 0, 1] == 1).all()
    assert torch.equal(drawn(model, x, make_config(mode=mode), 0), x)


def test_both_networks_learn_from_the_drawn_pixels():
    model, config = make_model("vae"), make_config(mode="vae", binarise=True, pixel_loss="bernoulli")
    images = steps.forward(model, grey(), config, generator=torch.Generator().manual_seed(1))
    terms = steps.encoder_generator_phase(model, images, config)
    torch.testing.assert_close(images.kl, model.encode(images.real).kl())
    wanted = losses.pixel_loss(images.reconstructed.detach(), images.real, "bernoulli")
    torch.testing.assert_close(terms["encoder_generator/pixel"], wanted)


def test_every_step_draws_anew(monkeypatch):
    seen, forward = [], steps.forward
    monkeypatch.setattr(step_module, "forward", lambda *a, **k: (made := forward(*a, **k), seen.append(made.real))[0])
    model, config = make_model(), make_config(binarise=True, n_critic=2)
    optimizers, generator = make_optimizers(model, config), torch.Generator().manual_seed(0)
    for step in range(2):
        steps.train_step(model, optimizers, grey(4), config, step=step, generator=generator)
    assert len({tuple(real.flatten().tolist()) for real in seen}) == len(seen) == 4


def test_the_rows_of_two_processes_are_those_of_one():
    model, config, x = make_model("vae"), make_config(mode="vae", binarise=True), grey(8)
    noise = steps.draw_noise(model, 8, config, generator=torch.Generator().manual_seed(0))
    whole = steps.forward(model, x, config, noise=noise).real
    halves = [slice(0, 4), slice(4, 8)]
    parts = [steps.forward(model, x[h], config, noise=steps.noise_of_rows(noise, h, 8, 4)).real for h in halves]
    assert torch.equal(torch.cat(parts), whole) and not torch.equal(*parts)


@pytest.mark.parametrize("mode", ["vae", "vae-gan"])
def test_resumed_it_ends_with_the_same_bits(tmp_path, mode):
    def start(out, **changes):
        return Trainer(make_model(mode), make_config(mode=mode, binarise=True, **changes), out=out, progress=False)

    whole = start(tmp_path / "whole", steps=8).fit(make_dataset())
    half = start(tmp_path / "half", steps=4).fit(make_dataset())
    run = Trainer.resume(half.folder, steps=8, progress=False).fit(make_dataset())
    files = [(r.model / "model.safetensors").read_bytes() for r in (run, whole)]
    assert files[0] == files[1]


def test_held_out_images_of_a_conditional_model_are_binarised_and_conditioned_on():
    config = make_config(mode="vae", binarise=True, steps=1, evaluate_every=1, evaluate_images=16)
    trainer = Trainer(make_model("vae", classes=3), config, out=None, progress=False)
    run = trainer.fit(make_dataset(classes=3), held_out=make_dataset(classes=3))
    assert run.best["metric"] == "binarised_neg_elbo"


def test_held_out_images_are_binarised_too():
    config = make_config(mode="vae", binarise=True, evaluate_every=6, evaluate_images=16)
    trainer = Trainer(make_model("vae"), config, out=None, progress=False)
    run = trainer.fit(make_dataset(), held_out=make_dataset())
    images = make_dataset().images
    bounds = [evaluation.elbo(trainer.ema.module, x)["neg_elbo"] for x in (evaluation.binarise(images), images)]
    assert run.best["metric"] == "binarised_neg_elbo"
    # The images in another order: other draws of the pixels.
    assert abs(run.best["value"] - bounds[0]) < abs(run.best["value"] - bounds[1])


def test_colour_is_refused():
    with pytest.raises(ConfigError, match="binarise must be false: the model's images have 3 channels; .* 1 channel"):
        make_optimizers(make_model("gan", channels=3), make_config(mode="gan", binarise=True))
