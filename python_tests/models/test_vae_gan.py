"""The model as a whole: posterior, sampling, interpolation, saving and loading."""

import json
import math
import os

import pytest
import torch

from sdgan_ext import _files
from sdgan_ext._errors import CheckpointError, DivergedError
from sdgan_ext.models import VAEGAN, Posterior, VAEGANConfig

pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(**changes):
    torch.manual_seed(0)
    settings = dict(image_size=(6, 7), latent_dim=3, encoder_channels=(4,), generator_channels=(5, 4))
    return VAEGAN(VAEGANConfig(**{**settings, "discriminator_channels": (4,), "init": "torch", **changes}))


def images(n=5):
    return torch.rand(n, 1, 6, 7, generator=torch.Generator().manual_seed(1)) * 2 - 1


# --------------------------------------------------------------------------------------------------- posterior
def test_posterior():
    mean, logvar = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    q = Posterior(mean, logvar)
    assert q.mode() is mean
    elementwise = 0.5 * (mean**2 + logvar.exp() - 1 - logvar)
    torch.testing.assert_close(q.kl(), elementwise.sum() / 4)
    torch.testing.assert_close(q.kl("none"), elementwise)
    z, kl = q.sample_with_kl(seed=7)
    torch.testing.assert_close(kl, q.kl())
    assert torch.equal(z, q.sample(seed=7)) and not torch.equal(z, q.sample(seed=8))
    again = [q.sample(generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*again)
    z.sum().backward()
    torch.testing.assert_close(mean.grad, torch.ones(4, 3))
    torch.testing.assert_close(logvar.grad, (0.5 * (z - mean)).detach())


def test_posterior_samples_have_its_moments():
    q = Posterior(torch.full((20_000, 2), 0.5), torch.full((20_000, 2), math.log(4.0)))
    z = q.sample(seed=0)
    assert z.mean().item() == pytest.approx(0.5, abs=0.05)
    assert z.std().item() == pytest.approx(2.0, abs=0.05)


# ------------------------------------------------------------------------------------------------------- using it
def test_samples_follow_the_seed():
    model = tiny(generator_norm="batch")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    a, b = model.sample(4, seed=1), model.sample(4, seed=1)
    assert torch.equal(a, b) and a.shape == (4, 1, 6, 7) and not a.requires_grad
    assert not torch.equal(a, model.sample(4, seed=2))
    assert torch.equal(a, model.sample(4, generator=torch.Generator().manual_seed(1)))
    assert model.sample(0).shape == (0, 1, 6, 7)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training and model.generator.norms[0].training


def test_reconstruct_is_the_mode_in_evaluation():
    model = tiny(encoder_norm="batch", encoder_channels=(4, 5))
    model.generator.eval()
    x = images()
    got = model.reconstruct(x)
    assert model.encoder.training and not model.generator.training
    model.eval()
    assert torch.equal(got, model.decode(model.encode(x).mode()))
    assert torch.equal(got, model(x)) and model(x).requires_grad


def test_interpolation_keeps_the_length():
    model = tiny(latent_dim=8)
    a, b = torch.randn(8), torch.randn(8)
    latents = []
    model.generator.register_forward_pre_hook(lambda module, inputs: latents.append(inputs[0]))
    frames = model.interpolate(a, b, 5)
    assert frames.shape == (5, 1, 6, 7)
    z = latents[0]
    torch.testing.assert_close(z[0], a)
    torch.testing.assert_close(z[-1], b)
    torch.testing.assert_close(z.norm(dim=1), torch.linspace(a.norm(), b.norm(), 5))
    cosines = torch.cosine_similarity(z[:-1], z[1:])
    torch.testing.assert_close(cosines, cosines[:1].expand(4))


@pytest.mark.parametrize("b", [[0.0, 0.0, 0.0], [2.0, 4.0, 6.0], [-1.0, -2.0, -3.0]])
def test_interpolation_where_there_is_no_great_circle(b):
    a = torch.tensor([1.0, 2.0, 3.0])
    frames = tiny().interpolate(a, torch.tensor(b), 3)
    assert frames.isfinite().all()


def test_models_without_encoder_or_discriminator():
    gan, vae = tiny(encoder_channels=None), tiny(discriminator_channels=None)
    assert gan.encoder is None and vae.discriminator is None
    assert gan.sample(2).shape == vae.reconstruct(images(2)).shape
    with pytest.raises(ValueError, match="has no encoder"):
        gan.reconstruct(images())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.sample(-1), "n is -1; it must be an integer of at least 0"),
        (lambda m: m.sample(2.0), "n is 2.0"),
        (lambda m: m.sample(2, seed=1, generator=torch.Generator()), "seed and generator are both given"),
        (lambda m: m.interpolate(torch.randn(3), torch.randn(4), 3), r"b has shape \(4,\); it must be \(3,\)"),
        (lambda m: m.interpolate(torch.randn(3), torch.randn(3), 1), "steps is 1; it must be an integer of at least 2"),
    ],
)
def test_refusals_name_the_argument(call, words):
    with pytest.raises(ValueError, match=words):
        call(tiny())


