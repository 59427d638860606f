"""An autoencoder that is larger than the memory likes: checkpointing, parts of a batch, bfloat16, large pictures."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny import make_config, make_model

import sdgan_ext as sd
from sdgan_ext._errors import ConfigError
from sdgan_ext.data import ImageDataset
from sdgan_ext.models import traits
from sdgan_ext.training import previews
from sdgan_ext.training.health import measure
from sdgan_ext.training.networks import Networks
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.steps import train_step
from sdgan_ext.training.trainer import Trainer

pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 16
SMALL = {
    **{"image_size": SIZE, "block_out_channels": (8, 16), "norm_num_groups": 4},
    **{"discriminator_channels": (4, 8), "discriminator_norm": "none"},
}
TRAIN = {
    **{"objective": "hinge", "prior_images": False, "adaptive_weight": 0.1, "kl_weight": 1e-2, "pixel_loss": "l1"},
    **{"batch_size": 8, "lr_encoder": 1e-5, "lr_generator": 1e-5, "lr_discriminator": 1e-5},
    **{"r1_gamma": 1.0, "r1_every": 2},
}
X = torch.rand(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def small(**fields):
    torch.manual_seed(0)
    return sd.autoencoder(sd.AutoencoderConfig(**{**SMALL, **fields}))


def images(count=16):
    numbers = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    return ImageDataset(numbers.byte(), name="noise")


def stepped(fields=None, steps=3, **changes):
    """The losses of the last of some steps, and its gradients."""
    model, config = small(**(fields or {})), make_config(**{**TRAIN, **changes})
    optimizers, generator = make_optimizers(model, config), torch.Generator().manual_seed(1)
    x = X.contiguous(memory_format=torch.channels_last)
    for step in range(steps):
        terms = train_step(model, optimizers, x, config, step=step, generator=generator)
    return terms, {name: weight.grad for name, weight in model.named_parameters()}


def errors(got, want):
    """Relative ones; of what is rounding beside all others, as the gradient of a key's bias, beside all others."""
    want = {name: value for name, value in want.items() if value is not None}
    least = 1e-3 * torch.stack([value.norm() for value in want.values()]).norm()
    return {name: ((got[name] - value).norm() / value.norm().clamp_min(least)).item() for name, value in want.items()}


