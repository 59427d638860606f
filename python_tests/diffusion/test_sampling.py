"""Sampling: seeds, guidance, image-to-image, masks; the same latents from a pipeline of diffusers."""

import pytest
import torch
from exact import Gaussian

from sdgan_ext import diffusion
from sdgan_ext._errors import ConfigError

PATH = diffusion.Flow()


class Conditional:
    """The right flow to N(label, 0.5^2); label 0 is also the null condition's."""

    def __call__(self, x_t, timesteps, condition):
        rows = [
            Gaussian(PATH, float(label), 0.5)(x_t[i : i + 1], timesteps[i : i + 1], None)
            for i, label in enumerate(condition)
        ]
        return torch.cat(rows)


# --------------------------------------------------------------------------------------------------------------- seeds
def test_noise_of_a_seed_does_not_depend_on_the_batch():
    noise = diffusion.seeded_noise([7, 3, 5], (2, 4, 4))
    assert torch.equal(noise[1], diffusion.seeded_noise([3], (2, 4, 4))[0])
    assert noise.std() == pytest.approx(1.0, abs=0.15) and not torch.equal(noise[0], noise[1])
    with pytest.raises(ConfigError, match="seeds is empty; give one seed for each picture"):
        diffusion.seeded_noise([], (2, 4, 4))


def test_noise_is_that_of_a_pipeline():
    torch_utils = pytest.importorskip("diffusers.utils.torch_utils")
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 3)]
    expected = torch_utils.randn_tensor((2, 4, 7, 7), generator=generators)
    assert torch.equal(diffusion.seeded_noise([7, 3], (4, 7, 7)), expected)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpm++"])
def test_a_picture_does_not_depend_on_the_batch(solver):
    if solver == "dpm++":
        pytest.importorskip("diffusers")
    labels, noise = torch.tensor([1, 2, 3]), diffusion.seeded_noise([7, 3, 5], (2, 4, 4))
    settings = dict(steps=5, solver=solver, guidance=2.0, null=torch.tensor(0))
    whole = diffusion.sample(Conditional(), PATH, noise, labels, **settings)
    alone = diffusion.sample(Conditional(), PATH, diffusion.seeded_noise([3], (2, 4, 4)), labels[1:2], **settings)
    torch.testing.assert_close(whole[1:2], alone, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ guidance
def test_guidance_of_a_linear_flow():
    """Means of the class and of none are all that differs, so guidance 3 makes what a class three times as far does."""
    noise = diffusion.seeded_noise(range(5), (3,)).double()
    labels = torch.tensor([1, 2, -1, 4, 0])
    guided = diffusion.sample(Conditional(), PATH, noise, labels, steps=8, guidance=3.0, null=torch.tensor(0))
    torch.testing.assert_close(guided, diffusion.sample(Conditional(), PATH, noise, 3 * labels, steps=8))


def test_guidance_1_is_none():
    noise, labels = diffusion.seeded_noise(range(3), (2,)), torch.tensor([1, 2, 3])
    plain = diffusion.sample(Conditional(), PATH, noise, labels)
    assert torch.equal(diffusion.sample(Conditional(), PATH, noise, labels, guidance=1.0, null=torch.tensor(0)), plain)


def test_a_negative_condition_leads_away_from_it():
    noise, labels = diffusion.seeded_noise(range(3), (2,)).double(), torch.tensor([1, 1, 1])
    made = diffusion.sample(Conditional(), PATH, noise, labels, guidance=3.0, negative=-labels)
    torch.testing.assert_close(made, diffusion.sample(Conditional(), PATH, noise, 5 * labels))  # -1 + 3 (1 - -1)


def test_evaluation_mode_and_no_gradient():
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))

        def forward(self, x_t, timesteps, condition):
            assert not self.training
            return self.layers(x_t)

    network, noise = Network(), diffusion.seeded_noise(range(2), (3,))
    made = diffusion.sample(network, PATH, noise)
    assert torch.equal(made, diffusion.sample(network, PATH, noise))
    assert network.training and network.layers[1].training and not made.requires_grad


# ------------------------------------------------------------------------------------------------- changed, in a mask
@pytest.mark.parametrize(("strength", "steps"), [(1.0, 10), (0.5, 5), (0.19, 1)])
def test_strength_decides_how_many_steps_are_taken(strength, steps):
    network = Gaussian(PATH)
    diffusion.sample(network, PATH, torch.zeros(2, 1), init=torch.ones(2, 1), strength=strength)
    assert len(network.rows) == steps == 10 - diffusion.first_step(10, strength)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
