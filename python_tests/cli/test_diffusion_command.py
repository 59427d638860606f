"""``sdgan-ext train`` and ``sample`` of latent diffusion models: on an autoencoder that is there, or in two stages."""

import json
import shutil

import numpy as np
import pytest
import yaml
from command_line import refused, weights
from PIL import Image

import sdgan_ext as sd
from sdgan_ext import presets
from sdgan_ext.cli import main
from sdgan_ext.report.command import train_command
from sdgan_ext.training.diffusion_trainer import DiffusionTrainer
from sdgan_ext.training.runs import load_model, open_run
from sdgan_ext.training.trainer import Trainer

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("one_thread")

AUTOENCODER = sd.AutoencoderConfig(
    image_size=16,
    channels=1,
    latent_channels=2,
    block_out_channels=(8, 8),
    norm_num_groups=4,
    discriminator_channels=None,
)
STEPS = {"steps": 4, "batch_size": 4, "log_every": 2, "checkpoint_every": 2, "sample_every": 100}
NETWORKS = {
    **dict(block_out_channels=(8,), norm_num_groups=4, attention_heads=2, text_width=8),
    **dict(text_layers=1, text_heads=2, sampling_steps=2),
}


@pytest.fixture(autouse=True)
def _tiny_presets(monkeypatch):
    train = sd.TrainConfig(mode="vae", pad=2, **STEPS)
    monkeypatch.setitem(presets.PRESETS, "tiny-kl", presets.Preset(AUTOENCODER, train))
    flow = sd.DiffusionTrainConfig(captions="a {class}", pad=2, **STEPS)
    tiny = presets.DiffusionPreset(sd.LatentDiffusionConfig(**NETWORKS), flow, "tiny-kl")
    monkeypatch.setitem(presets.DIFFUSION_PRESETS, "tiny-ldm", tiny)


@pytest.fixture(scope="module")
def dots(tmp_path_factory):
    """12x12 images of three classes, which are padded to 16x16."""
    path = tmp_path_factory.mktemp("data") / "dots.npz"
    images = np.random.default_rng(0).integers(0, 256, (18, 12, 12), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(18) % 3)
    return path


def train(*arguments):
    assert main(["train", *map(str, arguments)]) == 0


def both(dots, *more):
    train("--data", dots, "--preset", "tiny-ldm", "--out", "runs", *more)


RUNS = ("00000-vae-dots.npz", "00001-ldm-dots.npz")


def steps_of(run):
    return max(int(path.stem[5:]) for path in (run / "checkpoints").glob("*.pt"))


@pytest.fixture
def run(dots, tmp_path):
    both(dots)
    return tmp_path / "runs" / RUNS[1]


# ----------------------------------------------------------------------------------------------------------- training
def test_two_stages(run, dots, tmp_path, capsys):
    out = tmp_path / "runs"
    assert sorted(path.name for path in out.iterdir()) == list(RUNS)
    config = open_run(run).read_config()
    assert config["model"]["autoencoder"] == str(out / RUNS[0])
    assert config["model"]["class_captions"] == ["a 0", "a 1", "a 2"] and config["model"]["pad"] == 2
    assert (run / "pipeline" / "model_index.json").is_file()
    # What was trained first is what a call with --autoencoder takes: the same run.
    train("--data", dots, "--preset", "tiny-ldm", "--out", "again", "--autoencoder", out / RUNS[0])
    assert weights(run) == weights(tmp_path / "again" / "00000-ldm-dots.npz")


def test_flags_reach_their_stage(dots, tmp_path):
    both(dots, "--seed", 7, "--steps", 2, "--text-width", 16, "--condition-dropout", 0.5, "--pad", 2, "--flip")
    first, second = (open_run(tmp_path / "runs" / name).read_config() for name in RUNS)
    assert (first["train"]["seed"], first["train"]["steps"], first["train"]["augment"]) == (7, 4, ["flip"])
    assert (second["train"]["seed"], second["train"]["steps"], second["train"]["augment"]) == (7, 2, ["flip"])
    assert second["model"]["text_width"] == 16 and second["train"]["condition_dropout"] == 0.5


class Killed(BaseException):
    """As a process that is gone: nothing is saved."""


def dies(monkeypatch, kind, at):
    """The process ends before step ``at`` of such a training."""
    plain = kind._step

    def step(self, *arguments, step, **options):
        if step == at:
            raise Killed
        return plain(self, *arguments, step=step, **options)

    monkeypatch.setattr(kind, "_step", step)


