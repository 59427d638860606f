"""Run folders that are damaged, or made to do harm: one sentence, nothing lost, nothing written through a link."""

import copy
import errno
import io
import os
import pickle
import re
import shutil
import warnings
import zipfile

import pytest
import torch
from tiny import make_config, make_dataset, make_model

from sdgan_ext import _console
from sdgan_ext._errors import CheckpointError, ConfigError, SdganError
from sdgan_ext._yaml import MOST_BYTES, read_yaml, to_yaml
from sdgan_ext.training import runs
from sdgan_ext.training.runs import create_run, load_model, open_run
from sdgan_ext.training.state import list_checkpoints, load_checkpoint
from sdgan_ext.training.trainer import Trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trainer(make_model(), make_config(), out=tmp_path_factory.mktemp("runs"), progress=False).fit(make_dataset())


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained.folder, tmp_path / "run")
    return open_run(tmp_path / "run")


def go_on(run, steps=8):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer.resume(run.folder, steps=steps, progress=False).fit(make_dataset())


def newest(run):
    return list_checkpoints(run.checkpoints)[-1]


# ------------------------------------------------------------------------------------------------ links and FIFOs
def test_a_lock_that_is_a_link_is_refused_and_what_it_points_to_stays(run, tmp_path):
    victim = tmp_path / "thesis.tex"
    victim.write_bytes(b"mine")
    (run.folder / ".lock").unlink()
    (run.folder / ".lock").symlink_to(victim)
    with pytest.raises(CheckpointError, match=r"cannot write .*\.lock: it is a symbolic link"):
        go_on(run)
    assert victim.read_bytes() == b"mine"


def test_what_cannot_be_printed_is_written_through_no_link(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "console.log").symlink_to(victim)
    console = _console.Console()
    console.keep_in(tmp_path / "console.log")
    console.keep("a line\n")
    assert victim.read_bytes() == b"mine"
    (tmp_path / "console.log").unlink()
    console.keep("a line\n")
    console.keep("and one more\n")
    assert (tmp_path / "console.log").read_text() == "a line\nand one more\n"


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_a_lock_that_is_no_regular_file_is_refused(run, kind):
    (run.folder / ".lock").unlink()
    getattr(os, {"fifo": "mkfifo", "folder": "mkdir"}[kind])(run.folder / ".lock")
    with pytest.raises(CheckpointError, match=r"cannot write .*\.lock: (it is no regular file|Is a directory)"):
        go_on(run)


def test_a_lock_keeps_what_it_holds(run):
    (run.folder / ".lock").write_bytes(b"of another program")
    with run.locked():
        pass
    assert (run.folder / ".lock").read_bytes() == b"of another program"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_trains_and_says_so(run, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(runs.fcntl, "flock", refuse)
    with pytest.warns(UserWarning, match=rf"\.lock cannot be locked \({os.strerror(number)}\): nothing keeps another"):
        assert Trainer.resume(run.folder, steps=8, progress=False).fit(make_dataset()).step == 8


@pytest.mark.parametrize("name", ["checkpoints", "model", "samples"])
def test_a_folder_may_be_a_link_to_one_elsewhere(run, tmp_path, name):
    elsewhere = tmp_path / "big disk"
    (run.folder / name).rename(elsewhere)
    (run.folder / name).symlink_to(elsewhere)
    leftover, other = elsewhere / f".step-00000007.pt.{2**30}.tmp", elsewhere / ".notes.tmp"
    leftover.touch()
    other.touch()
    assert go_on(run).step == 8
    assert (run.folder / name).is_symlink() and not leftover.exists() and other.exists()


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "model/model.safetensors", "model/config.json"])
def test_a_file_that_is_a_link_is_replaced_and_what_it_points_to_stays(run, tmp_path, name):
    victim = tmp_path / "elsewhere"
    (run.folder / name).rename(victim)
    (run.folder / name).symlink_to(victim)
    before = victim.read_bytes()
    assert go_on(run).step == 8
    assert victim.read_bytes() == before and not (run.folder / name).is_symlink()


@pytest.mark.parametrize("name", ["checkpoints/step-{:08d}.pt", "config.yaml", "model/model.safetensors"])
def test_a_temporary_name_that_is_a_link_is_not_followed(run, tmp_path, name):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    path = run.folder / name.format(8)
    (path.parent / f".{path.name}.{os.getpid()}.tmp").symlink_to(victim)
    assert go_on(run).step == 8
    assert victim.read_bytes() == b"mine" and path.is_file() and not path.is_symlink()


