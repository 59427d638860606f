"""The model: what it is made of, what it samples, its folder; what does not fit is said in one sentence."""

import copy
import json
import warnings

import pytest
import torch
from tiny_latents import CAPTIONS, NETWORKS, make_autoencoder, make_images, make_model, make_train

import sdgan_ext as sd
from sdgan_ext._errors import CheckpointError, ConfigError, DataError
from sdgan_ext.data import ImageDataset
from sdgan_ext.diffusion import seeded_noise
from sdgan_ext.training.runs import load_autoencoder, load_model

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")


def weights_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def map_autoencoder(**fields):
    torch.manual_seed(0)
    settings = dict(image_size=16, latent_dim=128, latent_map=True, encoder_channels=(4,), generator_channels=(4,))
    return sd.VAEGAN(sd.VAEGANConfig(**{**settings, "discriminator_channels": None, "init": "torch", **fields}))


# ------------------------------------------------------------------------------------------------ what it is made of
def test_what_is_of_the_autoencoder_and_the_captions():
    model = make_model(make_autoencoder(scaling_factor=0.5))
    config = model.config
    assert config.latent_shape == (2, 8, 8) and config.image_size == (16, 16) and config.channels == 1
    assert (config.scaling_factor, config.shift_factor) == (0.5, 0.0)
    assert config.class_captions == tuple(CAPTIONS) and config.classes == 3
    assert (config.vocab_size, config.text_length) == (model.tokenizer.vocab_size, 4)  # start, a, zero, end


def test_the_autoencoder_is_no_part_of_what_is_trained_saved_or_copied():
    model = make_model()
    assert [name for name, _ in model.named_children()] == ["unet", "text_encoder"]
    assert not [parameter for parameter in model.autoencoder.parameters() if parameter.requires_grad]
    other = copy.deepcopy(model)
    assert other.autoencoder is model.autoencoder and other.tokenizer is model.tokenizer
    assert other.unet is not model.unet
    assert not model.train().autoencoder.training


def test_it_moves_with_its_autoencoder():
    model = make_model().double()
    assert {parameter.dtype for parameter in model.autoencoder.parameters()} == {torch.float64}


def test_attention_where_it_is_asked_for():
    model = make_model(block_out_channels=(8, 8), attention_levels=(1,))
    kinds = [type(block).__name__ for block in (*model.unet.down_blocks, *model.unet.up_blocks)]
    assert kinds == ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"]


def test_the_network_of_the_functions():
    model = make_model().eval()
    x, t, ids = torch.randn(2, 2, 8, 8), torch.tensor([100.0, 900.0]), model.tokenizer.encode(CAPTIONS[:2])
    want = model.unet(x, t, encoder_hidden_states=model.text_encoder(ids).last_hidden_state).sample
    torch.testing.assert_close(model(x, t, ids), want)


# ------------------------------------------------------------------------------------------------------ the latents
@pytest.mark.parametrize("shift", [None, 0.5])
def test_latents_are_scaled_as_the_autoencoder_says(shift):
    autoencoder = make_autoencoder(scaling_factor=0.25, shift=shift)
    model = make_model(autoencoder)
    x = torch.randn(2, 2, 8, 8)
    want = autoencoder.vae.decode(x / 0.25 + (shift or 0.0)).sample.clamp(-1, 1)
    torch.testing.assert_close(model.decode(x), want)


def test_latents_of_a_vaegan_are_maps_of_a_measured_scale():
    autoencoder = map_autoencoder()
    data = make_images(40)
    model = make_model(autoencoder, data)
    images, _ = data.batch(torch.arange(40))
    mean, logvar = model.encode(images)
    assert mean.shape == (40, 2, 8, 8)
    z = autoencoder.encode(images).mean  # pixel by pixel, the channels of one side by side
    torch.testing.assert_close(mean.permute(0, 2, 3, 1).flatten(1), z)
    variance = mean.double().var(correction=0) + logvar.double().exp().mean()
    assert model.config.scaling_factor == pytest.approx(1 / variance.sqrt().item(), rel=1e-4)
    x = model.scaling.normalize(mean)
    torch.testing.assert_close(model.decode(x), autoencoder.decode(z), rtol=1e-4, atol=1e-5)


