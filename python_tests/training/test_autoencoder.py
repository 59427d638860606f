"""diffusers' AutoencoderKL under the Trainer: from its folders and back to them, with the real package."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import make_config

import sdgan_ext as sd
from sdgan_ext._errors import CheckpointError, ConfigError, DivergedError
from sdgan_ext.data import ImageDataset
from sdgan_ext.evaluation import evaluate, refusals
from sdgan_ext.training import previews
from sdgan_ext.training.autoencoder import check_enough
from sdgan_ext.training.runs import load_model
from sdgan_ext.training.state import load_checkpoint
from sdgan_ext.training.trainer import Trainer

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 16
SMALL = {"image_size": SIZE, "block_out_channels": (8, 16), "norm_num_groups": 4, "discriminator_channels": (4, 8)}
FILE = "diffusion_pytorch_model.safetensors"
TRAIN = {
    **dict(objective="hinge", prior_images=False, disc_start=1, disc_warmup=1, adaptive_weight=0.1, kl_weight=1e-6),
    **dict(pixel_loss="l1", lr_encoder=2e-3, lr_generator=2e-3),
}


def images(count=16, channels=3):
    """Smooth ones: a ramp each, of another direction and colour."""
    torch.manual_seed(3)
    ramp = torch.linspace(-1, 1, SIZE)
    a, b, colour = torch.rand(count, 1, 1, 1), torch.rand(count, 1, 1, 1), torch.rand(count, channels, 1, 1)
    return ImageDataset((((a * ramp[:, None] + b * ramp + 2) * colour) * 63).byte(), name="ramps")


def small(seed=0, **fields):
    torch.manual_seed(seed)
    return sd.autoencoder(sd.AutoencoderConfig(**{**SMALL, **fields}))


def theirs(seed=0, **arguments):
    torch.manual_seed(seed)
    levels = len(arguments.get("block_out_channels", (8, 16)))
    given = {
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "sample_size": SIZE,
    }
    return diffusers.AutoencoderKL(**{**given, **arguments}).eval()


def folder_of(path, **arguments):
    theirs(**arguments).save_pretrained(path)
    return path


def trained(model, out, steps=3, dataset=None, **changes):
    config = make_config(**{**TRAIN, "steps": steps, **changes})
    return Trainer(model, config, out=out, progress=False).fit(images() if dataset is None else dataset)


@torch.no_grad()
def assert_equal_outputs(vae, model):
    x = torch.randn(2, *model.config.image_shape, generator=torch.Generator().manual_seed(1))
    posterior, want = model.eval().encode(x), vae.eval().encode(x).latent_dist
    torch.testing.assert_close(posterior.mean, want.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(posterior.logvar, want.logvar, rtol=0, atol=1e-5)
    torch.testing.assert_close(model.decode(want.mean), vae.decode(want.mean).sample, rtol=0, atol=1e-5)


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


# ------------------------------------------------------------------------------------------------ in and out
LAYOUTS = {
    "4 channels, f2": {},
    "8 channels, f4": {"latent_channels": 8, "block_out_channels": (4, 8, 8)},
    "16 channels, f16, no attention": {
        **{"latent_channels": 16, "block_out_channels": (4, 4, 8, 8, 8), "mid_block_add_attention": False},
    },
    "two layers a block": {"layers_per_block": 2},
}


@pytest.mark.parametrize("fields", LAYOUTS.values(), ids=LAYOUTS)
def test_diffusers_opens_what_training_writes(tmp_path, fields):
    run = trained(small(**fields), tmp_path)
    assert sorted(path.name for path in run.model.iterdir()) == ["config.json", FILE]
    vae, found = diffusers.AutoencoderKL.from_pretrained(run.model, output_loading_info=True)
    assert not any(found.values()), "every weight has its place"
    model = load_model(run.folder)
    assert_equal_outputs(vae, model)
    side = SIZE // 2 ** (len(model.config.block_out_channels) - 1)
    assert model.traits.latent_shape == (model.config.latent_channels, side, side)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16, "shift_factor": 0.1}],
    ids=["Stable Diffusion 1's", "Stable Diffusion 3's"],
)
def test_what_diffusers_wrote_is_opened_and_trained_on(tmp_path, arguments):
    folder = folder_of(tmp_path / "theirs", **arguments)
    model = sd.autoencoder(folder, discriminator_channels=(4, 8))
    vae = diffusers.AutoencoderKL.from_pretrained(folder)
    assert_equal_outputs(vae, model)
    before = weights_of(model.vae)
    run = trained(model, tmp_path)
    assert len(changed(before, weights_of(model.vae))) == len(before)
    after = diffusers.AutoencoderKL.from_pretrained(run.model)
    left = {key for key in vae.config if vae.config[key] != after.config[key]}
    assert left <= {"scaling_factor", "shift_factor", "_name_or_path"}
    assert (after.config.shift_factor is None) == (vae.config.shift_factor is None)
    assert_equal_outputs(after, load_model(run.folder))


def test_an_object_is_trained_in_place_and_every_way_to_its_folder_is_known(tmp_path):
    vae = theirs()
    model = sd.autoencoder(vae, discriminator_channels=(4, 8))
    assert model.vae is vae and model.generator.last_weight is vae.decoder.conv_out.weight
    run = trained(model, tmp_path)
    pipeline = tmp_path / "pipeline"
    theirs().save_pretrained(pipeline / "vae")
    for source in (run.folder, run.model, str(run.model), pipeline):
        assert sd.autoencoder(source, discriminator_channels=None).discriminator is None


def test_the_layers_are_ours_unless_they_shall_not_be(tmp_path):
    def kinds(model):
        return {type(part).__module__.split(".")[0] for part in model.vae.modules() if "Conv2d" in type(part).__name__}

    model, stock = small(), small(accelerate=False)
    assert "sdgan_ext" in kinds(model) and kinds(stock) == {"torch"}
    assert_equal_outputs(stock.vae, model)
    run = trained(stock, tmp_path)
    assert kinds(Trainer.resume(run.folder, progress=False).model) == {"torch"}


def test_half_precision_weights_are_trained_in_float32(tmp_path):
    theirs().half().save_pretrained(tmp_path / "half")
    model = sd.autoencoder(tmp_path / "half", discriminator_channels=(4, 8))
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


# ------------------------------------------------------------------------------------------------ what is trained
@pytest.mark.parametrize("mode", ["vae-gan", "vae"])
def test_the_decoder_alone_learns_and_the_encoder_keeps_its_bits(tmp_path, mode):
    folder = folder_of(tmp_path / "theirs", scaling_factor=0.3)
    vae = diffusers.AutoencoderKL.from_pretrained(folder)
    model = sd.autoencoder(folder, train="decoder", discriminator_channels=(4, 8))
    assert not model.encoder.training
    steps = 40
    settings = {} if mode == "vae-gan" else dict(adaptive_weight=0.0, disc_start=0, disc_warmup=0, prior_images=True)
    config = make_config(**{**TRAIN, "steps": steps, "mode": mode, **settings, "ema_images": 10, "log_every": steps})
    trainer = Trainer(model, config, out=tmp_path, progress=False)
    assert "encoder" not in trainer.optimizers
    run = trainer.fit(images())
    assert not model.encoder.training and all(p.grad is None for p in model.encoder.parameters())
    after = diffusers.AutoencoderKL.from_pretrained(run.model)
    moved = changed(weights_of(vae), weights_of(after))
    assert {name.split(".")[0] for name in moved} == {"post_quant_conv", "decoder"}
    assert len(moved) == sum(name.startswith(("post_quant_conv", "decoder")) for name in vae.state_dict())
    assert after.config.scaling_factor == 0.3, "that of the latents, which are what they were"
    x = images().images[:8] / 127.5 - 1
    with torch.no_grad():
        errors = [(each.eval()(x).sample - x).square().mean().item() for each in (vae, after)]
    assert errors[1] < errors[0] / 2, errors


def test_all_is_trained_unless_said_otherwise():
    model = small()
    before = weights_of(model)
    trained(model, None)
    still = before.keys() - changed(before, weights_of(model))
    # Of logits within the hinge's margin the gradients to their bias cancel.
    assert still <= {"prior.shift_factor", "discriminator.logit.bias"}
    assert model.generator.log_scale.item() != 0


@pytest.mark.parametrize("source", ["random", "decoder"])
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, source):
    def begin(out):
        if source == "random":
            return small()
        torch.manual_seed(0)
        return sd.autoencoder(folder_of(out / "theirs"), train="decoder", discriminator_channels=(4, 8))

    folders = []
    for name, steps in (("whole", 6), ("half", 3)):
        out = tmp_path / name
        run = trained(begin(out), out / "runs", steps)
        folders.append(run.folder)
    trainer = Trainer.resume(folders[1], steps=6, progress=False)
    assert trainer.model.config.train == ("all" if source == "random" else "decoder")
    torch.manual_seed(99)  # a checkpoint has the state of torch's own generator
    run = trainer.fit(images())
    assert run.step == 6
    for name in (FILE, "config.json"):
        whole, half = ((folder / "model" / name).read_bytes() for folder in folders)
        assert whole == half


# ------------------------------------------------------------------------------------------------ the latents' scale
@pytest.mark.parametrize("shift", [False, True])
def test_the_scale_of_the_latents_is_measured_on_the_data(tmp_path, shift):
    vae = theirs(latents_mean=[1.0] * 4, latents_std=[2.0] * 4)
    with torch.no_grad():
        vae.quant_conv.bias[:4] += 5  # latents with a mean
    model = sd.autoencoder(vae, fit_shift=shift, discriminator_channels=(4, 8))
    run = trained(model, tmp_path, lr_encoder=1e-6)
    after = diffusers.AutoencoderKL.from_pretrained(run.model)
    with torch.no_grad():
        z = after.encode(images().images / 127.5 - 1).latent_dist.sample(torch.Generator().manual_seed(5))
    assert after.config.scaling_factor == pytest.approx(1 / z.std().item(), rel=0.05)
    assert after.config.shift_factor == (pytest.approx(z.mean().item(), rel=0.05) if shift else None)
    assert after.config.latents_mean is None, "it was that of other latents"
    eps = torch.randn(64, *model.traits.latent_shape)
    drawn = load_model(run.folder).latents(eps)
    assert drawn.std().item() == pytest.approx(z.std().item(), rel=0.1)
    assert drawn.mean().item() == pytest.approx(z.mean().item() if shift else 0, abs=0.2)


def test_the_best_model_has_a_measured_scale_before_any_picture(tmp_path):
    settings = dict(evaluate_every=1, validation_images=4, sample_every=100, checkpoint_every=100)
    model = small(fit_shift=True)
    run = trained(model, tmp_path, 2, **settings)
    config = json.loads((run.folder / "best" / "config.json").read_text())
    assert config["scaling_factor"] != 1 and config["shift_factor"] != 0


def test_a_checkpoint_has_a_measured_scale_before_any_picture(tmp_path):
    run = trained(small(), tmp_path, 3, sample_every=100, checkpoint_every=2)
    state = load_checkpoint(run.checkpoints / "step-00000002.pt")
    assert state["ema"]["module.prior.scaling_factor"] != 1


def test_large_images_are_held_in_memory_by_the_number_of_their_pixels(monkeypatch):
    model = small()
    monkeypatch.setattr(previews, "_PRIOR_NUMBERS", 5 * 3 * SIZE**2 + 1)
    assert len(previews.Previews(model, images(), 0).prior_data[0]) == 5
    monkeypatch.setattr(previews, "_PRIOR_NUMBERS", 1)
    assert len(previews.Previews(model, images(), 0).prior_data[0]) == 2, "fewer have no deviation"


# ------------------------------------------------------------------------------------------------ files
def test_nothing_is_written_of_a_model_that_has_diverged(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with torch.no_grad():
        model.vae.encoder.conv_in.weight[0] = math.nan
    with pytest.raises(DivergedError, match="encoder.conv_in.weight holds NaN"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def original_names(name, levels):
    """A weight of diffusers by its name in the original layout, the inverse of diffusers' own conversion."""
    for ours, original in (
        ("conv_norm_out", "norm_out"),
        ("conv_shortcut", "nin_shortcut"),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0.group_norm", "mid.attn_1.norm"),
        ("mid_block.attentions.0.to_q", "mid.attn_1.q"),
        ("mid_block.attentions.0.to_k", "mid.attn_1.k"),
        ("mid_block.attentions.0.to_v", "mid.attn_1.v"),
        ("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("resnets", "block"),
        ("down_blocks", "down"),
    ):
        name = name.replace(ours, original)
    for level in range(levels):
        name = name.replace(f"up_blocks.{level}.", f"up.{levels - 1 - level}.")
    return name


def test_a_single_file_of_the_original_layout_is_converted(tmp_path):
    vae = theirs(block_out_channels=(32, 64), norm_num_groups=32)
    state = {original_names(name, 2): value for name, value in vae.state_dict().items()}
    for name, value in state.items():
        if "attn_1" in name and "norm" not in name and name.endswith("weight"):
            state[name] = value[:, :, None, None].contiguous()  # 1x1 convolutions there
    save_file(state, tmp_path / "kl.safetensors")
    ddconfig = {
        **{"double_z": True, "z_channels": 4, "resolution": 16, "in_channels": 3, "out_ch": 3, "ch": 32},
        **{"ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0},
    }
    stage = {"target": "ldm.models.autoencoder.AutoencoderKL", "params": {"embed_dim": 4, "ddconfig": ddconfig}}
    (tmp_path / "kl.yaml").write_text(json.dumps({"model": {"params": {"first_stage_config": stage}}}))
    model = sd.autoencoder(
        tmp_path / "kl.safetensors", original_config=tmp_path / "kl.yaml", image_size=16, discriminator_channels=None
    )
    assert_equal_outputs(vae, model)
    opened = load_model(tmp_path / "kl.safetensors", image_size=16, original_config=tmp_path / "kl.yaml")
    assert_equal_outputs(vae, opened)


# ------------------------------------------------------------------------------------------------ refusals
def write_config(folder, **values):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def damaged(folder):
    small().save_pretrained(folder)
    content = bytearray((folder / FILE).read_bytes())
    content[-1] ^= 1
    (folder / FILE).write_bytes(content)
    return folder


def without_weights(folder):
    (folder_of(folder) / FILE).unlink()
    return folder


def of_other_layers(folder):
    config = json.loads((folder_of(folder) / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "use_quant_conv": False}))
    return folder


def our_own(folder):
    sd.VAEGAN(sd.preset("sd-kl").model).save_pretrained(folder)
    return folder


REFUSED = {
    "VQ": (lambda f: write_config(f, _class_name="VQModel"), "of diffusers' 'VQModel'; only an AutoencoderKL"),
    "Tiny": (lambda f: write_config(f, _class_name="AutoencoderTiny"), "of diffusers' 'AutoencoderTiny'; only an"),
    "3-D": (lambda f: write_config(f, _class_name="AutoencoderKLWan"), "of diffusers' 'AutoencoderKLWan'; only an"),
    "other package": (lambda f: write_config(f, architectures=["Bert"]), "config.json is not of a model of diffusers"),
    "our sd-kl": (our_own, "is a VAEGAN's, which cannot become an AutoencoderKL"),
    "no config": (lambda f: f.mkdir() or f, "holds no config.json, which a folder of diffusers has"),
    "no folder": (lambda f: f, "is no folder; it must be one that save_pretrained of diffusers wrote"),
    "no weights": (without_weights, "diffusers cannot read"),
    "damaged": (damaged, f"{FILE} is damaged: its bytes are not those"),
    "other layers": (of_other_layers, "is of other layers than its config.json: quant_conv.*is unexpected"),
    "channels": (lambda f: folder_of(f, out_channels=1), "has in_channels 3 and out_channels 1"),
    "object": (lambda f: diffusers.AutoencoderTiny(), "source is a AutoencoderTiny; it must be"),
    "half": (lambda f: theirs().half(), r"encoder.conv_in.weight is torch.float16; an AutoencoderKL is trained in"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_autoencoder_kl_is_refused_in_a_sentence(tmp_path, kind):
    make, words = REFUSED[kind]
    with pytest.raises((ConfigError, CheckpointError), match=words) as caught:
        sd.autoencoder(make(tmp_path / "given"))
    assert "\n" not in str(caught.value)


FIELDS = {
    "latent channels": ({"latent_channels": 8}, "latent_channels is 8, but .*given has 4"),
    "levels": ({"block_out_channels": [8, 16, 16]}, r"block_out_channels is \[8, 16, 16\], but .*given has \(8, 16\)"),
    "size": ({"image_size": 15}, "image_size is 15x15; with 2 block_out_channels both sides must be multiples of 2"),
    "unknown": ({"latent_chanels": 8}, "has no field 'latent_chanels', did you mean 'latent_channels'"),
}


@pytest.mark.parametrize("kind", FIELDS)
def test_fields_that_do_not_fit_the_networks_are_refused(tmp_path, kind):
    fields, words = FIELDS[kind]
    with pytest.raises(ConfigError, match=words):
        sd.autoencoder(folder_of(tmp_path / "given"), **fields)


CONFIGS = {
    "decoder": ({"train": "decoder"}, "train is 'decoder', .* and this one has random weights"),
    "groups": ({"norm_num_groups": 3}, r"norm_num_groups is 3; it must divide each of block_out_channels, \(8, 16\)"),
    "size": ({"image_size": (16, 18), "block_out_channels": (8, 8, 8)}, "image_size is 16x18; .* multiples of 4"),
    "large": ({"block_out_channels": (8192, 8192)}, "parameters; it must be at most 1,073,741,824: lower"),
    "blocks": ({"diffusers": {"act_fn": "sinus"}}, "diffusers cannot make an AutoencoderKL of this configuration"),
    "levels": ({"block_out_channels": (8,) * 9, "image_size": 256}, "block_out_channels has 9 levels; .* 8 at most"),
    "discriminator": (
        {"discriminator_channels": (4,) * 6},
        "discriminator_channels is .*6 down blocks, but an image of",
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configurations_that_no_model_has_are_refused(kind):
    fields, words = CONFIGS[kind]
    with pytest.raises(ConfigError, match=words):
        small(**fields)


@pytest.mark.parametrize("changes", [{"pixel_loss": "bernoulli"}, {"binarise": True}], ids=str)
def test_losses_of_probabilities_need_a_bounded_decoder(changes):
    with pytest.raises(ConfigError, match=r"images are not bounded to \[-1, 1\]"):
        trained(small(channels=1), None, **changes)


def test_a_file_without_enough_weights_takes_no_memory(tmp_path):
    config = small().config
    with pytest.raises(CheckpointError, match="is of another architecture than the model: it has no encoder"):
        check_enough(config.replace(block_out_channels=(1024, 1024)), {"one": torch.zeros(1)}, tmp_path)


def test_a_run_is_resumed_with_its_own_kind_of_model(tmp_path):
    run = trained(small(), tmp_path)
    with pytest.raises(CheckpointError, match="is of an Autoencoder, but model is a VAEGAN"):
        Trainer.resume(run.folder, model=sd.VAEGAN())
    with pytest.raises(CheckpointError, match="another model: latent_channels is 4 there and 8 in yours"):
        Trainer.resume(run.folder, model=small(latent_channels=8))


# ------------------------------------------------------------------------------------------------ other uses
@pytest.mark.parametrize("channels", [1, 3])
def test_likelihood_and_errors_of_a_decoder_without_tanh(channels):
    model, dataset = small(channels=channels), images(channels=channels)
    with torch.no_grad():
        model.vae.decoder.conv_out.bias.fill_(1.5)  # pixels above 1
    values = evaluate(model, dataset, metrics=["elbo", "errors"])
    assert all(np.isfinite(value) for value in values.values())
    assert "nll" in refusals(model, dataset)


def test_seeded_samples_and_a_walk():
    model = small()
    a, b = model.sample(2, seed=3), model.sample(2, seed=3)
    assert torch.equal(a, b) and a.shape == (2, *model.config.image_shape)
    z = model.latents(torch.randn(2, *model.config.latent_shape))
    walk = model.interpolate(z[0], z[1], 3)
    torch.testing.assert_close(walk[-1:], model.eval().decode(z[1:]), rtol=0, atol=1e-4)