@pytest.mark.parametrize("name", ["config.yaml", "log.jsonl", "checkpoints/step-00000006.pt"])
def test_a_fifo_blocks_nothing(run, name):
    path = run.folder / name
    path.unlink()
    os.mkfifo(path)
    if name.startswith("checkpoints"):  # the one before is taken
        with pytest.warns(UserWarning, match="skipped: cannot read the checkpoint .*: it is no regular file"):
            trainer = Trainer.resume(run.folder, steps=8, progress=False)
        assert trainer.run.step == 4
        with pytest.raises(CheckpointError, match="cannot write .*step-00000006.pt: it is no regular file"):
            trainer.fit(make_dataset())
    else:
        with pytest.raises(CheckpointError, match="no run folder|log.jsonl: it is no regular file"):
            go_on(run)


# ------------------------------------------------------------------------------------------------------ log.jsonl
@pytest.mark.parametrize(
    "line",
    [
        b'{"step": "4"}',
        b'{"step": [4]}',
        b'{"step": null}',
        b'{"step": {"step": 1}}',
        b'{"step": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b"[4]",
        b"4",
        b"\xff\xfe",
        b"\x00" * 1000,
        b'{"step": 4, "x": "' + b"x" * 2**21 + b'"}',
        b"",
    ],
    ids=["text", "list", "null", "mapping", "digits", "deep", "array", "number", "bytes", "zeros", "long", "empty"],
)
def test_a_line_of_the_log_that_is_none_is_left_out(run, line):
    good = run.log_file.read_bytes()
    run.log_file.write_bytes(line + b"\n" + good + line)
    go_on(run)
    assert run.log_file.read_bytes().startswith(good)


# -------------------------------------------------------------------------------------------------------- the .pt
def drop(*keys):
    def spoil(state):
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return spoil


def put(value, *keys):
    def spoil(state):
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return spoil


SHORT = torch.zeros(16, dtype=torch.uint8)
ENTRIES = ["step", "seconds", "config", "model", "ema", "optimizers", "generator", "torch_generator"]
DAMAGE = {
    **{f"no {name}": drop(name) for name in ENTRIES},
    **{f"{name} is text": put("text", name) for name in (*ENTRIES, "best", "frozen")},
    **{f"{name} is a number": put(-1, name) for name in (*ENTRIES, "best", "frozen")},
    **{f"{name} has numbers": put({1: 2}, name) for name in ("model", "ema", "optimizers", "best", "config")},
    "step is true": put(True, "step"),
    "step is a tensor": put(torch.tensor(6), "step"),
    "seconds are NaN": put(float("nan"), "seconds"),
    "a weight is a list": put([1.0], "model", "generator.dense.bias"),
    "a short generator state": put(SHORT, "generator"),
    "a short state of torch's": put(SHORT, "torch_generator"),
    "a generator state of floats": put(torch.zeros(5056), "generator"),
    "a state of other numbers": put(torch.full((5056,), 255, dtype=torch.uint8), "torch_generator"),
    "no data": drop("config", "data"),
    "no name of the data": drop("config", "data", "name"),
    "images is text": put("16", "config", "data", "images"),
    "best lacks its value": put({"metric": "neg_elbo", "step": 1}, "best"),
    "frozen has numbers": put([1, 2], "frozen"),
    "no state of Adam's": drop("optimizers", "generator", "state"),
    "Adam is a list": put([], "optimizers", "generator"),
}


def spoil_newest(run, spoil):
    """Writes the newest checkpoint again, whole and with valid CRCs, after ``spoil``."""
    path = newest(run)
    state = load_checkpoint(path)
    spoil(state)
    torch.save(state, path)
    return path


@pytest.mark.parametrize("spoil", DAMAGE.values(), ids=DAMAGE)
def test_a_checkpoint_of_another_structure_is_damage_and_the_older_one_is_taken(run, spoil):
    path = spoil_newest(run, spoil)
    for take in (lambda: Trainer.resume(run.folder, progress=False), lambda: load_model(run.folder)):
        with pytest.warns(UserWarning, match=rf"skipped: the checkpoint .*{path.name} is damaged: \w+ is .*it must be"):
            take()
    assert Trainer.resume(run.folder, steps=4, progress=False).run.step == 4