@pytest.mark.parametrize(
    ("kind", "at", "stage"), [(Trainer, 3, 0), (DiffusionTrainer, 0, 1), (DiffusionTrainer, 3, 1)], ids=str
)
@pytest.mark.parametrize("resumed", ["autoencoder", "flow"])
def test_a_run_that_was_killed_goes_on_in_either_stage(kind, at, stage, resumed, dots, tmp_path, monkeypatch):
    """By its first run, as by the one that was being trained; nothing is trained twice."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies(patch, kind, at)
        both(dots, "--seed", 3, "--text-width", 16)
    if stage == 0 and resumed == "flow":
        assert not (tmp_path / "runs" / RUNS[1]).exists()
        return
    train("--resume", tmp_path / "runs" / RUNS[0 if resumed == "autoencoder" else 1])
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == list(RUNS)
    assert [steps_of(tmp_path / "runs" / name) for name in RUNS] == [4, 4]
    killed = (tmp_path / "runs").rename(tmp_path / "killed")
    both(dots, "--seed", 3, "--text-width", 16)
    assert weights(killed / RUNS[1]) == weights(tmp_path / "runs" / RUNS[1])


def test_a_dry_run_writes_nothing(dots, tmp_path, capsys):
    both(dots, "--dry-run")
    assert "AutoencoderKL" in capsys.readouterr().out and not (tmp_path / "runs").exists()


def test_an_autoencoder_says_how_images_are_read(run, dots, tmp_path):
    """Padding is that of its run, whatever the preset has."""
    train("--data", dots, "--preset", "tiny-kl", "--out", "wide", "--image-size", 20, "--pad", 4)
    train("--data", dots, "--preset", "tiny-ldm", "--out", "flow", "--autoencoder", "wide/00000-vae-dots.npz")
    config = open_run(tmp_path / "flow" / "00000-ldm-dots.npz").read_config()
    assert config["train"]["pad"] == config["model"]["pad"] == 4 and config["model"]["image_size"] == [20, 20]


@pytest.mark.parametrize("part", ["model", "autoencoder", "pipeline"])
def test_the_folder_of_an_autoencoder_does_too(run, dots, tmp_path, part):
    folder = (run.parent / RUNS[0] if part == "model" else run) / part
    train("--data", dots, "--preset", "tiny-ldm", "--out", "other", "--autoencoder", folder)
    assert load_model(tmp_path / "other" / "00000-ldm-dots.npz").config.latent_shape == (2, 8, 8)


def test_the_configuration_of_a_run_makes_it_again(run, tmp_path):
    train("--config", run / "config.yaml", "--preset", "tiny-ldm", "--out", "again")
    assert weights(run) == weights(tmp_path / "again" / "00000-ldm-dots.npz")


def test_the_report_has_its_command(run):
    command = train_command(yaml.safe_load((run / "config.yaml").read_text()))
    assert f"--autoencoder {run.parent / RUNS[0]}" in command and "--preset tiny-ldm" in command
    assert main(["report", str(run)]) == 0


def test_going_on(run, capsys):
    train("--resume", run, "--steps", 6)
    assert steps_of(run) == 6
    assert "has 0.1" in refused(capsys, "train", "--resume", run, "--condition-dropout", 0.2)
    assert "--gamma does not go with the run" in refused(capsys, "train", "--resume", run, "--gamma", 2)
    assert "--latent-dim does not go with the run" in refused(capsys, "train", "--resume", run, "--latent-dim", 2)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset", "tiny-ldm", "--gamma", 1], "--gamma does not go with preset 'tiny-ldm', which is a diffusion"),
        (["--preset", "tiny-ldm", "--image-size", 8], "--image-size does not go with preset 'tiny-ldm'"),
        (["--preset", "tiny-ldm", "--init", "FOLDER"], "--init does not go with preset 'tiny-ldm'"),
        (["--preset", "tiny-kl", "--lr", 1], "--lr does not go with preset 'tiny-kl', which is no diffusion model's"),
        (["--preset", "tiny-kl", "--text-width", 8], "--text-width does not go with preset 'tiny-kl'"),
        (["--preset", "tiny-kl", "--autoencoder", "RUN"], "--autoencoder does not go with preset 'tiny-kl'"),
        (["--preset", "tiny-ldm", "--autoencoder", "none"], "there is no run none"),
        (["--preset", "tiny-ldm", "--captions", "a dot"], "captions is 'a dot', it must have {class} in it"),
        (["--preset", "tiny-ldm", "--augment", "shift"], "augment has 'shift', but images are encoded once"),
        (["--preset", "tiny-lmd"], "there is no preset 'tiny-lmd', did you mean 'tiny-ldm'?"),
    ],
)
def test_flags_that_do_not_go_together(dots, capsys, flags, words, tmp_path):
    words_of = refused(capsys, "train", "--data", dots, "--out", "runs", *flags)
    assert words in words_of
    if "captions" not in words:  # which the autoencoder, trained first, has no use for
        assert not (tmp_path / "runs").exists()


def test_data_that_say_nothing_of_what_they_show(run, tmp_path, capsys):
    np.savez(tmp_path / "bare.npz", np.zeros((8, 12, 12), np.uint8))
    said = refused(capsys, "train", "--data", "bare.npz", "--preset", "tiny-ldm", "--autoencoder", run.parent / RUNS[0])
    assert "bare.npz has neither captions nor labels" in said


def test_tune_takes_the_others(dots, capsys):
    said = refused(capsys, "tune", "--data", dots, "--preset", "tiny-ldm")
    assert "--preset is 'tiny-ldm', whose networks are diffusers'; tune takes the others" in said


# ----------------------------------------------------------------------------------------------------------- sampling
def test_pictures_of_captions(run, tmp_path, capsys):
    assert main(["sample", str(run), "a 1", "a 2", "--guidance", "2", "--steps", "3", "--seeds", "0-3"]) == 0
    folder = run / "generated"
    names = {f"caption{c:02d}-seed{s:04d}.png" for c in range(2) for s in range(4)}
    assert {path.name for path in folder.iterdir()} == {"grid.png", *names}
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (4 * 14 - 2, 2 * 14 - 2)  # 12x12, without what was added around the images
    want = load_model(run).sample(captions="a 2", seeds=[3], steps=3, guidance=2.0)
    with Image.open(folder / "caption01-seed0003.png") as picture:
        assert (np.array(picture) == sd.data.to_uint8(want)[0, 0, 2:-2, 2:-2].numpy()).all()


def test_pictures_of_classes(run):
    assert main(["sample", str(run), "--seeds", "5,6", "--labels", "2", "--out", "here"]) == 0
    want = load_model(run).sample(labels=[2, 2], seeds=[5, 6])
    with Image.open("here/seed0006.png") as picture:
        assert (np.array(picture) == sd.data.to_uint8(want)[1, 0, 2:-2, 2:-2].numpy()).all()


def test_what_a_caption_cannot_say(run, capsys):
    assert main(["sample", str(run), "a seven of 1", "--seeds", "0"]) == 0
    said = capsys.readouterr().err
    assert "the model has never seen 'seven', 'of'" in said and "what follows is cut" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a 1", "--labels", "2"], "captions and --labels are both given"),
        (["--labels", "3"], "--labels has 3; this model's are 0 to 2"),
        (["a 1", "--negative", "a 2"], "guidance is 1, at which a negative condition does nothing"),
        (["a 1", "--steps", "0"], "steps is 0; it must be an integer from 1 to 1000"),
        (["a 1", "--solver", "fast"], "solver is 'fast'; allowed are"),
        (["a 1", "--guidance", "-1"], "guidance is -1.0; it must be"),
    ],
)
def test_what_cannot_be_sampled(run, capsys, words, said):
    assert said in refused(capsys, "sample", run, *words)


def test_other_models_have_no_captions(run, capsys):
    first = run.parent / RUNS[0]
    assert "the caption 'a 1' is given, but" in refused(capsys, "sample", first, "a 1")
    assert "--guidance is given, but" in refused(capsys, "sample", first, "--guidance", "2")


@pytest.mark.parametrize("command", [["interpolate"], ["export"], ["reconstruct", "--data", "DATA"]], ids=str)
def test_commands_that_take_no_diffusion_model(run, dots, capsys, command):
    name, *more = (str(dots) if word == "DATA" else word for word in command)
    assert "is of a latent diffusion model, which sample and evaluate take" in refused(capsys, name, run, *more)


def test_guidance_of_a_model_without(dots, capsys, tmp_path):
    both(dots, "--condition-dropout", 0)
    assert "guidance needs a model with a null condition" in refused(
        capsys, "sample", tmp_path / "runs" / RUNS[1], "a 1", "--guidance", 2
    )


def test_a_run_with_parts_missing(run, capsys):
    shutil.rmtree(run / "autoencoder")
    assert "lacks the folder autoencoder" in refused(capsys, "sample", run, "a 1")
    assert "lacks the folder autoencoder" in refused(capsys, "train", "--resume", run, "--steps", 8)


# --------------------------------------------------------------------------------------------------------- evaluation
def test_evaluation_asks_for_the_datas_captions(run, dots, tmp_path, monkeypatch, capsys):
    """12x12 images are too small for the feature net; what the model is asked for is looked at instead."""
    asked = {}

    def prepared(model, dataset, **options):
        asked.update(options, size=dataset.image_size, captions=list(dataset.captions))
        return None, []

    monkeypatch.setattr("sdgan_ext.cli.evaluate.prepare", prepared)
    monkeypatch.setattr("sdgan_ext.cli.evaluate.take", lambda context, names: {"lenet-fd": 1.0})
    assert main(["evaluate", str(run), "--data", str(dots), "--split", "train", "--json", "e.json"]) == 0
    assert asked["pad"] == 2 and asked["size"] == (16, 16) and asked["captions"] == ["a 0", "a 1", "a 2"]
    assert json.loads((tmp_path / "e.json").read_text())["settings"]["pad"] == 2
