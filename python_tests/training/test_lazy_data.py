"""A training on images that are read lazily: the bits of one in memory, whatever they lie in, killed or not."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tiny import make_config, make_model

sys.path.append(str(Path(__file__).parents[1] / "data"))
from kinds import KINDS, as_kind, images_of, write_folder  # noqa: E402

from sdgan_ext._errors import ConfigError, DataError  # noqa: E402
from sdgan_ext.data import lazy  # noqa: E402
from sdgan_ext.training.state import list_checkpoints  # noqa: E402
from sdgan_ext.training.trainer import Trainer  # noqa: E402

#: An epoch has three steps of its 13 images: the middle of one is anywhere but after 3, 6 and 9 steps.
SETTINGS = {"crop": "random", "resize": 9, "augment": ("flip",), "sample_every": 100, "checkpoint_every": 2}


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "photos")


def train(out, data, steps=8, **settings):
    config = make_config(steps=steps, **{"cache": "none", **SETTINGS, **settings})
    return Trainer(make_model(channels=3), config, out=out, progress=False).fit(data)


def weights(run):
    return (run.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_in_the_middle_of_an_epoch_it_ends_in_the_same_bits(kind, folder, tmp_path):
    held = train(tmp_path / "held", folder, cache="memory")
    spec = as_kind(kind, folder)
    half = train(tmp_path / "half", spec, steps=5, workers=2)
    resumed = Trainer.resume(half.folder, steps=8, workers=1, progress=False).fit(spec)
    assert weights(resumed) == weights(held)
    assert weights(train(tmp_path / "other", spec, seed=1)) != weights(held)


HARNESS = """
import os, signal, sys, traceback, warnings
from pathlib import Path
import torch
torch.set_num_threads(1)
from tensorboard.summary.writer import event_file_writer  # imported before the forks, like all the rest
from test_lazy_data import SETTINGS, train, weights
from kinds import as_kind, write_folder
from sdgan_ext.training.runs import open_run
from sdgan_ext.training.trainer import Trainer

out = Path(sys.argv[1])


def kill(self, *arguments, step, **options):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return step_of(self, *arguments, step=step, **options)


def forked(function, *arguments, ends=0, **options):
    pid = os.fork()
    if pid == 0:
        try:
            function(*arguments, **options)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == ends


def resume(folder, spec):
    Trainer.resume(folder, workers=1, progress=False).fit(spec)


folder = write_folder(out / "photos")
forked(train, out / "whole", folder)
step_of = Trainer._step
for kind in ("folder", "zip", "shards"):
    spec = as_kind(kind, folder)
    Trainer._step = kill
    forked(train, out / kind, spec, workers=2, ends=-signal.SIGKILL)
    Trainer._step = step_of
    (run,) = (out / kind).iterdir()
    assert max(path.stem for path in run.glob("checkpoints/*")) == "step-00000004", kind
    forked(resume, run, spec)
    (whole,) = (out / "whole").iterdir()
    assert weights(open_run(run)) == weights(open_run(whole)), kind
    print(kind)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_and_resumed_it_ends_in_the_same_bits(tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1] / "data"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", HARNESS, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["folder", "zip", "shards"]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_run_keeps_the_index(kind, folder, tmp_path, monkeypatch):
    spec = as_kind(kind, folder)
    run = train(tmp_path / "runs", spec, steps=2)
    assert run.data_index.is_file()
    read, headers = lazy.read_header, []
    monkeypatch.setattr(lazy, "read_header", lambda *given: headers.append(given) or read(*given))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer.resume(run.folder, steps=3, progress=False).fit(spec)
    assert not headers
    (images_of(folder)[3] if kind == "folder" else spec).touch()
    with pytest.warns(UserWarning, match="changed since .*data-index.npz was made"):
        Trainer.resume(run.folder, steps=4, progress=False).fit(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Trainer.resume(run.folder, steps=5, progress=False).fit(spec)


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_in_the_log(folder, tmp_path, workers):
    bad = images_of(folder)[5]
    bad.write_bytes(bad.read_bytes()[:-60])
    with pytest.warns(UserWarning, match=f"{bad.name}.* stands in its place"):
        run = train(tmp_path / "runs", folder, max_bad=1, workers=workers)
    lines = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    (line,) = [line for line in lines if "unreadable" in line]
    assert line["image"] == 5 and bad.name in line["unreadable"]


@pytest.mark.parametrize("workers", [0, 2])
def test_steps_are_saved_before_data_that_break_end_the_training(folder, tmp_path, workers):
    whole = train(tmp_path / "whole", folder, checkpoint_every=100)
    run, broken = train(tmp_path / "runs", folder, steps=1, checkpoint_every=100), images_of(folder)
    content = [file.read_bytes() for file in broken]
    trainer = Trainer.resume(run.folder, steps=8, workers=workers, progress=False)
    step = trainer._step

    def spoil(*arguments, **options):
        if options["step"] == 2:
            for file in broken:
                file.write_bytes(b"")
        return step(*arguments, **options)

    trainer._step = spoil
    with pytest.raises(DataError, match="has changed since"):
        trainer.fit(folder)
    saved = list_checkpoints(run.checkpoints)[-1]
    assert saved.name > "step-00000002.pt"
    for file, bytes_ in zip(broken, content, strict=True):
        file.write_bytes(bytes_)
    with pytest.warns(UserWarning, match="13 files .* changed"):
        assert weights(Trainer.resume(run.folder, progress=False).fit(folder)) == weights(whole)


def test_images_that_a_program_hands_out_are_not_cropped(folder):
    dataset = torch.utils.data.TensorDataset(torch.zeros(8, 3, 8, 8))
    for changes in ({"crop": "random"}, {"resize": 9}):
        trainer = Trainer(make_model(channels=3), make_config(**changes), out=None, progress=False)
        with pytest.raises(ConfigError, match=f"{next(iter(changes))} is .*TensorDataset"):
            trainer.fit(dataset)


def test_the_prior_is_that_of_images_in_memory(folder, tmp_path):
    runs = []
    for cache in ("memory", "none"):
        config = make_config(steps=2, cache=cache, crop="random", resize=9)
        model = make_model(channels=3, prior_rank=2)
        runs.append(Trainer(model, config, out=tmp_path / cache, progress=False).fit(folder))
    assert weights(runs[0]) == weights(runs[1])
