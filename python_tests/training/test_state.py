"""Checkpoints: complete or absent, verified when read, never trusted with code."""

import builtins
import errno
import json
import os

import pytest
import torch

from sdgan_ext import _files
from sdgan_ext._errors import CheckpointError
from sdgan_ext._files import to_json
from sdgan_ext.training import state as state_module
from sdgan_ext.training.state import FORMAT, list_checkpoints, load_checkpoint, load_newest, save_checkpoint


def make_state(step, **more):
    torch.manual_seed(step)
    return {"step": step, "model": {"weight": torch.randn(50, 40)}, "betas": (0.5, 0.9), "config": {"a": [1]}, **more}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_back(tmp_path):
    network = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(network.parameters(), fused=True)
    network(torch.ones(1, 3)).sum().backward()
    adam.step()
    path = save_checkpoint(tmp_path, make_state(7, optimizer=adam.state_dict()))
    state = load_checkpoint(path)
    assert path.name == "step-00000007.pt"
    assert state["step"] == 7 and state["betas"] == (0.5, 0.9) and state["format"] == FORMAT
    torch.testing.assert_close(state["model"]["weight"], make_state(7)["model"]["weight"], rtol=0, atol=0)
    torch.testing.assert_close(state["optimizer"]["state"], adam.state_dict()["state"], rtol=0, atol=0)


def test_the_last_two_are_kept(tmp_path):
    for step in (0, 5, 10, 200_000_000):
        save_checkpoint(tmp_path, make_state(step))
    assert names(tmp_path) == ["step-00000010.pt", "step-200000000.pt"]
    assert [path.name for path in list_checkpoints(tmp_path)] == names(tmp_path)


def test_a_damaged_later_one_goes_when_training_went_on_from_an_older_one(tmp_path):
    save_checkpoint(tmp_path, make_state(1))
    (tmp_path / "step-00000009.pt").write_bytes(b"half")
    save_checkpoint(tmp_path, make_state(2))
    assert names(tmp_path) == ["step-00000001.pt", "step-00000002.pt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_the_older_ones_stay_until_the_newer_is_complete(tmp_path, monkeypatch, call):
    for step in (1, 2):
        save_checkpoint(tmp_path, make_state(step))

    def fail(*_):
        assert names(tmp_path)[-2:] == ["step-00000001.pt", "step-00000002.pt"]
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(_files.os, call, fail)
    with pytest.raises(CheckpointError, match=r"step-00000003\.pt: Input/output error; .*step-00000002\.pt"):
        save_checkpoint(tmp_path, make_state(3))
    assert names(tmp_path) == ["step-00000001.pt", "step-00000002.pt"]


class FullDisk:
    """A file on a disk with space for ``space`` more bytes."""

    def __init__(self, file, space):
        self.file, self.space = file, space

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.file.write(bytes(data)[: self.space])
        self.space -= len(data)
        if self.space < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("space", [0, 1000])
def test_a_full_disk_leaves_the_old_checkpoint_and_no_half_one(tmp_path, monkeypatch, space):
    save_checkpoint(tmp_path, make_state(1))
    with monkeypatch.context() as patch:
        patch.setattr(_files, "open", lambda *args: FullDisk(builtins.open(*args), space), raising=False)
        with pytest.raises(CheckpointError, match=r"No space left on device; .* is .*step-00000001\.pt") as caught:
            save_checkpoint(tmp_path, make_state(2))
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["step-00000001.pt"]
    assert load_newest(tmp_path, pytest.fail)[1]["step"] == 1


def test_truncated_anywhere_is_a_sentence_and_the_older_one_is_taken(tmp_path):
    save_checkpoint(tmp_path, make_state(1))
    whole = save_checkpoint(tmp_path, make_state(2)).read_bytes()
    end = len(whole)
    for length in [0, 1, 3, 30, 64, end // 3, end // 2, end - 300, end - 22, end - 1]:
        (tmp_path / "step-00000002.pt").write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="is damaged: it is truncated"):
            load_checkpoint(tmp_path / "step-00000002.pt")
        skipped = []
        path, state = load_newest(tmp_path, skipped.append)
        assert (path.name, state["step"]) == ("step-00000001.pt", 1)
        assert len(skipped) == 1 and "step-00000002.pt is damaged" in skipped[0]


def test_a_changed_byte_is_found_or_does_not_matter(tmp_path):
    path = save_checkpoint(tmp_path, make_state(1))
    whole, weight, found = path.read_bytes(), make_state(1)["model"]["weight"], 0
    for position in range(5, len(whole), len(whole) // 150):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            assert torch.equal(load_checkpoint(path)["model"]["weight"], weight)
        except CheckpointError:
            found += 1
    assert found > 100  # the weights are most of the file


def test_nothing_to_go_on_from(tmp_path):
    with pytest.raises(CheckpointError, match="it holds no checkpoint"):
        load_newest(tmp_path, pytest.fail)
    (tmp_path / "step-00000001.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its checkpoints is complete"):
        load_newest(tmp_path, lambda line: None)
    with pytest.raises(CheckpointError, match=r"cannot read the checkpoint .*: No such file"):
        load_checkpoint(tmp_path / "step-00000002.pt")


def test_a_newer_format_is_refused_and_no_older_one_taken(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, make_state(1))
    monkeypatch.setattr(state_module, "FORMAT", FORMAT + 1)
    save_checkpoint(tmp_path, make_state(2))
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"step-00000002\.pt has format 2 of a newer sdgan_ext"):
        load_newest(tmp_path, pytest.fail)


class Evil:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_other_files_of_torch_are_refused_and_run_no_code(tmp_path):
    torch.save([1, 2], tmp_path / "step-00000001.pt")
    torch.save({"format": 1, "model": Evil(str(tmp_path / "evil"))}, tmp_path / "step-00000002.pt")
    with pytest.raises(CheckpointError, match="is no checkpoint of sdgan_ext"):
        load_checkpoint(tmp_path / "step-00000001.pt")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(tmp_path / "step-00000002.pt")
    assert not (tmp_path / "evil").exists()


def test_no_json_has_nan():
    nan, infinity = float("nan"), float("inf")
    text = to_json({"a": nan, "b": [1.5, infinity, {"c": (-infinity, None, "NaN", 3)}]}, indent=1)
    assert json.loads(text) == {"a": None, "b": [1.5, None, {"c": [None, None, "NaN", 3]}]}
    assert "Infinity" not in text and text.count("NaN") == 1