# -------------------------------------------------------------------------------------------------------- sampling
def test_a_seed_is_the_same_picture_in_every_batch():
    model = make_model()
    several = model.sample(captions=["a one", "a two", "a zero"], seeds=[5, 6, 7])
    alone = model.sample(captions="a two", seeds=[6])
    assert several.shape == (3, 1, 16, 16) and several.abs().max() <= 1
    torch.testing.assert_close(several[1:2], alone, rtol=0, atol=1e-4)


def test_sampling_is_that_of_the_functions():
    model = make_model(make_autoencoder(scaling_factor=0.7)).eval()
    ids, null = model.tokenizer.encode(["a one"]), model.tokenizer.encode([""])[0]
    noise = seeded_noise([3], (2, 8, 8))
    latents = sd.diffusion.sample(model, model.path, noise, ids, steps=3, guidance=2.5, null=null)
    torch.testing.assert_close(
        model.sample(captions="a one", seeds=[3], steps=3, guidance=2.5), model.decode(latents), rtol=0, atol=1e-5
    )


def test_labels_are_their_captions_and_no_words_are_the_empty_caption():
    model = make_model()
    assert torch.equal(
        model.sample(labels=[1, 0], seeds=[1, 2]), model.sample(captions=["a one", "a zero"], seeds=[1, 2])
    )
    assert torch.equal(model.sample(2, seeds=[1, 2]), model.sample(captions=["", ""], seeds=[1, 2]))
    given = [model.sample(2, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(given[0], given[1]) and not torch.equal(given[0], given[2])


def test_a_negative_caption_stands_in_the_place_of_the_empty_one():
    model = make_model()
    options = {"captions": "a one", "seeds": [1], "guidance": 3.0}
    plain = model.sample(**options)
    torch.testing.assert_close(model.sample(**options, negative=""), plain)
    assert not torch.allclose(model.sample(**options, negative="a two"), plain)


def test_what_a_caption_cannot_say_is_said():
    model = make_model()
    with pytest.warns(UserWarning, match="never seen 'seven', of the caption 'a seven'"):
        model.sample(captions="a seven", seeds=[0])
    with pytest.warns(UserWarning, match="'a one two zero' becomes 'a one'"):
        cut = model.sample(captions="a one two zero", seeds=[0])
    assert torch.equal(cut, model.sample(captions="a one", seeds=[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(captions=CAPTIONS, seeds=[0, 1, 2])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"captions": "a one", "guidance": 2.0}, ConfigError, "guidance needs a model with a null condition"),
        ({"n": 2}, ConfigError, "captions are missing, and this model was trained with one for each image"),
        ({"captions": ["a one"], "labels": [1]}, ValueError, "captions and labels are both given"),
        ({"captions": ["a one"], "seeds": [1, 2]}, ValueError, "captions 1 and seeds 2 do not agree"),
        ({"labels": [3]}, ValueError, "labels has 3; this model's are 0 to 2"),
        ({"n": 0}, ValueError, "n is 0; at least one image must be asked for"),
        ({"captions": "a one", "steps": 0}, ConfigError, "steps is 0"),
        ({"captions": "a one", "solver": "fast"}, ConfigError, "solver is 'fast'"),
    ],
)
def test_what_cannot_be_sampled(options, error, words):
    model = make_model(train=make_train(condition_dropout=0.0))
    with pytest.raises(error, match=words):
        model.sample(**options)


# ------------------------------------------------------------------------------------------------------- the folder
@pytest.mark.parametrize("make", [make_autoencoder, map_autoencoder])
def test_the_folder(make, tmp_path):
    model = make_model(make())
    model.save_pretrained(tmp_path / "model")
    for read in (load_model, sd.LatentDiffusion.from_pretrained):
        again = read(tmp_path / "model")
        assert again.config == model.config and not again.training
        want = model.sample(captions=CAPTIONS, seeds=[0, 1, 2], guidance=2.0)
        assert torch.equal(again.sample(captions=CAPTIONS, seeds=[0, 1, 2], guidance=2.0), want)


def test_a_folder_with_parts_missing(tmp_path):
    model = make_model()
    for number, (part, words) in enumerate(
        {
            "tokenizer": "lacks the folder tokenizer",
            "autoencoder": "lacks the folder autoencoder",
            "model.safetensors": "model.safetensors is missing",
            "tokenizer/vocab.json": "",  # tokenizer.json says the same
            "autoencoder/diffusion_pytorch_model.safetensors": "diffusers cannot read",
        }.items()
    ):
        folder = tmp_path / str(number)
        model.save_pretrained(folder)
        path = folder / part
        path.rename(tmp_path / f"{number}-gone")
        if words:
            with pytest.raises(CheckpointError, match=words):
                load_model(folder)
        else:
            load_model(folder)


def test_a_folder_of_other_weights(tmp_path):
    make_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "text_width": 16}))
    with pytest.raises(CheckpointError, match="is of another architecture than the model: .* has shape"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "latent_channels": 4}))
    with pytest.raises(
        CheckpointError, match=r"latent_shape of the diffusion model is \(4, 8, 8\), and the autoencoder"
    ):
        load_model(tmp_path)


