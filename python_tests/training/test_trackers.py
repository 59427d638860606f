"""Trackers: the same scalars, grids and configuration in each library's own store; none of them ends a training."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from tiny import Interrupting, make_config, make_dataset, make_model

from sdgan_ext._errors import ConfigError, DivergedError
from sdgan_ext.cli import main
from sdgan_ext.training import trackers
from sdgan_ext.training.trackers.ids import kept_id
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

STORES = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "WANDB_MODE", "WANDB_PROJECT")


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    for name in STORES:
        monkeypatch.delenv(name, raising=False)


def train(out, *names, steps=4, **changes):
    config = make_config(tracker=names, steps=steps, **changes)
    return Trainer(make_model(), config, out=out, progress=False).fit(make_dataset())


def resume(run, **changes):
    return Trainer.resume(run.folder, progress=False, **changes).fit(make_dataset())


def logged(run):
    """{name: [(step, value)]} of log.jsonl."""
    history = {}
    for line in run.log_file.read_text().splitlines():
        record = json.loads(line)
        for name, value in record.items():
            if "/" in name and value is not None:
                history.setdefault(name, []).append((record["step"], value))
    return history


# -------------------------------------------------------------------------------------------------------- MLflow
@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A folder of runs that shares one store, which takes seconds to make."""
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    return tmp_path_factory.mktemp("runs ü#1")


@pytest.fixture(scope="module")
def client(store):
    import mlflow

    return mlflow.MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")


@pytest.fixture(scope="module")
def resumed(store):
    """A run of 4 steps, resumed to 8."""
    with pytest.MonkeyPatch.context() as patch:
        for name in STORES:
            patch.delenv(name, raising=False)
        run = train(store, "mlflow", evaluate_every=4, validation_images=4, evaluate_images=4)
        return resume(run, steps=8)


def test_mlflow_has_what_the_log_has_under_one_run(resumed, client, store):
    (entry,) = client.search_runs([client.get_experiment_by_name("sdgan_ext").experiment_id])
    identifier = entry.info.run_id
    assert kept_id(resumed.folder, "mlflow") == identifier
    assert entry.info.run_name == resumed.folder.name and entry.info.status == "FINISHED"
    found = {
        name: [(point.step, point.value) for point in client.get_metric_history(identifier, name)]
        for name in entry.data.metrics
    }
    assert len(found.pop("timing/s_per_kimg")) == 4
    assert found == logged(resumed)
    assert [step for step, _ in found["encoder_generator/kl"]] == [2, 4, 6, 8]
    assert [step for step, _ in found["evaluation/neg_elbo"]] == [4, 8]


def test_mlflow_has_the_configuration_and_the_grids(resumed, client):
    identifier = kept_id(resumed.folder, "mlflow")
    params = client.get_run(identifier).data.params
    assert (params["train.batch_size"], params["model.latent_dim"], params["data.name"]) == ("4", "4", "dots")
    assert params["train.steps"] == "4"  # a parameter never changes; the file is that of the last start
    path = client.download_artifacts(identifier, "config.yaml")
    assert open(path).read() == resumed.config_file.read_text()
    images = [re.split(r"[/+]", entry.path)[1:4] for entry in client.list_artifacts(identifier, "images")]
    wanted = [[name, "step", step] for name in ("samples", "reconstructions") for step in ("4", "8")]
    assert [image for image in wanted if image not in images] == []


def test_a_run_that_mlflow_has_lost_becomes_a_new_one(store, client):
    run = train(store, "mlflow")
    first = kept_id(run.folder, "mlflow")
    client.delete_run(first)
    resume(run, steps=6)
    second = kept_id(run.folder, "mlflow")
    assert second != first and client.get_run(second).info.status == "FINISHED"


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_mlflow_knows_how_a_run_ended(store, client, status):
    config = make_config(tracker=("mlflow",), steps=200, lr_encoder=1e30 if status == "FAILED" else 1e-3)
    trainer = Trainer(make_model(), config, out=store, progress=False)
    if status == "FAILED":
        with pytest.raises(DivergedError):
            trainer.fit(make_dataset())
    else:
        trainer.fit(Interrupting(signal.SIGTERM))
    assert client.get_run(kept_id(trainer.run.folder, "mlflow")).info.status == status


def test_runs_that_start_at_once_share_a_new_store(tmp_path):
    """MLflow by itself makes the tables of a store without a lock: all but one fail."""
    mlflow = pytest.importorskip("mlflow")
    program = (
        "from test_trackers import train; import sys, warnings; warnings.simplefilter('error', UserWarning); "
        "train(sys.argv[1], 'mlflow')"
    )
    command = [sys.executable, "-c", program, tmp_path]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), *sys.path])}
    processes = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ends = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ends
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert len(client.search_runs([client.get_experiment_by_name("sdgan_ext").experiment_id])) == 3


# ---------------------------------------------------------------------------------------------- Weights & Biases
def records_of(folder):
    """The records of all processes, oldest first: LevelDB's log format, of protobuf messages, after a header of W&B."""
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, place, message = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 2**15 - place % 2**15 < 7:  # a block's end, too short for a header
                place += 2**15 - place % 2**15
                continue
            length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
            message += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):  # a whole message, or the last part of one
                yield Record.FromString(message)
                message = b""


