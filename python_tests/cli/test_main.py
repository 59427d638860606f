"""The command line as a whole: its help, and that a mistake is one sentence on stderr and exit code 2."""

import importlib
import subprocess
import sys

import pytest
from command_line import ROOT, refused

from sdgan_ext.cli import COMMANDS, main


def test_help_and_version_do_not_wait_for_torch():
    code = "import sys; from sdgan_ext.cli import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    for argv, words in ((["--help"], "examples:"), (["sample", "--help"], "--seeds"), ([], "commands:")):
        process = subprocess.run([sys.executable, "-c", code, *argv], cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 0 and words in process.stdout, process.stderr


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sdgan_ext 0.")


def test_train_help_has_a_flag_for_every_field(capsys):
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in ("--mode gan|vae|vae-gan", "--lr-discriminator X", "--image-size HxW", "--encoder-channels N,N,..."):
        assert flag in out


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
        (
            "train --data digitz",
            "'digitz' is neither a name (mnist, digits, digits-scenes, emoji) nor a folder or file that exists",
        ),
        ("train --data digits --preset dcgan-64", "preset 'dcgan-64' is for images of 64x64, digits has 28x28; add"),
        ("train --data digits --device tpu", "--device is tpu; it must be cpu, cuda or cuda:N"),
        ("train --data digits --device meta", "--device is meta; it must be cpu, cuda or cuda:N"),
        ("train --data digits --device cuda:99", "--device is cuda:99, but "),
        ("train --data digits --image-size 2", "encoder_channels is (16, 32, 64), 3 down blocks, but an image of 2x2"),
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


def test_a_wrong_environment_variable_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setenv("SDGAN_CPU_ISA", "avx3")
    assert "SDGAN_CPU_ISA is 'avx3'; allowed are auto" in refused(capsys, "doctor")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_file_and_a_line(name, capsys):
    """What docs/design.md promises of a new command: these two functions, and a line in COMMANDS."""
    command = importlib.import_module(f"sdgan_ext.cli.{name}")
    assert callable(command.add_arguments) and callable(command.run)
    assert main([name, "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith(f"usage: sdgan-ext {name} ") and COMMANDS[name] in out
    assert main(["--help"]) == 0
    assert f"  {name:{max(map(len, COMMANDS))}}  {COMMANDS[name]}\n" in capsys.readouterr().out