def test_a_diffusion_model_is_no_autoencoder(tmp_path):
    make_model().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="is of a latent diffusion model; its autoencoder is in"):
        load_autoencoder(tmp_path)
    assert load_autoencoder(tmp_path / "autoencoder").config.latent_shape == (2, 8, 8)


# ------------------------------------------------------------------------------------------------ what does not fit
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"block_out_channels": (8, 10)}, "norm_num_groups is 4; it must divide each of block_out_channels"),
        ({"attention_heads": 3}, "attention_heads is 3; it must divide each of block_out_channels"),
        ({"text_heads": 3}, "text_heads is 3; it must divide text_width, 8"),
        ({"attention_levels": (1,)}, "attention_levels has 1; there are the levels 0 to 0"),
        ({"parametrization": "x"}, "parametrization is 'x'; allowed are 'flow', 'v'"),
        ({"parametrization": "v", "shift": 2.0}, "shift is 2.0, which goes with the parametrization 'flow' alone"),
        ({"parametrization": "v", "solver": "heun"}, "solver is 'heun', which goes with the parametrization 'flow'"),
        ({"block_out_channels": (8,) * 5}, "latent maps have 8x8 pixels; with 5 block_out_channels .* multiples of 16"),
    ],
)
def test_sizes_that_do_not_fit(fields, words):
    with pytest.raises(ConfigError, match=words):
        make_model(**fields)


@pytest.mark.parametrize(
    ("autoencoder", "words"),
    [
        (lambda: map_autoencoder(latent_map=False), "latents are vectors of 128 numbers; a diffusion model needs maps"),
        (lambda: map_autoencoder(classes=3), "the autoencoder is conditioned on classes"),
        (lambda: map_autoencoder(encoder_channels=None), "the autoencoder has no encoder"),
    ],
)
def test_an_autoencoder_without_maps_of_latents(autoencoder, words):
    with pytest.raises(ConfigError, match=words):
        make_model(autoencoder())


def test_data_without_captions_and_classes():
    images = ImageDataset(torch.zeros(4, 1, 16, 16, dtype=torch.uint8), name="bare")
    with pytest.raises(DataError, match="bare has no captions"):
        make_model(dataset=images)


def test_captions_that_are_no_classes():
    texts = [f"a dot {word}" for word in ("here", "there", "left", "right")]
    model = make_model(dataset=make_images(4, None, texts))
    assert model.config.class_captions is None and model.config.classes == 0
    with pytest.raises(ConfigError, match="this model has no classes; give captions"):
        model.sample(labels=[0])


def test_the_configuration_is_read_back():
    config = make_model().config
    assert sd.LatentDiffusionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.replace(**NETWORKS) == config