def test_wandb_has_what_the_log_has_under_one_id(tmp_path):
    pytest.importorskip("wandb")
    run = train(tmp_path, "wandb")
    resume(run, steps=8)
    records = list(records_of(run.folder))
    starts = [record.run for record in records if record.HasField("run")]
    assert {start.run_id for start in starts} == {kept_id(run.folder, "wandb")} and len(starts) >= 2
    assert {(start.project, start.display_name) for start in starts} == {("sdgan_ext", run.folder.name)}
    configs = {}
    for record in records:
        updates = [*record.config.update, *record.run.config.update]
        configs |= {update.key: json.loads(update.value_json) for update in updates if update.key}
    assert configs["train"]["batch_size"] == 4 and configs["train"]["steps"] == 8
    history, pictures = {}, set()
    for record in records:
        if record.HasField("history"):
            step = record.history.step.num
            for item in record.history.item:
                name, *part = item.nested_key or [item.key]
                if part == ["path"]:
                    pictures.add((name, step))
                    assert list(run.folder.glob(f"wandb/*/files/{json.loads(item.value_json)}"))
                elif "/" in name:
                    history.setdefault(name, []).append((step, json.loads(item.value_json)))
    assert len(history.pop("timing/s_per_kimg")) == 4
    assert history == logged(run)
    assert pictures == {(name, step) for name in ("samples", "reconstructions") for step in (4, 8)}
    assert [record.exit.exit_code for record in records if record.HasField("exit")] == [0, 0]


# ------------------------------------------------------------------------------------------ what ends no training
class Tracker:
    """One that notes what it gets and fails in ``failing``."""

    def __init__(self, failing):
        self.failing, self.got = failing, []

    def open_tracker(self, folder, step, config):
        self._take("open", step)
        return self

    def scalars(self, step, values):
        self._take("scalars", step)

    def image(self, step, name, grid):
        self._take("image", step)

    def end(self, outcome):
        self._take("end", outcome)

    def _take(self, what, value):
        if what == self.failing:
            raise OSError(28, "No space left on device")
        self.got.append((what, value))


@pytest.mark.parametrize("failing", ["open", "scalars", "image", "end"])
def test_a_tracker_that_fails_is_left_with_one_warning(tmp_path, monkeypatch, recwarn, failing):
    bad, good = Tracker(failing), Tracker(None)
    for name, tracker in (("mlflow", bad), ("wandb", good)):
        monkeypatch.setitem(sys.modules, f"sdgan_ext.training.trackers.{name}", tracker)
    monkeypatch.setattr(trackers, "TRACKERS", dict.fromkeys(trackers.TRACKERS, ()))
    run = train(tmp_path / "runs", "mlflow", "wandb")
    (warning,) = [str(entry.message) for entry in recwarn if "tracker" in str(entry.message)]
    assert warning == "the run goes on without the tracker mlflow: [Errno 28] No space left on device"
    images = [("image", 4)] * 2
    assert good.got == [("open", 0), ("scalars", 2), ("scalars", 4), *images, ("end", "finished")]
    assert failing not in [what for what, _ in bad.got]
    assert len(run.log_file.read_text().splitlines()) == 2
    other = train(tmp_path / "other", "tensorboard")
    assert (run.model / "model.safetensors").read_bytes() == (other.model / "model.safetensors").read_bytes()


@pytest.mark.parametrize("where", ["a server that is not there", "a file that is none", "100%20"])
def test_a_store_that_cannot_be_used_ends_no_training(tmp_path, monkeypatch, where):
    pytest.importorskip("mlflow")
    out = tmp_path / where
    out.mkdir()
    words = "file is not a database"
    if "server" in where:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        words = ".*127.0.0.1"
    elif "file" in where:
        (out / "mlflow.db").write_text("a database has another beginning")
    else:
        words = ".*100%20 has a %"
    with pytest.warns(UserWarning, match=f"without the tracker mlflow: {words}"):
        run = train(out, "mlflow")
    assert run.step == 4 and (run.model / "model.safetensors").exists()


@pytest.mark.parametrize("content", [b"", b"../../etc\n", b"x" * 300, b"\xff\n", None], ids=repr)
def test_what_is_no_id_is_not_taken_for_one(tmp_path, content):
    if content is None:
        (tmp_path / "mlflow.id").mkdir()
    else:
        (tmp_path / "mlflow.id").write_bytes(content)
    assert kept_id(tmp_path, "mlflow") is None


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_refused_before_the_run(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf"tracker is '{name}', but {name} .*`pip install 'sdgan_ext\[{name}\]'`"):
        train(tmp_path / "runs", name)
    assert not (tmp_path / "runs").exists()


def test_the_command_line_takes_several_and_names_the_nearest(tmp_path, monkeypatch, capsys):
    bad = Tracker(None)
    monkeypatch.setitem(sys.modules, "sdgan_ext.training.trackers.mlflow", bad)
    monkeypatch.setattr(trackers, "TRACKERS", dict.fromkeys(trackers.TRACKERS, ()))
    flags = ["train", "--data", "digits", "--steps", "1", "--batch-size", "4", "--out", str(tmp_path)]
    assert main([*flags, "--tracker", "tensorboard,mlflow"]) == 0
    (run,) = tmp_path.iterdir()
    assert list(run.glob("events.out.tfevents.*")) and bad.got[-1] == ("end", "finished")
    assert main([*flags, "--tracker", "mlfow"]) == 2
    assert "did you mean 'mlflow'?" in capsys.readouterr().err
    assert main(["train", "--resume", str(run), "--steps", "2", "--tracker", "mlflow"]) == 0
    assert len(list(run.glob("events.out.tfevents.*"))) == 1 and bad.got[-1] == ("end", "finished")
