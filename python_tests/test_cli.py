"""The command line: what it does, and that a mistake is one sentence on stderr and exit code 2."""

import builtins
import errno
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from sdgan_ext import _files, cli
from sdgan_ext._errors import DataError
from sdgan_ext.cli import main
from sdgan_ext.models import VAEGAN
from sdgan_ext.training.state import list_checkpoints

TINY = [
    *("--steps", "4", "--batch-size", "4", "--latent-dim", "4", "--encoder-channels", "4", "--log-every", "2"),
    *("--generator-channels", "4", "--discriminator-channels", "4,", "--feature-layer", "0", "--checkpoint-every", "2"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "dots.npz"
    np.savez(path, np.random.default_rng(0).integers(0, 256, (16, 8, 10, 3), dtype=np.uint8))
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, data):
    out = tmp_path_factory.mktemp("runs")
    assert main(["train", "--data", data, "--out", str(out), *TINY]) == 0
    return out / "00000-vaegan-dots.npz"


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def refused(capsys, *argv, code=2):
    """The one sentence that the command line ``argv`` is refused with."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == code
    streams = capsys.readouterr()
    (line,) = streams.err.splitlines()
    assert line.startswith("sdgan-ext: ")
    return line


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()


# ------------------------------------------------------------------------------------------------------- help
def test_help_and_version_do_not_wait_for_torch():
    code = "import sys; from sdgan_ext.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    for argv, words in ((["--help"], "examples:"), (["sample", "--help"], "--seeds"), ([], "commands:")):
        process = subprocess.run([sys.executable, "-c", code, *argv], cwd=_root(), capture_output=True, text=True)
        assert process.returncode == 0 and words in process.stdout, process.stderr


def _root():
    return os.path.dirname(os.path.dirname(os.path.abspath(cli.__file__)))


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sdgan_ext 0.")


def test_train_help_has_a_flag_for_every_field(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--mode gan|vae|vae-gan", "--lr-discriminator X", "--image-size HxW", "--encoder-channels N,N,..."):
        assert flag in out


# ------------------------------------------------------------------------------------------------------ train
def test_train_follows_the_data(run):
    config = json.loads((run / "model" / "config.json").read_text())
    assert (config["image_size"], config["channels"]) == ([8, 10], 3)
    assert (config["encoder_channels"], config["discriminator_channels"]) == ([4], [4])
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000002.pt", "step-00000004.pt"]


def test_train_fits_the_data_to_what_is_asked_for(data, capsys):
    assert main(["train", "--data", data, *TINY, "--image-size", "12x16", "--channels", "1", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "image_size: [12, 16]" in out and "channels: 1" in out


def test_dry_run_writes_nothing(data, capsys, tmp_path):
    assert main(["train", "--data", data, *TINY, "--mode", "gan", "--betas", "0.1,0.9", "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in ("mode: gan", "betas: [0.1, 0.9]", "encoder_channels: null", "generator: ", "total: ", data):
        assert words in out
    assert not list(tmp_path.iterdir())


def test_the_same_command_makes_the_same_model(run, data, tmp_path):
    assert main(["train", "--data", data, "--out", str(tmp_path), *TINY]) == 0
    assert weights(tmp_path / run.name) == weights(run)


def test_resume_goes_on_to_the_same_bits(data, tmp_path, monkeypatch):
    out = str(tmp_path / "runs")
    monkeypatch.chdir(os.path.dirname(data))
    assert main(["train", "--data", "dots.npz", "--out", out, *TINY]) == 0
    monkeypatch.chdir(tmp_path)  # the data are found from another folder
    run = tmp_path / "runs" / "00000-vaegan-dots.npz"
    assert main(["train", "--resume", str(run), "--steps", "7", "--batch-size", "4", "--data", data]) == 0
    assert main(["train", "--data", data, "--out", out, *TINY, "--steps", "7"]) == 0
    assert weights(run) == weights(tmp_path / "runs" / "00001-vaegan-dots.npz")


def test_a_training_flushes_denormals_and_what_follows_does_not(monkeypatch):
    from sdgan_ext.training import command

    def smallest():
        return (torch.tensor([1e-30]) * 1e-10).item()

    seen = []
    monkeypatch.setattr(command, "train", lambda arguments: seen.append(smallest()))
    assert main(["train", "--data", "digits"]) == 0
    assert seen == [0.0] and smallest() > 0


def test_auto_data_is_mnist_or_else_digits(monkeypatch, capsys):
    from sdgan_ext.training import command

    opened = command.open_dataset

    def offline(spec, **options):
        if spec == "mnist":
            raise DataError("no mirror answers")
        return opened(spec, **options)

    monkeypatch.setattr(command, "open_dataset", offline)
    assert main(["train", "--data", "auto", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "MNIST cannot be had (no mirror answers); rendered digits take its place" in out and "source: digits" in out


# ---------------------------------------------------------------------------------------------------- pictures
def test_sample(run, tmp_path, capsys):
    assert main(["sample", str(run), "--seeds", "0-2,7"]) == 0
    assert main(["sample", str(run / "model"), "--seeds", "7", "--out", str(tmp_path / "o")]) == 0
    made = sorted(path.name for path in (run / "generated").iterdir())
    assert made == ["grid.png", "seed0000.png", "seed0001.png", "seed0002.png", "seed0007.png"]
    alone = (tmp_path / "o" / "seed0007.png").read_bytes()
    assert alone == (run / "generated" / "seed0007.png").read_bytes()
    with Image.open(tmp_path / "o" / "seed0007.png") as picture:
        assert (picture.size, picture.mode) == ((10, 8), "RGB")
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    image = VAEGAN.from_pretrained(run / "model").sample(1, seed=7)[0]
    assert (image.add(1).mul(127.5).round() - pixels).abs().max() <= 1


def test_reconstruct(run, data, capsys):
    assert main(["reconstruct", str(run), "--data", data, "--count", "5"]) == 0
    assert "5 images above their reconstructions, PSNR" in capsys.readouterr().out
    with Image.open(run / "generated" / "reconstructions.png") as picture:
        assert picture.size == (4 * 12 - 2, 4 * 10 - 2)


def test_interpolate(run):
    assert main(["interpolate", str(run), "--seeds", "3,1,5", "--steps", "4"]) == 0
    with Image.open(run / "generated" / "interpolation.png") as picture:
        assert picture.size == (4 * 12 - 2, 2 * 10 - 2)
    with Image.open(run / "generated" / "interpolation.gif") as picture:
        assert picture.n_frames == 12  # 7 images there, and back


def test_a_conditional_model(tmp_path, capsys):
    path = tmp_path / "two.npz"
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 10, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(16) % 2)
    assert main(["train", "--data", str(path), "--out", str(tmp_path), *TINY, "--classes", "2"]) == 0
    run = tmp_path / "00000-vaegan-two.npz"
    assert main(["sample", str(run), "--seeds", "7,7,7"]) == 0  # of classes 0, 1, 0
    assert main(["sample", str(run), "--seeds", "7", "--labels", "1", "--out", str(tmp_path / "one")]) == 0
    image = VAEGAN.from_pretrained(run / "model").sample(1, labels=1, seed=7)[0]
    with Image.open(tmp_path / "one" / "seed0007.png") as picture:
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    assert (image.add(1).mul(127.5).round() - pixels).abs().max() <= 1
    assert main(["reconstruct", str(run), "--data", str(path), "--count", "3"]) == 0
    assert main(["interpolate", str(run), "--seeds", "1,2,3", "--labels", "0-1", "--steps", "3"]) == 0
    assert "--labels has 5; this model's are 0 to 1" in refused(capsys, "sample", run, "--labels", "5")
    assert "--labels is 'x'; it must be like" in refused(capsys, "sample", run, "--labels", "x")
    bare = tmp_path / "bare.npz"
    np.savez(bare, images)
    assert "the model needs its labels, 0 to 1" in refused(capsys, "reconstruct", run, "--data", bare)
    assert "bare.npz has no labels" in refused(capsys, "train", "--data", bare, *TINY, "--classes", "2")


# ------------------------------------------------------------------------------------------------- config files
def test_a_config_file_says_what_flags_say(run, data, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        f"data: {data}\nout: {tmp_path}\nsteps: 4\nbatch-size: 4\nlatent_dim: 4\nencoder-channels: [4]\n"
        "generator-channels: [4]\ndiscriminator-channels: 4,\nfeature-layer: 0\ncheckpoint-every: 2\n"
    )
    assert main(["train", "--config", str(file)]) == 0
    assert weights(tmp_path / run.name) == weights(run)


def test_a_run_is_repeated_by_its_own_config(run, tmp_path):
    assert main(["train", "--config", str(run / "config.yaml"), "--out", str(tmp_path)]) == 0
    assert weights(tmp_path / run.name) == weights(run)


def test_a_flag_decides_beside_a_config_file(data, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(
        f"data: {{source: {data}}}\npreset: seed\nthreads: 1\nnegative_slope: 1e-1\n"
        "train:\n  lr-encoder: 1e-3\n  diffaugment: color,cutout\n  kl_weight: 2\n  batch-size: 4\n"
        "model:\n  discriminator_channels: [4, 4, 4, 4, 4]\n  image-size: 8x10\n"
    )
    flags = ["--mode", "vae", "--kl-weight", "3", "--discriminator-channels", "none"]
    assert main(["train", "--config", str(file), *flags, "--dry-run"]) == 0
    out = capsys.readouterr().out
    for words in ("lr_encoder: 0.001", "diffaugment: [color, cutout]", "kl_weight: 3.0", "negative_slope: 0.1",
                  "discriminator_channels: null", "kernel_size: 5"):  # fmt: skip
        assert words in out
    file.write_text(out)  # a dry run says what it would do as a file that does it
    assert main(["train", "--config", str(file), "--dry-run"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr-encoderr: 1", "lr-encoderr is not a flag of sdgan-ext train, did you mean 'lr_encoder'?"),
        ("train: {latent_dim: 3}", "train.latent_dim is not a flag of sdgan-ext train"),
        ("resume: x", "resume is not a flag of sdgan-ext train"),
        ("train: 3", "train holds a int; it must be a mapping"),
        ("- 3", "holds a list; it must be a mapping of flags to values"),
        ("a: [", "is no YAML: "),
        ("train: {format_version: 99}", "format_version is 99, this sdgan_ext reads up to 1"),
        ("steps: many", "steps is 'many'; it must be an integer, at least 1"),
        ("threads: many", "threads is 'many'; it must be an integer"),
        ("data: 5", "data is 5; it must be text"),
        ("preset: [a]", "preset is ['a']; it must be text"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_sentence(text, words, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(text + "\n")
    assert words in refused(capsys, "train", "--config", "c.yaml", "--data", "digits")


def test_a_config_file_that_is_not_there(capsys, run):
    assert "cannot read --config nowhere: No such file" in refused(capsys, "train", "--config", "nowhere")
    assert "--config cannot be given with --resume" in refused(capsys, "train", "--resume", run, "--config", "x")


# ---------------------------------------------------------------------------------------------------- mistakes
@pytest.mark.parametrize(
    "argv, words",
    [
        ("trian", "'trian' is not a command, did you mean 'train'?"),
        ("--thread 2", "--thread is not a flag of sdgan-ext"),
        (
            "train --data digits --bach-size 4",
            "--bach-size is not a flag of sdgan-ext train, did you mean '--batch-size'",
        ),
        ("train --data digits --step=4", "--step is not a flag of sdgan-ext train, did you mean '--steps'?"),
        ("train --data digits --preset mnist-smal", "no preset 'mnist-smal', did you mean 'mnist-small'?"),
        ("train --data digits --mode gna", "mode is 'gna'; allowed are 'gan', 'vae', 'vae-gan', did you mean 'gan'?"),
        ("train --data digits --steps many", "steps is 'many'; it must be an integer, at least 1"),
        ("train --data digits --steps 0", "steps is 0; it must be an integer, at least 1"),
        ("train --data digits --steps", "argument --steps: expected one argument"),
        ("train --data digits --betas 0.5", "betas is (0.5,); it must be a sequence of 2 numbers"),
        ("train --data digits --threads 0", "--threads is 0; it must be at least 1"),
        ("train --data digits 5", "'5' is one argument too many"),
        ("train", "--data is missing: mnist, digits"),
        ("train --data digitz", "'digitz' is neither a name (mnist, digits) nor a folder or file that exists"),
        ("train --data digits --preset dcgan-64", "preset 'dcgan-64' is for images of 64x64, digits has 28x28; add"),
        ("train --data digits --device tpu", "--device is tpu; it must be cpu, cuda or cuda:N"),
        ("train --data digits --device meta", "--device is meta; it must be cpu, cuda or cuda:N"),
        ("train --data digits --device cuda:99", "--device is cuda:99, but "),
        ("train --data digits --image-size 2", "encoder_channels is (16, 32, 64), 3 halvings, but an image of 2x2"),
        ("train --data empty", "holds neither IDX files"),
        ("train --resume nowhere", "there is no run nowhere"),
        ("train --resume empty --steps 3", "empty is no run folder"),
        ("sample", "the following arguments are required: RUN"),
        ("sample nowhere", "there is no run nowhere"),
        ("sample empty", "empty is no run folder"),
        ("reconstruct empty", "the following arguments are required: --data"),
        ("interpolate empty --steps x", "argument --steps: invalid int value: 'x'"),
    ],
)
def test_a_mistake_is_one_sentence(argv, words, capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    assert words in refused(capsys, *argv.split())
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--batch-size 8", "--batch-size is 8, but the run has 4"),
        ("--latent-dim 5", "--latent-dim is 5, but the run has 4"),
        ("--data digits", "--data is digits, but the run has"),
        ("--preset seed", "--preset cannot be given with --resume"),
        ("--out x", "--out cannot be given with --resume"),
        ("--steps 3", "steps is 3, but 4 have been taken"),
    ],
)
def test_resume_refuses_what_contradicts_the_run(run, flags, words, capsys):
    assert words in refused(capsys, "train", "--resume", run, *flags.split())


@pytest.mark.parametrize(
    "command, words",
    [
        ("sample --seeds 5-2", "--seeds is '5-2'; it must be like 0-31 or 1,5,7"),
        ("sample --seeds a", "--seeds is 'a'"),
        ("interpolate --seeds 4", "a walk needs two seeds or more"),
        ("interpolate --steps 1", "--steps is 1; it must be at least 2"),
        ("reconstruct --data digits --count 0", "--count is 0; it must be at least 1"),
        ("reconstruct --data nowhere", "'nowhere' is neither a name"),
        ("sample --out /dev/null/x", "Not a directory"),
    ],
)
def test_mistakes_about_a_good_run(run, command, words, capsys):
    name, *flags = command.split()
    assert words in refused(capsys, name, run, *flags)


def test_a_gan_cannot_reconstruct(data, tmp_path, capsys):
    assert main(["train", "--data", data, "--out", str(tmp_path), *TINY, "--mode", "gan"]) == 0
    words = refused(capsys, "reconstruct", tmp_path / "00000-gan-dots.npz", "--data", data)
    assert "has no encoder" in words


def test_damaged_models_are_sentences(run, tmp_path, capsys):
    copy = tmp_path / "model"
    copy.mkdir()
    for name in ("config.json", "model.safetensors"):
        (copy / name).write_bytes((run / "model" / name).read_bytes())
    (copy / "model.safetensors").write_bytes(weights(run)[:-9])
    assert "model.safetensors is damaged" in refused(capsys, "sample", copy)
    (copy / "config.json").write_text("{")
    assert "config.json is damaged" in refused(capsys, "sample", copy)


def test_a_wrong_environment_variable_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setenv("SDGAN_CPU_ISA", "avx3")
    assert "SDGAN_CPU_ISA is 'avx3'; allowed are auto" in refused(capsys, "doctor")


def test_a_divergence_is_one_sentence_and_exit_code_1(data, capsys):
    flags = "--lr-encoder 1e30 --lr-generator 1e30 --steps 50".split()
    words = refused(capsys, "train", "--data", data, *TINY, *flags, code=1)
    assert "diverged at step" in words and "the last good checkpoint is" in words


def test_a_full_disk_while_saving_is_one_sentence_and_the_old_checkpoint_stays(data, tmp_path, monkeypatch, capsys):
    class Full:
        """Has no room for a checkpoint of step 4."""

        def __init__(self, path, mode):
            self.file = builtins.open(path, mode)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def write(self, content):
            if "step-00000004" in self.file.name:
                self.file.write(content[:100])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.file.write(content)

    monkeypatch.setattr(_files, "open", Full, raising=False)
    words = refused(capsys, "train", "--data", data, "--out", tmp_path, *TINY)
    checkpoints = tmp_path / "00000-vaegan-dots.npz" / "checkpoints"
    assert "step-00000004.pt: No space left on device; " in words and "step-00000002.pt" in words
    assert sorted(os.listdir(checkpoints)) == ["step-00000000.pt", "step-00000002.pt"]
    monkeypatch.undo()
    assert main(["train", "--resume", str(checkpoints.parent)]) == 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_saves_and_leaves_with_130(data, tmp_path):
    endless = "--steps 1000000 --checkpoint-every 100000".split()
    argv = ["train", "--data", data, "--out", str(tmp_path), *TINY, *endless]
    process = subprocess.Popen(
        [sys.executable, "-m", "sdgan_ext", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": _root(), "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout.readline().startswith("step 2/1000000")
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err and "finishing this step and saving" in err
    assert "steps taken" in out and "train --resume" in out
    folder = tmp_path / "00000-vaegan-dots.npz"
    last = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"]
    assert list_checkpoints(folder / "checkpoints")[-1].name == f"step-{last:08d}.pt"
    assert VAEGAN.from_pretrained(folder / "model").config.latent_dim == 4
