"""What was saved under the names of 0.1.0 still loads. run-0.1.0 is a run that 0.1.0 wrote, without its pictures:

sdgan-ext train --data digits --image-size 8x8 --steps 4 --batch-size 4 --latent-dim 2 --encoder-channels 2,3
    --generator-channels 3,2 --discriminator-channels 2, --encoder-norm batch --generator-norm none
    --feature-layer 0 --evaluate-every 4 --evaluate-metric elbo --validation-images 8
"""

import copy
import re
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from sdgan_ext._errors import CheckpointError
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.models.migration import RENAMED, with_new_names
from sdgan_ext.training.runs import load_model
from sdgan_ext.training.state import list_checkpoints, load_checkpoint
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
OLD = Path(__file__).parent / "run-0.1.0"
CHECKPOINT = OLD / "checkpoints" / "step-00000004.pt"


def old_names(state):
    back = {new: old for old, new in RENAMED.items()}
    return {".".join(back.get(part, part) for part in name.split(".")): value for name, value in state.items()}


def assert_same(model, saved, prefix=""):
    """``model`` has the weights ``saved``, which have their old names, in their order."""
    own = {f"{prefix}{name}": value for name, value in old_names(model.state_dict()).items()}
    assert list(own) == [name for name in saved if name != "n_averaged"]
    assert all(torch.equal(value, saved[name]) for name, value in own.items())


@pytest.mark.parametrize("folder", ["model", "best"])
def test_a_model_folder(folder):
    saved = safetensors.torch.load_file(OLD / folder / "model.safetensors")
    assert {part for name in saved for part in name.split(".")} >= RENAMED.keys()
    model = VAEGAN.from_pretrained(OLD / folder)
    in_order = {name: saved[name] for name in old_names(model.state_dict())}  # safetensors sorts them
    assert len(in_order) == len(saved)
    assert_same(model, in_order)


def test_the_averaged_model_of_a_run():
    assert_same(load_model(OLD), load_checkpoint(CHECKPOINT)["ema"], "module.")


@pytest.fixture
def old_run(tmp_path):
    return copy_of_run(tmp_path / "old")


def copy_of_run(folder):
    shutil.copytree(OLD, folder)
    (folder / "samples").mkdir()
    return folder


def test_a_run_is_resumed_with_all_of_its_state(old_run):
    state = load_checkpoint(CHECKPOINT)
    trainer = Trainer.resume(old_run, steps=6, progress=False)
    assert_same(trainer.model, state["model"])
    assert_same(trainer.ema.module, state["ema"], "module.")
    for name, optimizer in trainer.optimizers.items():
        parameters = dict(getattr(trainer.model, name).named_parameters())
        moments = state["optimizers"][name]["state"]
        assert len(parameters) == len(moments)
        for (parameter, weight), moment in zip(parameters.items(), moments.values(), strict=True):
            assert moment["exp_avg"].shape == weight.shape, parameter
            assert torch.equal(optimizer.state[weight]["exp_avg"], moment["exp_avg"]), parameter
            assert torch.equal(optimizer.state[weight]["exp_avg_sq"], moment["exp_avg_sq"]), parameter


def test_a_resumed_run_goes_on_as_one_with_the_new_names(old_run, tmp_path):
    """And its new checkpoint has the new names."""
    new_run = copy_of_run(tmp_path / "new")
    state = load_checkpoint(CHECKPOINT)
    for key in ("model", "ema"):
        state[key] = {rename_all(name): value for name, value in state[key].items()}
    torch.save(state, new_run / "checkpoints" / CHECKPOINT.name)
    assert not re.search("|".join(RENAMED), " ".join(state["ema"]))
    ends = []
    for folder in (old_run, new_run):
        run = Trainer.resume(folder, steps=6, progress=False).fit("digits")
        assert run.step == 6
        ends.append(load_checkpoint(list_checkpoints(folder / "checkpoints")[-1]))
        assert VAEGAN.from_pretrained(folder / "model").config == VAEGAN.from_pretrained(OLD / "model").config
    for key in ("model", "ema"):
        assert list(ends[0][key]) == list(ends[1][key]) == list(state[key])
        assert all(torch.equal(ends[0][key][name], ends[1][key][name]) for name in ends[0][key])
    assert not torch.equal(ends[0]["model"]["generator.dense.weight"], state["model"]["generator.dense.weight"])


def rename_all(name):
    return ".".join(RENAMED.get(part, part) for part in name.split("."))


CONFIGS = {
    "spectral norm, conv head": {"discriminator_norm": "spectral", "generator_head": "conv", "classes": 3},
    "residual blocks": {"residual_blocks": 1, "discriminator_blocks": 1, "encoder_norm": "group"},
    "GAN": {"encoder_channels": None},
    "VAE": {"discriminator_channels": None, "prior_rank": 2},
}


@pytest.mark.parametrize("name", CONFIGS)
def test_load_state_dict_takes_the_old_names(name):
    """Also in a copy, and where the model is a part of another module."""
    config = VAEGANConfig(
        **{"image_size": 8, "latent_dim": 3, "encoder_channels": (2, 3), "discriminator_channels": (2, 3)}
        | {"generator_channels": (3, 2)}
        | CONFIGS[name]
    )
    saved = old_names(VAEGAN(config).state_dict())
    for make in (VAEGAN, lambda config: copy.deepcopy(VAEGAN(config))):
        model = make(config)
        assert not all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), saved.values(), strict=True))
        model.load_state_dict(saved)
        assert_same(model, saved)
    outer = torch.nn.Sequential(VAEGAN(config))
    outer.load_state_dict({f"0.{key}": value for key, value in saved.items()})
    assert_same(outer[0], saved)


def test_only_what_has_a_new_name_is_renamed():
    own = ("net.halvings.weight", "up_blocks.0.bias")
    weights = {"net.halvings.weight": 1, "doublings.0.bias": 2, "doublings.1.bias": 3}
    assert with_new_names(weights, own) == {"net.halvings.weight": 1, "up_blocks.0.bias": 2, "doublings.1.bias": 3}


def test_old_weights_of_another_architecture_are_refused(old_run):
    config = old_run / "model" / "config.json"
    text = config.read_text()
    config.write_text(text.replace('"generator_norm": "none"', '"generator_norm": "batch"'))
    assert config.read_text() != text
    with pytest.raises(CheckpointError, match="is of another architecture than the model: it has no generator.norms.0"):
        VAEGAN.from_pretrained(config.parent)
