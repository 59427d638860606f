"""``RUN/pipeline`` is opened by diffusers, without us, and makes our picture of the same seed."""

import json

import pytest
import torch
from tiny_latents import make_autoencoder, make_images, make_model, trained

from sdgan_ext._errors import CheckpointError
from sdgan_ext.diffusion.pipeline import pipeline_obstacle, save_pipeline
from sdgan_ext.training.runs import load_autoencoder, load_model

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")


def opened(folder):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pipeline, captions, seeds, **options):
    """[N, C, H, W] in [0, 255]."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    images = pipeline(captions, generator=generators, output_type="np", **options).images
    return 255 * torch.from_numpy(images).permute(0, 3, 1, 2)


def spread(model):
    """Weights that make a picture depend on all of them: as drawn, the networks' last layers say little."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    ("parametrization", "solver", "steps"),
    [("flow", "euler", 4), ("flow", "dpm++", 5), ("flow", "unipc", 5), ("v", "ddim", 5), ("v", "dpm++", 5)],
)
def test_the_same_picture(parametrization, solver, steps, guidance, tmp_path):
    model = make_model(make_autoencoder(scaling_factor=0.6), parametrization=parametrization, solver=solver)
    save_pipeline(spread(model), tmp_path)
    # Captions of other lengths, and one that is cut by both.
    captions, seeds = ["a one", "two", "a one two zero", ""], [1, 2, 3, 2**40]
    pipeline = opened(tmp_path)
    images = theirs(pipeline, captions, seeds, num_inference_steps=steps, guidance_scale=guidance)
    solver = "ddim" if solver == "euler" else solver  # at diffusers' rounded times
    with pytest.warns(UserWarning, match="more tokens than the 2 that fit"):
        ours = model.sample(captions=captions, seeds=seeds, steps=steps, guidance=guidance, solver=solver)
    assert ((ours + 1) * 127.5 - images).abs().max() <= 1
    assert images.std() > 5, "a picture, in which there is something to see"


def test_a_negative_caption_is_theirs_too(tmp_path):
    model = spread(make_model(solver="dpm++"))
    save_pipeline(model, tmp_path)
    options = {"num_inference_steps": 4, "guidance_scale": 4.0, "negative_prompt": ["a two"]}
    images = theirs(opened(tmp_path), ["a one"], [7], **options)
    ours = model.sample(captions=["a one"], seeds=[7], steps=4, guidance=4.0, negative="a two")
    assert ((ours + 1) * 127.5 - images).abs().max() <= 1


def test_the_pipeline_of_a_run(tmp_path):
    run = trained(tmp_path, lr=1e-2)
    model = load_model(run.folder)
    images = theirs(opened(run.folder / "pipeline"), ["a one"], [7], num_inference_steps=3, guidance_scale=2.0)
    ours = model.sample(captions=["a one"], seeds=[7], steps=3, guidance=2.0, solver="ddim")
    assert ((ours + 1) * 127.5 - images).abs().max() <= 1


def test_a_pipeline_that_is_half_written_is_none(tmp_path, monkeypatch):
    save_pipeline(make_model(), tmp_path)
    opened(tmp_path)

    def fails(*arguments, **options):
        raise CheckpointError("the disk is full")

    monkeypatch.setattr("sdgan_ext.diffusion.pipeline.save_folder", fails)
    with pytest.raises(CheckpointError, match="the disk is full"):
        save_pipeline(make_model(), tmp_path)
    assert not (tmp_path / "model_index.json").exists()


def test_its_autoencoder_goes_into_the_next_model(tmp_path):
    model = make_model(make_autoencoder(scaling_factor=0.6))
    save_pipeline(model, tmp_path)
    again = make_model(load_autoencoder(tmp_path), make_images())
    assert again.config.scaling_factor == pytest.approx(0.6)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="diffusers cannot read"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"autoencoder": lambda: make_autoencoder(shift=0.3)}, "its latents have a shift_factor"),
        ({"autoencoder": lambda: make_autoencoder(image_size=12), "side": 12}, "its images have 12x12 pixels"),
    ],
)
def test_what_no_pipeline_can_be(options, words, tmp_path):
    side = options.get("side", 16)
    model = make_model(options["autoencoder"](), make_images(side=side))
    assert words in pipeline_obstacle(model)
    with pytest.raises(ValueError, match="a pipeline cannot be made of this model"):
        save_pipeline(model, tmp_path)


def test_no_part_names_where_it_was_made(tmp_path):
    save_pipeline(make_model(), tmp_path)
    for file in tmp_path.rglob("*.json"):
        assert str(tmp_path) not in file.read_text()
        json.loads(file.read_text())
