"""The commands on diffusers' AutoencoderKL: ``train --preset kl-f4-64 | --init FOLDER``, and what takes such a run."""

import html
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command_line import refused

from sdgan_ext.cli import main
from sdgan_ext.report import write_report
from sdgan_ext.training.runs import load_model

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = ["--steps", "2", "--batch-size", "4", "--disc-start", "1", "--disc-warmup", "1"]
SIZES = ["--block-out-channels", "4,8", "--norm-num-groups", "4", "--discriminator-channels", "4,4"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run from random weights, and one that trains the decoder of it on."""
    out = tmp_path_factory.mktemp("runs")
    main(["train", "--data", "digits", "--preset", "kl-f4-64", "--image-size", "28", "--out", str(out), *STEPS, *SIZES])
    first = out / "00000-vaegan-digits"
    flags = ["--init", str(first), "--train", "decoder", "--discriminator-channels", "4,4", "--out", str(out)]
    main(["train", "--data", "digits", *flags, *STEPS])
    return first, out / "00001-vaegan-digits"


def test_a_run_is_opened_by_diffusers_and_its_decoder_trained_on(runs):
    first, second = (diffusers.AutoencoderKL.from_pretrained(run / "model").state_dict() for run in runs)
    moved = {name.split(".")[0] for name in first if not first[name].equal(second[name])}
    assert moved == {"decoder", "post_quant_conv"}
    config = yaml.safe_load((runs[1] / "config.yaml").read_text())
    assert config["model"]["model"] == "AutoencoderKL" and config["model"]["train"] == "decoder"
    assert config["train"]["objective"] == "hinge", "that of preset decoder-finetune"


@pytest.mark.parametrize(
    ("command", "flags", "file"),
    [
        ("sample", ["--seeds", "0-2", "--out", "OUT"], "grid.png"),
        ("interpolate", ["--seeds", "0-1", "--steps", "2", "--out", "OUT"], "interpolation.gif"),
        ("reconstruct", ["--data", "digits", "--count", "2", "--out", "OUT"], "reconstructions.png"),
        ("evaluate", ["--data", "digits", "--n", "8", "--metrics", "elbo,errors", "--json", "OUT/e.json"], "e.json"),
    ],
)
@pytest.mark.parametrize("of", ["run", "folder"])
def test_the_commands_take_a_run_and_a_folder_of_diffusers(runs, tmp_path, command, flags, file, of):
    model = runs[0] if of == "run" else runs[0] / "model"
    assert main([command, str(model), *(flag.replace("OUT", str(tmp_path)) for flag in flags)]) == 0
    assert (tmp_path / file).stat().st_size > 0


def test_a_run_goes_on_and_its_configuration_trains_another(runs, capsys, tmp_path):
    main(["train", "--resume", str(runs[1]), "--steps", "3", "--train", "decoder"])
    assert "3 steps taken" in capsys.readouterr().out
    main(["train", "--config", str(runs[0] / "config.yaml"), "--latent-channels", "8", "--dry-run"])
    planned = yaml.safe_load(capsys.readouterr().out)
    was = yaml.safe_load((runs[0] / "config.yaml").read_text())
    assert planned["model"] == {**was["model"], "latent_channels": 8}
    assert planned["train"] == was["train"]


def test_a_runs_own_file_and_its_report_begin_with_the_same_weights(runs, tmp_path):
    """They name the folder of --init: random weights in its place would train something else without a word."""
    text = (write_report(runs[1], tmp_path / "report.html")).read_text()
    assert "of diffusers' AutoencoderKL" in text
    command = shlex.split(html.unescape(re.search(r"<pre>(sdgan-ext train --data.*?)</pre>", text)[1]))
    for flags in (command[1:], ["train", "--config", str(runs[1] / "config.yaml")]):
        assert main([*flags, "--out", str(tmp_path)]) == 0
    newest, again = (load_model(path).state_dict() for path in sorted(tmp_path.glob("0*")))
    was = load_model(runs[1]).state_dict()
    assert all(was[name].equal(newest[name]) and was[name].equal(again[name]) for name in was)


def test_the_size_of_the_data_is_taken_and_the_channels_are_the_folders(runs, capsys):
    main(["train", "--data", "digits", "--init", str(runs[0]), "--image-size", "36", "--dry-run"])
    planned = yaml.safe_load(capsys.readouterr().out)
    assert (planned["model"]["image_size"], planned["model"]["channels"]) == ([36, 36], 1)
    assert planned["model"]["block_out_channels"] == [4, 8]


REFUSED = {
    "decoder of none": (["--train", "decoder"], "train is 'decoder', .* has random weights; .*--init"),
    "latent channels": (["--init", "RUN", "--latent-channels", "8"], "latent_channels is 8, but RUN/model has 4"),
    "another preset": (
        ["--init", "RUN", "--preset", "seed"],
        "--init is 'RUN'; preset 'seed' takes dcgan, glorot, tor",
    ),
    "no word": (["--init", "dgan", "--latent-dim", "8"], "--init is 'dgan'; preset 'mnist-small' takes dcgan, glorot"),
    "flag of others": (
        ["--preset", "kl-f4-64", "--latent-dim", "8"],
        "--latent-dim does not go with preset 'kl-f4-64'",
    ),
    "flag of these": (["--preset", "seed", "--fit-shift", "true"], "--fit-shift does not go with preset 'seed'"),
    "no such folder": (["--init", "nowhere"], "nowhere is no folder; it must be one that save_pretrained of diffusers"),
    "without config": (["--init", "EMPTY"], "EMPTY holds no config.json"),
    "VQ": (["--init", "VQ"], "config.json is of diffusers' 'VQModel'; only an AutoencoderKL is trained"),
    "GAN": (["--preset", "kl-f4-64", "--mode", "gan", "--disc-start", "0", "--disc-warmup", "0"], "mode"),
    "size": (["--preset", "kl-f4-64", "--image-size", "30"], "image_size is 30x30; .* must be multiples of 4"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_mistakes_end_in_a_sentence(runs, tmp_path, capsys, kind):
    flags, words = REFUSED[kind]
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "VQ").mkdir()
    (tmp_path / "VQ" / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    places = {"RUN": runs[0], "EMPTY": tmp_path / "EMPTY", "VQ": tmp_path / "VQ"}
    line = refused(capsys, "train", "--data", "digits", *(places.get(flag, flag) for flag in flags), "--dry-run")
    assert re.search(words.replace("RUN", str(runs[0])), line), line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["train", "--resume", "RUN", "--train", "decoder"], "--train is decoder, but the run has all"),
        (["train", "--resume", "RUN", "--init", "RUN"], "--init is RUN, but the run has None"),
        (["export", "RUN", "--format", "torch"], "the networks are those of diffusers' AutoencoderKL"),
        (
            ["tune", "--preset", "kl-f4-64", "--data", "digits", "--mode", "vae-gan"],
            "--preset is 'kl-f4-64', whose networks are",
        ),
    ],
)
def test_commands_refuse_what_such_a_run_cannot(runs, capsys, flags, words):
    assert words.replace("RUN", str(runs[0])) in refused(
        capsys, *(str(runs[0]) if flag == "RUN" else flag for flag in flags)
    )


def test_the_help_has_the_flags_of_both_kinds(capsys):
    main(["train", "--help"])
    shown = capsys.readouterr().out
    for flag in ("--init FOLDER", "--train all|decoder", "--block-out-channels N,N,...", "--latent-dim N"):
        assert flag in shown
    assert "--diffusers" not in shown


def test_importing_the_command_does_not_import_diffusers():
    code = "import sys, sdgan_ext.cli.train; print('diffusers' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ran.stdout == "False\n", ran.stderr
