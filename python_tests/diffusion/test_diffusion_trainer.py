"""The training: its step, its run folder, what it says; mistakes that would be silent are caught."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_latents import CAPTIONS, make_autoencoder, make_images, make_model, make_train, make_trainer, trained

import sdgan_ext as sd
from sdgan_ext._errors import CheckpointError, ConfigError, DataError
from sdgan_ext.diffusion import DiffusionLoss
from sdgan_ext.pictures import columns_of, image_grid
from sdgan_ext.report.facts import read_facts
from sdgan_ext.training import diffusion_trainer
from sdgan_ext.training.diffusion_health import DiffusionHealth, diffusion_complaints
from sdgan_ext.training.health import FIRST_STEPS, PATIENCE
from sdgan_ext.training.latents import encode_all
from sdgan_ext.training.runs import load_model
from sdgan_ext.training.trainer import Trainer

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def seen(monkeypatch):
    """What each call of the loss was given: x_0, captions' tokens, draws, the null tokens."""
    calls = []
    plain = diffusion_trainer.diffusion_loss

    def noted(network, path, x_0, condition, **options):
        calls.append({"x_0": x_0, "ids": condition, "draws": options["draws"], "null": options["null"]})
        return plain(network, path, x_0, condition, **options)

    monkeypatch.setattr(diffusion_trainer, "diffusion_loss", noted)
    return calls


def records(run):
    return [json.loads(line) for line in run.log_file.read_text().splitlines()]