MISFITS = {
    "an optimizer too few": (drop("optimizers", "encoder"), "has optimizers of discriminator, generator; this .* has"),
    "an unknown optimizer": (put({"state": {}}, "optimizers", "\x1b[2J"), r"has optimizers of \\x1b\[2J, discrim"),
    "a parameter too many": (put({}, "optimizers", "generator", "state", 99), "does not fit parameter 99"),
    "a parameter by name": (put({}, "optimizers", "generator", "state", "0"), "does not fit parameter '0'"),
    "no moments": (put({}, "optimizers", "generator", "state", 0), "does not fit parameter 0"),
    "moments of another shape": (
        put(torch.zeros(2), "optimizers", "generator", "state", 0, "exp_avg"),
        "the state of the generator's optimizer does not fit parameter 0",
    ),
    "moments of a terabyte": (
        put(torch.zeros(1).expand(2**40), "optimizers", "generator", "state", 0, "exp_avg"),
        "the state of the generator's optimizer does not fit parameter 0",
    ),
    "a negative square": (
        lambda state: state["optimizers"]["encoder"]["state"][1]["exp_avg_sq"].fill_(-1),
        "the state of the encoder's optimizer does not fit parameter 1",
    ),
    "a moment of NaN": (
        lambda state: state["optimizers"]["encoder"]["state"][1]["exp_avg"].fill_(float("nan")),
        "the state of the encoder's optimizer does not fit parameter 1",
    ),
    "a weight of NaN": (
        lambda state: state["model"]["generator.dense.bias"].fill_(float("nan")),
        "generator.dense.bias holds NaN or infinity",
    ),
    "an average of infinity": (
        lambda state: state["ema"]["module.generator.dense.bias"].fill_(float("inf")),
        "module.generator.dense.bias holds NaN or infinity",
    ),
    "integers": (
        lambda state: state["model"].update({"generator.dense.bias": state["model"]["generator.dense.bias"].int()}),
        "generator.dense.bias is of torch.int32, the model's of torch.float32",
    ),
    "no average": (drop("ema", "n_averaged"), "it has no n_averaged"),
    "a field that is none": (put(1, "config", "train", "\x1b"), r"has no field '\\x1b'"),
    "a model that is none": (put(10**9, "config", "model", "residual_blocks"), "residual_blocks is 1000000000"),
}


@pytest.mark.parametrize(("spoil", "words"), MISFITS.values(), ids=MISFITS)
def test_a_checkpoint_that_does_not_fit_changes_nothing(run, spoil, words):
    spoil_newest(run, spoil)
    model = make_model(seed=7)
    before = copy.deepcopy(model.state_dict())
    for options in ({}, {"model": model}):
        with pytest.raises(SdganError, match=words) as caught:
            Trainer.resume(run.folder, progress=False, **options)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_configuration_that_asks_for_more_than_was_saved_takes_no_memory(run):
    """Ten million classes would be 3 GB."""
    spoil_newest(run, put(10**7, "config", "model", "classes"))
    config = run.read_config()
    run.write_config({**config, "model": {**config["model"], "classes": 10**7}})
    for take in (lambda: Trainer.resume(run.folder, progress=False), lambda: load_model(run.folder)):
        with pytest.raises(CheckpointError, match="of another architecture than the model: it has no .*embedding"):
            take()


def test_hyperparameters_are_those_of_the_configuration(run):
    spoil_newest(run, lambda state: state["optimizers"]["generator"]["param_groups"][0].update(betas=(9, 9), lr="x"))
    whole = Trainer.resume(run.folder, steps=8, progress=False)
    assert whole.optimizers["generator"].param_groups[0]["betas"] == whole.config.betas
    assert whole.fit(make_dataset()).step == 8


