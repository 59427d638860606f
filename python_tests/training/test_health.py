"""The numbers beside the losses, against what they mean, and the warnings in words."""

import json
import math

import pytest
import torch
from tiny import make_config, make_dataset, make_model

from sdgan_ext.training import health
from sdgan_ext.training.health import Health, measure
from sdgan_ext.training.trainer import Trainer

IMAGES = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
LATENTS = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
HEALTHY = {"accuracy_real": 0.8, "accuracy_fake": 0.8, "logit_margin": 1.0, "active_units": 3.0, "diversity": 0.9}


def logits_of(model, real, fake):
    """A discriminator that gives the images of ``IMAGES`` and all others these logits."""

    def discriminator(x, labels=None):
        return (real if torch.equal(x, IMAGES) else fake).view(-1, 1)

    model.discriminator.forward = discriminator


def test_accuracies_and_margin():
    model = make_model()
    logits_of(model, torch.tensor([1.0, 2, 3, -2, 1, 1, 1, 1]), torch.tensor([-1.0, -1, 1, 1, -1, -1, -1, -1]))
    numbers = measure(model, make_config(), IMAGES, LATENTS)
    assert numbers["accuracy_real"] == 7 / 8 and numbers["accuracy_fake"] == 6 / 8
    assert numbers["logit_margin"] == pytest.approx(1.0 + 0.5)
    pairs = measure(model, make_config(objective="relativistic"), IMAGES, LATENTS)
    assert pairs["accuracy_real"] == (2 * 8 + 5 * 6) / 64  # 2 and 3 are above all, the 1s above the -1s
    assert pairs["accuracy_fake"] == 1 - 8 / 64  # all are above the -2, and no other


def test_the_latent_space():
    model = make_model("vae")
    with torch.no_grad():
        model.encoder.mean.weight[:2] = 0  # two units that see nothing
        model.encoder.mean.weight[2:] *= 50
    posterior = model.eval().encode(IMAGES)
    numbers = measure(model.train(), make_config(mode="vae"), IMAGES, LATENTS)
    assert numbers["active_units"] == 2
    per_unit = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1 - posterior.logvar).mean(0)
    assert numbers["kl_largest"] == pytest.approx(per_unit.max().item(), rel=1e-5)
    assert numbers["kl_smallest"] == pytest.approx(per_unit.min().item(), rel=1e-4, abs=1e-7)


def test_diversity_is_a_ratio_of_distances():
    model = make_model("gan")
    model.generator.forward = lambda z, labels=None: IMAGES / 2
    assert measure(model, make_config(mode="gan"), IMAGES, LATENTS)["diversity"] == pytest.approx(0.5)
    model.generator.forward = lambda z, labels=None: IMAGES[:1].expand(8, -1, -1, -1)
    assert measure(model, make_config(mode="gan"), IMAGES, LATENTS)["diversity"] == 0


def test_one_image_and_equal_images_tell_nothing_of_variety(tmp_path, recwarn):
    model = make_model()
    one, equal = (measure(model, make_config(), IMAGES[:1].expand(n, -1, -1, -1), LATENTS) for n in (1, 8))
    assert math.isnan(one["diversity"]) and math.isnan(equal["diversity"])
    assert math.isnan(one["active_units"]) and equal["active_units"] == 0
    run = Trainer(model, make_config(batch_size=1), out=tmp_path, progress=False).fit(make_dataset(count=1))

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    record = json.loads(run.log_file.read_text().splitlines()[-1], parse_constant=refuse)
    assert record["health/diversity"] is None and record["health/active_units"] is None
    assert record["health/kl_largest"] > 0
    assert [str(warning.message) for warning in recwarn] == []


def test_measuring_leaves_no_trace():
    model = make_model()
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    measure(model, make_config(), IMAGES, LATENTS)
    assert model.training and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"accuracy_real": 1.0, "accuracy_fake": 1.0, "logit_margin": 20.0}, "the discriminator wins outright"),
        ({"active_units": 0.0}, "the posterior has collapsed: no latent unit depends on the image"),
        ({"diversity": 0.02}, "the samples have collapsed: they differ 2% as much as real images"),
    ],
)
def test_warnings_come_after_three_intervals_once_and_again_after_recovery(monkeypatch, change, words):
    said, now = [], {}
    monkeypatch.setattr(health, "measure", lambda *_: {**HEALTHY, **now})
    watch = Health(make_model(), make_config(), IMAGES, LATENTS, said.append)
    for step in range(200, 203):
        watch.examine(step)
    assert not said
    now = change
    watch.examine(100)  # too early to tell
    for step in range(300, 306):
        watch.examine(step)
    assert len(said) == 1 and said[0].startswith("step 302: ") and words in said[0]
    now = {}
    watch.examine(400)
    now = change
    for step in range(500, 503):
        watch.examine(step)
    assert len(said) == 2


@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
def test_a_run_logs_it(tmp_path, mode):
    run = Trainer(make_model(mode), make_config(mode=mode), out=tmp_path, progress=False).fit(make_dataset())
    record = json.loads(run.log_file.read_text().splitlines()[-1])
    networks = {"gan": ["generator", "discriminator"], "vae": ["encoder", "generator"]}.get(mode, ["encoder"])
    assert all(record[f"health/gradient_{network}"] > 0 for network in networks)
    assert ("health/accuracy_real" in record) == (mode != "vae") and ("health/active_units" in record) == (
        mode != "gan"
    )
    assert record["health/diversity"] > 0
