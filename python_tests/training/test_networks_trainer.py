"""A user's own networks under the Trainer: the same step as a VAEGAN's, exact resume, every setting, graphs."""

import json
import re
from pathlib import Path

import pytest
import torch
from graph_on_host import HostGraphs
from own import Discriminator, Encoder, Generator, make_networks
from test_steps import TINY, images_like, noise, tiny
from tiny import make_config, make_dataset, make_model

from sdgan_ext._errors import CheckpointError, ConfigError
from sdgan_ext.evaluation import elbo, iwae
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.ops import reference
from sdgan_ext.training import steps
from sdgan_ext.training.config import MODES, TrainConfig
from sdgan_ext.training.ema import make_ema
from sdgan_ext.training.graph import WARM_UP, GraphedStep
from sdgan_ext.training.networks import Networks
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.runs import load_model
from sdgan_ext.training.state import list_checkpoints, load_checkpoint
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

DATA = make_dataset(classes=3)
#: Changes of the networks and of the training.
SETTINGS = {
    "plain": ({}, {}),
    "map, patches": (dict(latent="map", logits="patches"), {}),
    "map, logits [N], parts": (dict(latent="map", logits="vector"), dict(accumulate=2)),
    "classes": (dict(classes=3), {}),
    "penalties, two steps of D": ({}, dict(r1_gamma=0.5, r2_gamma=0.5, r1_every=2, n_critic=2)),
    "wasserstein": (dict(logits="vector"), dict(objective="wasserstein", gp_weight=10.0)),
    "features, adaptive weight": (
        dict(features=True, last_weight="last.weight"), dict(feature_weight=0.5, adaptive_weight=0.5),
    ),
    "DiffAugment, weights, clipping": (
        {}, dict(diffaugment=("color", "translation", "cutout"), weight_l2=1e-3, clip_generator=1.0, free_bits=0.1),
    ),
    "bfloat16": ({}, dict(precision="bfloat16")),
    "relativistic, later": (dict(logits="patches"), dict(objective="relativistic", disc_start=3, disc_warmup=1)),
    "no images of the prior": ({}, dict(prior_images=False)),
}  # fmt: skip


def start(out, mode="vae-gan", setting="plain", **changes):
    networks, train = SETTINGS[setting]
    config = make_config(**{"mode": mode, **train, **changes})
    return Trainer(make_networks(mode, **networks), config, out=out, progress=False)


def end(run):
    state = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    return {key: state[key] for key in ("step", "model", "ema", "optimizers", "generator", "torch_generator")}


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ the step
@pytest.mark.parametrize("mode", MODES)
def test_the_networks_of_a_vaegan_take_the_steps_of_the_vaegan(mode):
    settings = dict(r1_gamma=0.5, r1_every=2, n_critic=2, diffaugment=("translation",), clip_generator=1.0)
    settings |= dict(feature_weight=0.5, adaptive_weight=0.5, accumulate=2) if mode == "vae-gan" else {}
    config, states = TrainConfig(mode=mode, batch_size=6, **settings), []
    for own in (False, True):
        model = VAEGAN(VAEGANConfig(**TINY | {"generator_norm": "batch", "channels": 3}).for_mode(mode))
        model.load_state_dict(states[0]["start"] if own else model.state_dict())
        first = {name: value.clone() for name, value in model.state_dict().items()}
        x = images_like(model)
        if own:
            parts = {name: getattr(model, name) for name in ("encoder", "generator", "discriminator")}
            model = Networks(**parts, image_shape=(3, 7, 6))
            assert model.traits.memory_format == torch.channels_last and model.config.latent_shape == (3,)
        optimizers, generator = make_optimizers(model, config), noise()
        losses = [steps.train_step(model, optimizers, x, config, step=step, generator=generator) for step in range(4)]
        states.append({"start": first, "losses": losses, "end": model.state_dict()})
    assert_same(states[0]["losses"], states[1]["losses"])
    assert_same(states[0]["end"], states[1]["end"])


