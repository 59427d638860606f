"""Run folders: numbered, never shared, never overwritten, other folders refused in a sentence."""

import os
import threading

import pytest
import torch
from tiny import make_config, make_dataset, make_model

from sdgan_ext._errors import CheckpointError
from sdgan_ext.models import VAEGAN
from sdgan_ext.training.runs import create_run, load_model, open_run, resolve_source
from sdgan_ext.training.trainer import Trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Trainer(make_model(), make_config(), out=tmp_path_factory.mktemp("runs"), progress=False).fit(make_dataset())


def test_numbers_go_up_and_nothing_is_overwritten(tmp_path):
    first = create_run(tmp_path / "a" / "runs", "vaegan-mnist")
    (first.folder / "mine").touch()
    second = create_run(tmp_path / "a" / "runs", "gan-a b/c")
    assert (first.folder.name, second.folder.name) == ("00000-vaegan-mnist", "00001-gan-a-b-c")
    (tmp_path / "a" / "runs" / "123456-old").mkdir()
    assert create_run(tmp_path / "a" / "runs", "x").folder.name == "123457-x"
    assert (first.folder / "mine").exists()


def test_runs_started_at_once_have_their_own_folders(tmp_path):
    runs, barrier = [], threading.Barrier(8)

    def start():
        barrier.wait()
        runs.append(create_run(tmp_path, "gan"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(run.folder.name for run in runs) == [f"{number:05d}-gan" for number in range(8)]


def test_a_run_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot make a run folder in .*file: (File exists|Not a directory)"):
        create_run(tmp_path / "file", "gan")


def test_what_is_no_run_is_refused_and_a_run_inside_is_suggested(tmp_path, run):
    with pytest.raises(CheckpointError, match="there is no run .*nowhere"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is no run folder, one holds config.yaml and checkpoints$"):
        open_run(tmp_path)
    with pytest.raises(CheckpointError, match=f"is no run folder, .* did you mean {run.folder}"):
        open_run(run.folder.parent)


@pytest.mark.parametrize("text", ["", "a: [", "a: 1", "\xff"])
def test_a_damaged_config_is_a_sentence(tmp_path, text):
    made = create_run(tmp_path, "gan")
    made.config_file.write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckpointError, match="config.yaml") as caught:
        open_run(made.folder).read_config()
    assert "\n" not in str(caught.value)


def test_one_process_trains_a_run_at_a_time(run):
    with open_run(run.folder).locked():
        with pytest.raises(CheckpointError, match="is being trained by another process"):
            with open_run(run.folder).locked():
                pass
    with run.locked():
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_data_worker_that_outlives_its_trainer_holds_no_lock(run):
    (hear, speak), (wait, begun) = os.pipe(), os.pipe()
    with open_run(run.folder).locked():
        child = os.fork()
        if child == 0:
            os.close(speak)
            os.write(begun, b".")
            os.read(hear, 1)  # until the parent has closed its end
            os._exit(0)
        os.read(wait, 1)
    with open_run(run.folder).locked():
        pass
    os.close(speak)
    os.waitpid(child, 0)
    for end in (hear, wait, begun):
        os.close(end)


def test_half_written_files_are_swept(tmp_path):
    made = create_run(tmp_path, "gan")
    leftovers = [made.folder / ".config.yaml.12.tmp", made.checkpoints / ".step-00000002.pt.12.tmp"]
    for leftover in leftovers:
        leftover.touch()
    made.sweep()
    assert not any(leftover.exists() for leftover in leftovers)


def test_the_model_of_a_run_is_the_averaged_one_in_its_model_folder(run):
    kept = VAEGAN.from_pretrained(run.model).state_dict()
    for model in (load_model(run.folder), load_model(run.model)):
        assert not model.training
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_no_model_is_a_sentence(tmp_path):
    with pytest.raises(CheckpointError, match="there is no run"):
        load_model(tmp_path / "nowhere")


def test_sources_hold_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_source("mnist") == "mnist"
    assert resolve_source("images") == str(tmp_path / "images")
