"""``fit(..., profile=True)``: a trace that Chrome and TensorBoard open, with a range for each phase."""

import json

import pytest
from own import make_networks
from tiny import make_config, make_dataset, make_model

from sdgan_ext._errors import ConfigError
from sdgan_ext.cli import main
from sdgan_ext.training import profiling
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

PHASES = ("data", "forward", "discriminator", "encoder_generator", "optimizer", "average")


def profiled(out, steps, model=None, **config):
    trainer = Trainer(model or make_model(), make_config(steps=steps, **config), out=out, progress=True)
    return trainer.fit(make_dataset(), profile=True)


def ranges(path):
    """How often each of our ranges is in a trace."""
    events = json.loads(path.read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("ph") == "X" and event["name"].startswith("sdgan/")]
    return {name.removeprefix("sdgan/"): names.count(name) for name in names}


@pytest.mark.parametrize("make", [make_model, make_networks])
def test_ten_steps_with_a_range_for_each_phase(tmp_path, capsys, make):
    run = profiled(tmp_path, profiling.WARM_UP + profiling.STEPS + 2, make(), n_critic=2)
    (trace,) = (run.folder / "profile").iterdir()
    assert trace.name == "steps-00000006-00000015.pt.trace.json"
    counts = ranges(trace)
    assert set(PHASES) <= counts.keys()
    wanted = dict.fromkeys(PHASES, 10) | {"forward": 20, "discriminator": 20, "optimizer": 30}
    assert {name: counts[name] for name in PHASES} == wanted
    assert f"a trace of steps 6 to 15 is in {trace}" in capsys.readouterr().out


def test_a_profiled_run_ends_with_the_same_bits(tmp_path):
    run = profiled(tmp_path, 17)
    other = Trainer(make_model(), make_config(steps=17), out=tmp_path, progress=False).fit(make_dataset())
    assert not (other.folder / "profile").exists()
    assert (run.model / "model.safetensors").read_bytes() == (other.model / "model.safetensors").read_bytes()


def test_the_flag(tmp_path):
    flags = ["--steps", "7", "--batch-size", "4", "--image-size", "8", "--latent-dim", "4", "--profile"]
    assert main(["train", "--data", "digits", "--out", str(tmp_path), *flags]) == 0
    (trace,) = tmp_path.glob("*/profile/*.pt.trace.json")
    assert ranges(trace)["forward"] == 2


def test_a_short_run(tmp_path, capsys):
    (trace,) = (profiled(tmp_path, profiling.WARM_UP + 3).folder / "profile").iterdir()
    assert ranges(trace)["encoder_generator"] == 3 and trace.name == "steps-00000006-00000008.pt.trace.json"
    capsys.readouterr()
    assert not (profiled(tmp_path, 2).folder / "profile").exists()
    assert "no trace is written: the first 5 steps of a run warm up" in capsys.readouterr().out


def test_without_a_folder_there_is_nowhere_to_write():
    with pytest.raises(ConfigError, match="profile is True, but out is None"):
        profiled(None, 2)