def test_gradients_with_a_latent_map_and_a_logit_an_image_are_those_of_the_formula():
    torch.manual_seed(0)
    networks = {
        "encoder": Encoder("map"),
        "generator": Generator("map", norm=False),
        "discriminator": Discriminator("vector"),
    }
    networks["encoder"].dropout.p = 0.0
    model = Networks(**networks, image_shape=(1, 8, 8)).double()
    config = TrainConfig(kl_weight=0.3, gamma=0.4, pixel_weight=0.7)
    x = images_like(VAEGAN(VAEGANConfig(**TINY | {"image_size": 8})).double())
    images = steps.forward(model, x, config, generator=noise())
    assert images.z.shape == images.noise.latents.shape == (6, 2, 2, 2)
    terms = steps.discriminator_phase(model, images, config)
    d, made = model.discriminator, (images.reconstructed, images.generated)
    expected = sum(reference.discriminator_loss(d(x), d(image.detach())) for image in made) / 2
    torch.testing.assert_close(terms["discriminator/total"], expected.detach())
    assert_gradients(d, expected)
    mean, logvar = model.encoder(x)
    eps = steps.noise_of_rows(images.noise, slice(0, 6), 6, (2, 2, 2)).eps.double()
    z = mean + (logvar / 2).exp() * eps
    pixels = 0.7 * 0.5 * (model.generator(z) - x).square().sum() / 6
    nats = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / 6
    adversarial = [d(model.generator(latents)) for latents in (z.detach(), images.noise.latents.double())]
    of_generator = 0.4 * 0.7 * 0.5 * (model.generator(z.detach()) - x).square().sum() / 6
    of_generator = of_generator + sum(reference.generator_loss(logits) for logits in adversarial)
    steps.encoder_generator_phase(model, images, config)
    assert_gradients(model.encoder, pixels + 0.3 * nats)
    assert_gradients(model.generator, of_generator)