# ------------------------------------------------------------------------------------------------ checkpointing
SETTINGS = {
    "as it is": ({}, {}),
    "stock's layers": ({"accelerate": False}, {}),
    "no attention, f4": ({"mid_block_add_attention": False, "block_out_channels": (8, 8, 16)}, {}),
    "images of the prior": ({}, {"prior_images": True, "gamma": 0.5}),
    "in parts": ({}, {"accumulate": 4}),
    "bfloat16": ({}, {"precision": "bfloat16"}),
    "a VAE": ({"discriminator_channels": None}, {"mode": "vae", "adaptive_weight": 0.0, "r1_gamma": 0.0}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_checkpointing_changes_no_bit(name):
    fields, changes = SETTINGS[name]
    (terms, grads), (again, of_them) = stepped(fields, **changes), stepped(fields, **changes, checkpointing=True)
    assert again == terms
    for name, grad in grads.items():
        assert grad is None or torch.equal(of_them[name], grad), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_checkpointed_block_keeps_its_input_and_runs_again(checkpointing):
    model = small()
    config = make_config(**{**TRAIN, "checkpointing": checkpointing})
    blocks = {"down": model.vae.encoder.down_blocks[0], "up": model.vae.decoder.up_blocks[-1]}
    runs = dict.fromkeys(blocks, 0)
    for name, block in blocks.items():

        def counted(*arguments, name=name):
            runs[name] += 1

        block.resnets[0].register_forward_pre_hook(counted)
    train_step(model, make_optimizers(model, config), X, config, step=0)
    # Of the decoder there are two backward passes, to its weights and to z.
    assert runs == ({"down": 2, "up": 3} if checkpointing else {"down": 1, "up": 1})
    assert not any("forward" in part.__dict__ for part in model.vae.modules()), "it is as it was"


def test_a_forward_of_ones_own_comes_back():
    model = small()
    block = model.vae.encoder.mid_block
    own = block.forward = lambda *arguments: type(block).forward(block, *arguments)
    with model.checkpointed():
        assert block.forward is not own
    assert block.forward is own


@pytest.mark.parametrize("changes", [{"checkpointing": True}, {"accumulate": 2, "checkpointing": True}], ids=str)
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, changes):
    def run(out, steps, **changes):
        config = make_config(**{**TRAIN, "steps": steps, "batch_size": 4, **changes})
        return Trainer(small(), config, out=out, progress=False).fit(images())

    whole = run(tmp_path / "whole", 5, **{**changes, "checkpointing": False})
    half = run(tmp_path / "half", 3, **changes)
    half = Trainer.resume(half.folder, steps=5, checkpointing=True, progress=False).fit(images())
    whole, half = ((each.model / "diffusion_pytorch_model.safetensors").read_bytes() for each in (whole, half))
    assert whole == half


@pytest.mark.parametrize("kind", ["VAEGAN", "Networks"])
def test_other_networks_are_not_checkpointed(kind):
    model = make_model()
    if kind == "Networks":
        parts = {"encoder": model.encoder, "generator": model.generator, "discriminator": model.discriminator}
        model = Networks(**parts, image_shape=(1, 8, 8), latent_shape=4)
    with pytest.raises(ConfigError, match=f"checkpointing is true, but the model is a {kind}, whose networks are run"):
        Trainer(model, make_config(checkpointing=True), out=None)


# ------------------------------------------------------------------------------------------------ parts of a batch
PARTS = {
    "adaptive weight": {},
    "gamma": {"gamma": 0.5},
    "images of the prior": {"prior_images": True},
    "penalties, bounds": {"weight_l1": 1e-3, "weight_l2": 0.1, "clip_generator": 0.1, "r2_gamma": 0.5},
    "objective": {"objective": "relativistic", "pixel_loss": "mse"},
    "phases D of their own": {"n_critic": 2},
    "before D": {"disc_start": 5, "disc_warmup": 1},
}


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("name", PARTS)
def test_parts_of_a_batch_make_the_same_step(name, parts):
    (terms, grads), (parted, of_them) = stepped(**PARTS[name]), stepped(**PARTS[name], accumulate=parts)
    assert parted.keys() == terms.keys()
    assert {key: value.item() for key, value in parted.items()} == pytest.approx(
        {key: value.item() for key, value in terms.items()}, rel=1e-5, abs=1e-5
    )
    assert max(errors(of_them, grads).values()) < 1e-5


def test_the_decoder_alone_in_parts():
    def decoder(parts):
        model = sd.autoencoder(small().vae, train="decoder", discriminator_channels=(4, 8), discriminator_norm="none")
        config = make_config(**{**TRAIN, "accumulate": parts})
        terms = train_step(model, make_optimizers(model, config), X, config, step=0, generator=torch.Generator())
        return terms, {name: weight.grad for name, weight in model.generator.named_parameters()}

    (terms, grads), (parted, of_them) = decoder(1), decoder(4)
    key = "encoder_generator/adaptive_weight"
    assert parted[key].item() == pytest.approx(terms[key].item(), rel=1e-5)
    assert max(errors(of_them, grads).values()) < 1e-5


def test_a_training_in_parts_takes_the_same_images_and_averages_once_a_step():
    def trained(**changes):
        config = make_config(**{**TRAIN, "steps": 4, "ema_images": 20, **changes})
        trainer = Trainer(small(), config, out=None, progress=False)
        trainer.fit(images())
        return trainer

    whole, parted = trained(), trained(accumulate=4)
    assert torch.equal(whole.generator.get_state(), parted.generator.get_state())
    assert torch.equal(whole.ema.n_averaged, parted.ema.n_averaged)
    got, want = (trainer.ema.module.state_dict() for trainer in (parted, whole))
    assert max(errors(got, want).values()) < 1e-4  # Adam makes steps of a gradient that is rounding alone


# ------------------------------------------------------------------------------------------------ bfloat16
def test_in_bfloat16_losses_weights_and_gradients_stay_float32():
    terms, grads = stepped()
    halves, of_halves = stepped(precision="bfloat16")
    for name, term in terms.items():
        assert halves[name].dtype == torch.float32, name
        assert halves[name].item() == pytest.approx(term.item(), rel=0.1, abs=0.1), name
    for name, grad in grads.items():
        assert of_halves[name].dtype == torch.float32 and of_halves[name].isfinite().all(), name
        assert not torch.equal(of_halves[name], grad) or not grad.any(), name


# ------------------------------------------------------------------------------------------------ large images
def test_what_is_shown_and_measured_of_large_images_is_made_a_few_at_a_time(monkeypatch):
    model, config = small().eval(), make_config(**TRAIN)
    shown, sizes, pictures = previews.Previews(model, images(), 0), [], {}
    monitor = SimpleNamespace(picture=pictures.__setitem__)

    def all_of_it():
        shown.show(monitor)
        numbers = measure(model, config, shown.real, shown.eps)
        walk = model.interpolate(*shown.latents[:2], 5)
        return {**pictures}, numbers, walk

    whole = all_of_it()
    for network in (model.encoder, model.generator):
        network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    monkeypatch.setattr(traits, "_MOST_NUMBERS", 3 * SIZE**2 * 16)
    parts = all_of_it()
    model.fit_prior(shown.real)
    assert set(sizes) == {3, 2, 1}
    for got, want in zip(parts[0].values(), whole[0].values(), strict=True):
        assert got.shape == want.shape and (got.int() - want.int()).abs().max() <= 1
    assert parts[1] == pytest.approx(whole[1], rel=1e-4)
    torch.testing.assert_close(parts[2], whole[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("of_each", "samples", "walks"), [(2**20, 64, 16), (2**24, 64, 7), (2**26, 16, 1)])
def test_of_large_images_fewer_are_shown(monkeypatch, of_each, samples, walks):
    """With Stable Diffusion's autoencoder: images of 64, 256 and 512 pixels."""
    model = small()
    monkeypatch.setattr(type(model), "traits", model.traits._replace(largest_activation=of_each))
    shown = previews.Previews(model, images(64), 0)
    assert len(shown.eps) == samples and len(shown.real) == samples // 2
    frames = list(shown.walks())
    rows = math.ceil(walks / math.ceil(math.sqrt(walks)))
    assert len(frames) == 36 and frames[0].shape[1] == rows * (SIZE + 2) - 2