# ---------------------------------------------------------------------------------------------------------- the step
@pytest.mark.parametrize("changes", [{}, {"accumulate": 4}], ids=["whole", "in parts"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_the_step_is_the_one_that_is_written_out(changes, gamma):
    """Two steps of AdamW, all that is drawn from one generator in this order: z, times, dropped captions, noise."""
    data, autoencoder = make_images(), make_autoencoder(scaling_factor=0.5)
    settings = {"steps": 2, "condition_dropout": 0.5, "min_snr_gamma": gamma, "time_mean": 0.3, "seed": 4}
    trainer = make_trainer(None, data, autoencoder, **settings, **changes)
    model = make_model(autoencoder, data, make_train(**settings))
    model.load_state_dict(trainer.model.state_dict())
    latents = encode_all(model, data)
    batches = sd.data.batches(data, 8, seed=4)
    wanted = torch.Generator().manual_seed(4)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.999), weight_decay=0.01)
    images = {image.numpy().tobytes(): k for k, image in enumerate(data.images)}
    for _ in range(2):
        x, labels = next(batches)
        at = [images[sd.data.to_uint8(image).numpy().tobytes()] for image in x]
        z = latents.mean[at] + (0.5 * latents.logvar[at]).exp() * torch.randn(8, 2, 8, 8, generator=wanted)
        draws = sd.diffusion.draw((8, 2, 8, 8), mean=0.3, condition_dropout=0.5, generator=wanted)
        ids = model.tokenizer.encode([CAPTIONS[label] for label in labels])
        ids[draws.dropped] = model.tokenizer.encode([""])
        x_0, t = 0.5 * z, draws.t.view(-1, 1, 1, 1)
        hidden = model.text_encoder(ids).last_hidden_state
        v = model.unet((1 - t) * x_0 + t * draws.eps, 1000 * draws.t, hidden).sample
        weight = 1.0 if gamma is None else torch.minimum((1 - draws.t) ** 2, gamma * draws.t**2).view(-1, 1, 1, 1)
        loss = (weight * (v - (draws.eps - x_0)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    trainer.fit(data)
    for name, weight in trainer.model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=0, atol=2e-4, msg=name)


def test_one_caption_alone_is_learnt():
    """A training that works: the loss falls, and what is sampled is near to the images."""
    images = torch.full((8, 1, 16, 16), 255, dtype=torch.uint8)
    data = sd.data.ImageDataset(images, torch.zeros(8, dtype=torch.int64), captions=["a dot"], name="dots")
    mean = encode_all(make_model(make_autoencoder(), data), data).mean[:1]
    factor = 1 / mean.std().item()
    trainer = make_trainer(None, data, make_autoencoder(logvar=-30.0, scaling_factor=factor), steps=200, lr=1e-2)
    trainer.fit(data)
    latents = []
    trainer.model.decode = lambda x: latents.append(x) or x
    trainer.model.sample(captions="a dot", seeds=range(4), steps=20)
    assert (latents[0] - factor * mean).square().mean() < 0.2  # of noise it would be 2


# ------------------------------------------------------------------------------------- mistakes that would be silent
@pytest.mark.parametrize("factor", [0.25, 2.0])
def test_latents_are_normalised(seen, factor):
    autoencoder = make_autoencoder(scaling_factor=factor, logvar=-30.0)
    data = make_images()
    trained(None, data, autoencoder=autoencoder, steps=1, batch_size=24)
    model = make_model(autoencoder, data)
    every = encode_all(model, data).mean * factor
    (x_0,) = (call["x_0"] for call in seen)
    torch.testing.assert_close(x_0.sort(0).values, every.sort(0).values, rtol=1e-4, atol=1e-4)


def test_the_posterior_is_drawn_anew_in_each_step(seen):
    """A cache of means alone would give the same x_0 every time, one of samples too."""
    data = make_images(8)
    autoencoder = make_autoencoder(logvar=math.log(0.25), scaling_factor=0.5)
    trained(None, data, autoencoder=autoencoder, steps=200, batch_size=8, condition_dropout=0.0)
    mean = encode_all(make_model(autoencoder, data), data).mean * 0.5
    x_0 = torch.stack([call["x_0"] for call in seen])  # of another order in each step
    nearest = torch.stack([((x - mean).flatten(1).norm(dim=1)).min() for x in x_0.flatten(0, 1)])
    expected = 0.25 * math.sqrt(2 * 8 * 8)  # 0.5 * exp(logvar / 2), over all numbers of a latent
    assert nearest.mean().item() == pytest.approx(expected, rel=0.05)
    assert len(x_0.flatten(0, 1).unique(dim=0)) == 1600


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_empty_caption_is_trained(probability):
    """What the text encoder is given, the tokens of "" among it."""
    data, given = make_images(), []
    trainer = make_trainer(None, data, steps=100, condition_dropout=probability)
    trainer.model.text_encoder.register_forward_pre_hook(lambda module, ids: given.append(ids[0]))
    trainer.fit(data)
    dropped = (torch.cat(given) == trainer.model.tokenizer.encode([""])[0]).all(1).float().mean().item()
    assert dropped == pytest.approx(probability, abs=0.05)


def test_pictures_and_the_saved_model_are_of_the_averaged_weights(tmp_path):
    trainer = make_trainer(tmp_path, lr=0.05, ema_images=200, preview_guidance=3.0)
    run = trainer.fit(make_images())
    saved = load_file(run.model / "model.safetensors")
    average, last = trainer.ema.module.state_dict(), trainer.model.state_dict()
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert any(not torch.equal(saved[name], last[name]) for name in saved)
    captions = [CAPTIONS[k % 3] for k in range(64)]
    for name, guidance in (("samples", 1.0), ("guided", 3.0)):
        with Image.open(run.samples / f"{name}-00000006.png") as picture:
            shown = torch.from_numpy(np.array(picture))[None]
        made, raw = (
            image_grid(model.sample(captions=captions, seeds=range(64), guidance=guidance), columns_of(64))
            for model in (trainer.ema.module, trainer.model)
        )
        assert torch.equal(shown, made) and not torch.equal(shown, raw)


def test_mirrored_images_are_entries_of_their_own(seen):
    data = make_images(8)
    autoencoder = make_autoencoder(logvar=-30.0)
    trained(None, data, autoencoder=autoencoder, steps=2, augment=("flip",))
    images, labels = data.batch(torch.arange(8))
    model = make_model(autoencoder, data)
    every = torch.cat([model.encode(x)[0] for x in (images, images.flip(3))])
    x_0 = torch.cat([call["x_0"] for call in seen])
    torch.testing.assert_close(x_0.sort(0).values, every.sort(0).values, rtol=1e-4, atol=1e-4)


# -------------------------------------------------------------------------------------------------------- what it says
def test_health_is_by_time():
    model = make_model()
    said = []
    health = DiffusionHealth(model, said.append)
    t = torch.tensor([0.1, 0.2, 0.6, 1.0])
    loss = DiffusionLoss(torch.tensor(0.0), torch.tensor([1.0, 3.0, 5.0, 7.0]), t)
    x_0 = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    health.observe(loss, x_0)
    health.observe(loss, x_0 + 2)
    numbers = health.examine(10)
    values = [numbers[f"health/loss_t{name}"] for name in ("0.00_0.25", "0.25_0.50", "0.50_0.75", "0.75_1.00")]
    assert values[0] == 2 and math.isnan(values[1]) and values[2:] == [5, 7]
    assert numbers["health/latent_std"] == pytest.approx(np.std([1, 3, 3, 5]))
    assert not said and "health/latent_std" not in health.examine(20)  # since the last call


@pytest.mark.parametrize(("factor", "complains"), [(0.2, True), (1.0, False), (3.0, True)])
def test_latents_of_another_scale_are_complained_of(factor, complains):
    model, said = make_model(), []
    health = DiffusionHealth(model, said.append)
    loss = DiffusionLoss(torch.tensor(0.0), torch.ones(64), torch.rand(64))
    for interval in range(PATIENCE):
        health.observe(loss, factor * torch.randn(64, 2, 8, 8))
        health.examine(FIRST_STEPS + interval)
    assert bool(said) == complains and (not said or "standard deviation of" in said[0])
    assert not diffusion_complaints({"latent_std": 0.81}) and not diffusion_complaints({"latent_std": 1.24})


def test_the_log(tmp_path):
    run = trained(tmp_path)
    lines = records(run)
    assert [line["step"] for line in lines] == [2, 4, 6]
    names = {"denoiser/loss", "health/latent_std", "health/gradient_unet", "health/gradient_text_encoder"}
    assert names <= lines[0].keys() and all(math.isfinite(line["denoiser/loss"]) for line in lines)


def test_the_report_says_what_lasted(tmp_path):
    run = trained(tmp_path)
    with open(run.log_file, "a") as file:
        for step in (200, 250, 300):
            file.write(json.dumps({"step": step, "health/latent_std": 3.0}) + "\n")
    (said,) = read_facts(run.folder).health
    assert "In 3 of 3 intervals" in said and "standard deviation of 3.00" in said


# ------------------------------------------------------------------------------------------------------ the run folder
def test_the_run_folder(tmp_path):
    run = trained(tmp_path)
    assert run.folder.name == "00000-ldm-dots"
    inside = {path.name for path in run.folder.iterdir()}
    assert {"autoencoder", "tokenizer", "latents.safetensors", "model", "pipeline", "checkpoints", "samples"} <= inside
    of_run, of_folder = load_model(run.folder), load_model(run.model)
    assert isinstance(of_run, sd.LatentDiffusion) and of_run.config == of_folder.config
    for name, weight in of_run.state_dict().items():
        assert torch.equal(weight, of_folder.state_dict()[name])


def test_a_run_goes_on_only_as_what_it_is(tmp_path):
    run = trained(tmp_path)
    with pytest.raises(CheckpointError, match="is of a latent diffusion model, which DiffusionTrainer.resume goes on"):
        Trainer.resume(run.folder)
    with pytest.raises(ConfigError, match="steps is 2, but 6 have been taken"):
        sd.DiffusionTrainer.resume(run.folder, steps=2)
    other = make_model(text_width=16)
    with pytest.raises(CheckpointError, match="is of another model: text_width is 8 there and 16 in yours"):
        sd.DiffusionTrainer.resume(run.folder, model=other)
    (run.folder / "tokenizer").rename(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="lacks the folder tokenizer"):
        sd.DiffusionTrainer.resume(run.folder)


def test_other_captions_under_a_resumed_run(tmp_path):
    run = trained(tmp_path)
    trainer = sd.DiffusionTrainer.resume(run.folder, steps=8, progress=False)
    with pytest.raises(DataError, match="are not those of the 3 classes that the model was made for, as 'a zero'"):
        trainer.fit(make_images(captions=["a null", "a one", "a two"]))


def test_a_run_on_a_vaegan_has_no_pipeline(tmp_path, capsys):
    torch.manual_seed(0)
    config = sd.VAEGANConfig(
        image_size=16, latent_dim=128, latent_map=True, encoder_channels=(4,), generator_channels=(4,), init="torch"
    )
    run = trained(tmp_path, autoencoder=sd.VAEGAN(config.for_mode("vae")), progress=True)
    assert not (run.folder / "pipeline").exists()
    assert "no pipeline for diffusers is written: its autoencoder is a VAEGAN" in capsys.readouterr().out
    assert load_model(run.folder).config.scaling_factor != 1.0
    again = sd.DiffusionTrainer.resume(run.folder, steps=7, progress=False).fit(make_images())
    assert again.step == 7


# --------------------------------------------------------------------------------------------------------- evaluation
def test_evaluation_keeps_the_best(tmp_path, monkeypatch):
    """Judged by samples of the held-out captions, without the pixels that were added around the images."""
    values = iter([3.0, 1.0, 2.0])
    asked = []

    def judged(model, dataset, **options):
        asked.append(options)
        return {"lenet-fd": next(values)}

    monkeypatch.setattr(diffusion_trainer, "evaluate", judged)
    for module in ("selection", "diffusion_trainer"):  # images of 12x12 are too small for the feature net
        monkeypatch.setattr(f"sdgan_ext.training.{module}.refusals", lambda *a, **o: {})
    data = make_images(24, side=12)
    padded = sd.data.ImageDataset(data.images, data.labels, num_classes=3, captions=CAPTIONS, name="dots").padded(2)
    config = make_train(evaluate_every=2, pad=2)
    model = make_model(dataset=padded, train=config)
    run = sd.DiffusionTrainer(model, config, out=tmp_path, progress=False).fit(padded, held_out=padded)
    assert run.best["step"] == 4 and run.best["value"] == 1.0
    assert asked[0]["metrics"] == ["fd", "asked"] and asked[0]["pad"] == 2
    assert load_model(run.folder / "best").config == model.config


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"augment": ("flip", "shift")}, "augment has 'shift', but images are encoded once"),
        ({"crop": "random"}, "crop is 'random', but images are encoded once"),
        ({"evaluate_metric": "elbo"}, "evaluate_metric is 'elbo'; of a diffusion model it must be 'fd'"),
        ({"condition_dropout": 1.5}, "condition_dropout is 1.5; it must be"),
        ({"time_distribution": "cosine"}, "time_distribution is 'cosine'; allowed are 'uniform', 'logit_normal'"),
        ({"min_snr_gamma": 0.0}, "min_snr_gamma is 0.0"),
        ({"batch_size": 8, "accumulate": 3}, "accumulate is 3; it must divide batch_size, 8"),
        ({"patience": 2}, "patience is 2, but evaluate_every is 0"),
    ],
)
def test_configurations_that_cannot_be(fields, words):
    with pytest.raises(ConfigError, match=words):
        make_train(**fields)


def test_another_null_condition_than_the_model_has():
    model = make_model(train=make_train(condition_dropout=0.0))
    with pytest.raises(ConfigError, match="condition_dropout is 0.1, but the model was made with no empty caption"):
        sd.DiffusionTrainer(model, make_train(), out=None)


def test_an_image_without_a_caption():
    class Some(torch.utils.data.Dataset):
        name, captions, num_classes = "some", CAPTIONS, 3

        def __len__(self):
            return 9

        def __getitem__(self, index):
            return torch.zeros(1, 16, 16), -1 if index == 4 else index % 3

    with pytest.raises(DataError, match="image 4 of some has no caption and no class"):
        trained(None, Some())