def assert_gradients(network, loss):
    wanted = torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    for (name, parameter), want in zip(network.named_parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, want, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("setting", ["plain", "map, patches", "map, logits [N], parts", "classes"])
def test_parts_of_a_batch_are_the_whole(setting):
    gradients = []
    for parts in (1, 2):
        model = make_networks(norm=False, **SETTINGS[setting][0])
        model.encoder.norm, model.encoder.dropout.p = torch.nn.Identity(), 0.0
        config = make_config(accumulate=parts, n_critic=2)
        x, labels = torch.linspace(-1, 1, 256).view(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
        given = {"labels": labels if model.config.classes else None, "generator": noise()}
        steps.train_step(model, make_optimizers(model, config), x, config, step=0, **given)
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("setting", ["plain", "map, patches", "penalties, two steps of D", "features, adaptive weight"])
def test_replayed_steps_are_the_eager_ones(setting):
    networks, train = SETTINGS[setting]
    config, ends = TrainConfig(batch_size=4, ema_images=40, **train), []
    for graphed in (False, True):
        model = make_networks(**networks)
        model.encoder.dropout.p = 0.0  # the stand-in cannot replay a draw
        optimizers, ema, generator = make_optimizers(model, config), make_ema(model, config), noise()
        graphs = HostGraphs(host=(ema.n_averaged,))
        take = GraphedStep(model, optimizers, ema, config, graphs)
        for step in range(2 * WARM_UP + 3):
            x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(step)) * 2 - 1
            if graphed:
                losses = take(x, step=step, generator=generator)
            else:
                losses = steps.train_step(model, optimizers, x, config, step=step, generator=generator)
                ema.update_parameters(model)
        assert bool(graphs.replays) == graphed
        ends.append((losses, model.state_dict(), ema.state_dict()))
    assert_same(*ends)


# ------------------------------------------------------------------------------------------------ the trainer
@pytest.mark.parametrize("setting", SETTINGS)
def test_2n_steps_are_n_steps_resumed_for_n_more_bit_for_bit(tmp_path, setting):
    torch.manual_seed(3)  # dropout draws from it
    whole = start(tmp_path / "whole", setting=setting, steps=8).fit(DATA)
    torch.manual_seed(3)
    half = start(tmp_path / "half", setting=setting, steps=4, log_every=1, sample_every=1).fit(DATA)
    other = make_networks(seed=9, **SETTINGS[setting][0])
    torch.manual_seed(99)
    run = Trainer.resume(half.folder, model=other, steps=8, progress=False).fit(DATA)
    assert run.folder == half.folder and run.step == 8
    assert_same(end(run), end(whole))
    assert (run.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()


def test_the_documents_function_as_printed(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "train_own" in block]
    namespace = {}
    exec(block, namespace)
    parts = make_networks()
    run = namespace["train_own"](parts.encoder, parts.generator, parts.discriminator, DATA, tmp_path)
    assert run.step == 6 and (run.model / "model.safetensors").exists()


@pytest.mark.parametrize("mode", MODES)
def test_a_run_of_each_mode(tmp_path, mode):
    judged = {} if mode == "gan" else dict(evaluate_every=3, validation_images=4)
    run = start(tmp_path, mode, sample_every=3, **judged).fit(DATA)
    names = {path.name.split("-")[0] for path in run.samples.iterdir()}
    assert names == {"interpolation.gif", "samples"} | ({"reconstructions"} if mode != "gan" else set())
    record = json.loads(run.log_file.read_text().splitlines()[-1])
    assert record["health/diversity"] > 0 and ("health/active_units" in record) == (mode != "gan")
    assert (run.best.get("metric") == "neg_elbo") == (mode != "gan")
    model = make_networks(mode, seed=5).load_weights(run.model)
    ema = {name.removeprefix("module."): value for name, value in end(run)["ema"].items() if name != "n_averaged"}
    assert_same(dict(model.state_dict()), ema)


def test_what_networks_draw_in_evaluation_leaves_the_training_alone(tmp_path):
    class Noisy(Generator):
        def forward(self, z, labels=None):
            return super().forward(z + 0.1 * torch.randn_like(z), labels)

    runs = []
    for every in (1, 100):
        torch.manual_seed(0)
        model = Networks(encoder=Encoder(), generator=Noisy(), discriminator=Discriminator(), image_shape=(1, 8, 8))
        torch.manual_seed(1)
        config = make_config(sample_every=every, log_every=every)
        runs.append(end(Trainer(model, config, out=tmp_path / str(every), progress=False).fit(DATA)))
    assert_same(*runs)


def test_resume_needs_the_networks_of_the_run(tmp_path):
    run = start(tmp_path).fit(DATA)
    refused = [
        (dict(), "config.*is of your own networks, which only your program can make: Trainer.resume.run, model=...."),
        (dict(model=make_networks(latent="map")), r"latent_shape is \(4,\) there and \(2, 2, 2\) in these"),
        (dict(model=make_networks("vae")), "of another architecture than the model: it has discriminator"),
        (dict(model=make_networks(norm=False)), "of another architecture than the model: it has generator.norm"),
        (dict(model=make_model()), "is of your own networks, but model is a VAEGAN"),
    ]
    for options, words in refused:
        with pytest.raises(CheckpointError, match=words.replace("config.*", "")) as caught:
            Trainer.resume(run.folder, **options)
        assert "\n" not in str(caught.value)
    for path in (run.folder,):
        with pytest.raises(CheckpointError, match="is of your own networks"):
            load_model(path)
    vaegan = Trainer(make_model(), make_config(), out=tmp_path, progress=False).fit(DATA)
    with pytest.raises(CheckpointError, match="is of a VAEGAN, but model is your own networks"):
        Trainer.resume(vaegan.folder, model=make_networks())
    with pytest.raises(CheckpointError, match="is of another model: latent_dim is 4 there and 5 in yours"):
        Trainer.resume(vaegan.folder, model=make_model(latent_dim=5))
    assert Trainer.resume(vaegan.folder, model=make_model(seed=3), steps=8, progress=False).fit(DATA).step == 8


def test_a_users_batch_norm_is_not_synchronised_and_says_so():
    from sdgan_ext.training.compatible import check_synchronisable

    with pytest.raises(ConfigError, match="sync_batch_norm is true, but encoder.norm is torch's BatchNorm2d"):
        check_synchronisable(make_networks())
    check_synchronisable(make_model())


def test_likelihood_bounds_of_a_map_are_those_of_its_vector():
    model = make_networks("vae", latent="map").eval()
    vector = make_networks("vae", latent="map").eval()
    flat = torch.nn.Module()
    flat.encode = lambda x: steps_posterior(vector.encode(x))
    flat.decode = lambda z: vector.decode(z.unflatten(1, (2, 2, 2)))
    x = DATA.images[:6].float() / 127.5 - 1
    for bound, options in ((elbo, {}), (iwae, {"k": 5})):
        assert bound(model, x, **options) == pytest.approx(bound(flat, x, **options))


def steps_posterior(posterior):
    return type(posterior)(posterior.mean.flatten(1), posterior.logvar.flatten(1))


def test_the_config_of_a_tiny_model_is_a_vaegans():
    assert tiny().traits.latent_shape == (3,) and tiny().traits.image_shape == (1, 7, 6)