# ----------------------------------------------------------------------------------------------- saving, loading
@pytest.mark.parametrize(
    "changes",
    [{}, {"discriminator_norm": "spectral", "encoder_norm": "batch"}, {"encoder_channels": None}, {"channels": 3}],
    ids=str,
)
def test_saved_model_comes_back_bit_by_bit(tmp_path, changes):
    model = tiny(**changes)
    if model.encoder is not None:
        model.encode(torch.rand(4, model.config.channels, 6, 7))
    model.save_pretrained(tmp_path / "new" / "folder")
    again = VAEGAN.from_pretrained(tmp_path / "new" / "folder")
    assert again.config == model.config and not again.training
    state = again.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(again.sample(3, seed=0), model.sample(3, seed=0))
    assert sorted(os.listdir(tmp_path / "new" / "folder")) == ["config.json", "model.safetensors"]


def saved(folder, **changes):
    tiny(**changes).save_pretrained(folder)
    return folder


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(name, size):
    return lambda folder: os.truncate(folder / name, size)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json is missing; give a folder that save_pretrained wrote"),
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (truncate("config.json", 20), "config.json is damaged"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"), "config.json is damaged"),
        (truncate("model.safetensors", 0), "model.safetensors is damaged"),
        (truncate("model.safetensors", 5), "model.safetensors is damaged"),
        (truncate("model.safetensors", 500), "model.safetensors is damaged"),
        (truncate("model.safetensors", 4000), "model.safetensors is damaged"),
        (lambda f: (f / "config.json").write_text("[]"), "is not the configuration of a VAEGAN"),
        (lambda f: edit_config(f, model="UNet"), "is not the configuration of a VAEGAN"),
        (lambda f: edit_config(f, format_version=2, novelty=1), "format_version is 2, this sdgan_ext reads up to 1"),
        (lambda f: edit_config(f, latent_dims=3), "no field 'latent_dims', did you mean 'latent_dim'"),
        (lambda f: edit_config(f, latent_dim=0), "latent_dim is 0"),
        (
            lambda f: edit_config(f, latent_dim=4),
            r"another architecture .*: encoder.mean.weight has shape \(3, 48\), the model's \(4, 48\)",
        ),
        (lambda f: edit_config(f, generator_norm="none"), "it has no generator.up_blocks.0.bias"),
        (lambda f: edit_config(f, encoder_channels=None), "it has encoder.down_blocks.convs.0.*, the model has not"),
    ],
)
def test_spoilt_folders_are_refused_in_one_sentence(tmp_path, spoil, words):
    spoil(saved(tmp_path))
    with pytest.raises(CheckpointError, match=words) as refusal:
        VAEGAN.from_pretrained(tmp_path)
    assert "\n" not in str(refusal.value)


def test_no_folder_at_all(tmp_path):
    with pytest.raises(CheckpointError, match="config.json is missing"):
        VAEGAN.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, bad):
    saved(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model = tiny()
    with torch.no_grad():
        model.generator.dense.weight[0, 0] = bad
    with pytest.raises(DivergedError, match="generator.dense.weight holds NaN or infinity; the model is not saved"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_full_disk_leaves_the_old_model(tmp_path, monkeypatch):
    saved(tmp_path)
    old = VAEGAN.from_pretrained(tmp_path).sample(2, seed=0)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_files.os, "fsync", full)
    with pytest.raises(CheckpointError, match="cannot write .*model.safetensors: No space left on device"):
        tiny(init="dcgan").save_pretrained(tmp_path)
    monkeypatch.undo()
    assert torch.equal(VAEGAN.from_pretrained(tmp_path).sample(2, seed=0), old)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        tiny().save_pretrained(tmp_path / "file")