class Raises:
    """Unpickles as a call that torch allows and that raises an error."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def repacked(path, compression=zipfile.ZIP_STORED, pickled=None):
    """The zip of a checkpoint written anew, with valid CRCs."""
    old = io.BytesIO(path.read_bytes())
    with zipfile.ZipFile(old) as source, zipfile.ZipFile(path, "w", compression) as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(entry.filename, pickled if pickled and entry.filename.endswith("data.pkl") else content)


@pytest.mark.parametrize(
    "pickled",
    [
        pickle.dumps(Raises(bytearray, (-1,)), protocol=2),
        pickle.dumps(Raises(torch.Size, ("x",)), protocol=2),
        pickle.dumps(Raises(complex, ("x",)), protocol=2),
        b"\x80\x02]" + b"q\x00" * 10 + b"(" * 50_000 + b".",
        b"\x80\x02I" + b"9" * 5000 + b"\n.",
        b"\x80\x02h\x05.",
        b"\x80\x02N.",
        b".",
        b"garbage",
    ],
    ids=["bytearray", "size", "complex", "marks", "digits", "memo", "none", "empty", "garbage"],
)
def test_a_pickle_with_a_valid_crc_and_wrong_content(run, pickled):
    path = newest(run)
    repacked(path, pickled=pickled)
    with pytest.raises(CheckpointError, match="is damaged|is no checkpoint of sdgan_ext"):
        load_checkpoint(path)


def test_an_entry_under_another_ones_name(run):
    """Both have their CRCs; torch would take one for the other."""
    path = newest(run)
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if re.search(r"/data/1\d$", name)]
    one, other = (name.encode() for name in names[:2])
    content = path.read_bytes()
    for name, replacement in ((one, other), (other, one)):
        at = content.rindex(name)  # in the archive's directory
        changed = content[:at] + replacement + content[at + len(name) :]
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="is damaged"):
            load_checkpoint(path)


def test_an_entry_that_says_it_is_a_folder(run):
    """Its CRC is right; torch would read nothing and take what its memory held before for weights."""
    path = newest(run)
    with zipfile.ZipFile(path) as archive:
        entry = next(entry for entry in archive.infolist() if entry.filename.endswith("/data/0"))
    content = bytearray(path.read_bytes())
    content[content.rindex(entry.filename.encode()) - 8] |= 0x10  # the external attributes in the archive's directory
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.getinfo(entry.filename).external_attr == 0x10
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path)


def test_a_compressed_checkpoint_is_not_unpacked(run):
    path = newest(run)
    repacked(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_checkpoint(path)


# ---------------------------------------------------------------------------------------------------- config.yaml
@pytest.mark.parametrize(
    ("text", "words"),
    {
        "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\n", "an alias, \\*a, is not read"),
        "deep": ("[" * 20_000, "more than 20 levels deep"),
        "digits": (f"model: {'9' * 5000}", "Exceeds the limit"),
        "boolean": ("model: !!bool x", "cannot read .*config.yaml: 'x'"),
        "timestamp": ("model: !!timestamp x", "cannot read .*config.yaml: "),
        "object": ("model: !!python/object/apply:os.mkdir [x]", "could not determine a constructor"),
        "large": ("#" * (MOST_BYTES + 1), "it has more than 65,536 bytes"),
        "escape": ("\x1b[2J: 1", "special characters are not allowed"),
        "lists": ("model: []\ntrain: []\ndata: []", "is not of a run: it must hold model, train and data"),
        "text": ("model: a\ntrain: b\ndata: c", "is not of a run: it must hold model, train and data"),
    }.values(),
)
def test_a_hostile_config_is_a_sentence(run, text, words):
    run.config_file.write_text(text)
    with pytest.raises(CheckpointError, match=words) as caught:
        Trainer.resume(run.folder, progress=False)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_a_config_of_another_model_is_shown_in_short(run):
    config = run.read_config()
    run.write_config({**config, "model": {**config["model"], "encoder_channels": [4] * 10_000}})
    with pytest.raises(SdganError, match="encoder_channels") as caught:
        Trainer.resume(run.folder, progress=False)
    assert len(str(caught.value)) < 1000


def test_yaml_is_read_as_it_was_written(tmp_path):
    same = [1e-05, "1e-5"]
    values = {"a": "1e3", "b": "2024-01-01", "c": same, "d": same, "e": "\x1b\n", "f": "é", "g": [0.5, None, True, 3]}
    (tmp_path / "config.yaml").write_text(to_yaml(values))
    assert read_yaml(tmp_path / "config.yaml") == values


# --------------------------------------------------------------------------------------------------- foreign names
def test_names_are_escaped_in_errors(tmp_path):
    folder = tmp_path / "run\x1b[2J\n\u202egnp"
    folder.mkdir()
    for make in (lambda: open_run(folder), lambda: open_run(folder / "no"), lambda: load_model(folder)):
        with pytest.raises(SdganError, match=re.escape(r"run\x1b[2J\n\u202egnp")) as caught:
            make()
        assert str(caught.value).isprintable()


# ----------------------------------------------------------------------------------------------------------- homes
@pytest.fixture
def no_home(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a uid without an entry


def test_without_a_home_folder_a_path_in_it_is_a_sentence(no_home, tmp_path):
    for make in (lambda: open_run("~/run"), lambda: create_run("~/runs", "gan"), lambda: load_model("~other/run")):
        with pytest.raises(
            ConfigError, match=r"^~(other)?/runs?: ~(other)? stands for a home folder, and there is none"
        ):
            make()
    assert not list(tmp_path.iterdir())
    (tmp_path / "~photos").mkdir()
    assert create_run("~photos", "gan").folder.parent.resolve() == tmp_path / "~photos"


def test_a_path_with_a_zero_byte_is_a_sentence():
    for make in (open_run, load_model, lambda path: create_run(path, "gan")):
        with pytest.raises(ConfigError, match=r"^a\\x00b is no path: it holds a zero byte$"):
            make("a\0b")