@pytest.mark.parametrize("name", diffusion.PARAMETRIZATIONS)
def test_image_to_image_follows_the_flow_from_the_noisy_picture(name, solver):
    if solver == "unipc":
        pytest.importorskip("diffusers")
    path = diffusion.parametrization(name)
    network, noise, init = Gaussian(path), diffusion.seeded_noise(range(20), (3,)), torch.full((20, 3), 0.4)
    made = diffusion.sample(network, path, noise, init=init, strength=0.3, steps=200, solver=solver)
    noisy = path.add_noise(init, noise, torch.tensor(0.3))
    torch.testing.assert_close(made, network.solution(noisy, 0.3), rtol=0, atol=0.02)


@pytest.mark.parametrize("solver", ["euler", "dpm++"])
@pytest.mark.parametrize("name", diffusion.PARAMETRIZATIONS)
def test_inpainting(name, solver):
    """What is known stays to the last bit, and at every step the network sees it as noisy as the rest."""
    if solver == "dpm++":
        pytest.importorskip("diffusers")
    path, seen = diffusion.parametrization(name), []
    noise, init = diffusion.seeded_noise(range(4), (2, 4, 4)), torch.full((4, 2, 4, 4), 0.4)
    mask = torch.zeros(1, 1, 4, 4)
    mask[..., :2] = 1

    def network(x_t, timesteps, condition):
        seen.append((x_t, path.time_of(timesteps[0].item())))
        return Gaussian(path)(x_t, timesteps, condition)

    made = diffusion.sample(network, path, noise, init=init, mask=mask, steps=10, solver=solver)
    assert torch.equal(made[..., 2:], init[..., 2:])
    assert (made[..., :2] - init[..., :2]).abs().min() > 1e-4
    assert torch.equal(seen[0][0], noise)
    for x_t, t in seen[1:]:
        expected = path.add_noise(init, noise, torch.tensor(t))[..., 2:]
        torch.testing.assert_close(x_t[..., 2:], expected, rtol=0, atol=4e-3)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_keep_known(value):
    x_t, x_0, eps = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    t = torch.tensor(0.3)
    found = diffusion.keep_known(x_t, PATH, x_0, eps, torch.full((1, 2), value), t)
    torch.testing.assert_close(found, value * x_t + (1 - value) * (0.7 * x_0 + 0.3 * eps))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(strength=0.5), "strength is for a picture that is changed; give its latents as init"),
        (dict(mask=torch.ones(1)), "mask is for a picture that is changed; give its latents as init"),
        (dict(init=torch.zeros(2, 1), strength=0.0), "strength is 0.0; it must be a number above 0 and at most 1"),
        (dict(init=torch.zeros(2, 1), strength=0.05), "strength 0.05 leaves none of 10 steps; it must be at least 0.1"),
    ],
)
def test_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        diffusion.sample(Gaussian(PATH), PATH, torch.zeros(2, 1), **settings)


def test_a_condition_for_each_image():
    with pytest.raises(ValueError, match="condition has 3 rows, and the noise has 2; each image needs one"):
        diffusion.sample(Conditional(), PATH, torch.zeros(2, 1), torch.zeros(3))


# ----------------------------------------------------------------------------------------------------------- a pipeline
@pytest.fixture(scope="module")
def parts():
    """A U-Net of random weights and an autoencoder, with embeddings of two texts and of none."""
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    blocks = dict(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D")
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=12,
        attention_head_dim=4, **blocks,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1, sample_size=8)
    return unet.eval(), vae, torch.randn(2, 5, 12), torch.randn(5, 12)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("name", diffusion.PARAMETRIZATIONS)
def test_the_latents_of_a_stable_diffusion_pipeline(parts, name, solver, guidance):
    import diffusers

    path, (unet, vae, texts, null) = diffusion.parametrization(name), parts
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=None, tokenizer=None, unet=unet, safety_checker=None, feature_extractor=None,
        scheduler=diffusion.diffusers_scheduler(path, solver), requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt_embeds=texts, negative_prompt_embeds=null.expand(2, 5, 12), num_inference_steps=5, height=8, width=8,
        guidance_scale=guidance, output_type="latent",
        generator=[torch.Generator().manual_seed(seed) for seed in (7, 3)],
    ).images  # fmt: skip

    def network(x_t, timesteps, condition):
        return unet(x_t, timesteps, condition).sample

    noise = diffusion.seeded_noise([7, 3], tuple(expected.shape[1:]))
    found = diffusion.sample(network, path, noise, texts, steps=5, solver=solver, guidance=guidance, null=null)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
